"""What a DAG author asks for: one entry's request, and the defaults of its batch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_raif.domain.errors import InvalidRequestError


class EntryRequest(msgspec.Struct, kw_only=True):
    """One request of a batch, in text form (``prompt`` or ``messages``) or as a native ``body``.

    Exactly one of ``prompt``, ``messages`` and ``body`` is set; for embeddings ``prompt`` is the text to embed.
    Fields left ``None`` fall back to the batch's :class:`RequestDefaults`.
    """

    #: Unique within the batch; any text. ``None``: the row's position.
    custom_id: str | None = None
    prompt: str | None = None
    #: ``[{"role": "user" | "assistant" | "system", "content": text}, ...]``
    messages: list[dict[str, Any]] | None = None
    #: Complete native request body, passed through (with ``model`` filled in where the provider wants it there).
    body: dict[str, Any] | None = None
    system: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    #: Merged into the native body last (dicts are merged deeply).
    params: dict[str, Any] | None = None
    #: The user's own columns; they travel to the result row.
    columns: dict[str, Any] = msgspec.field(default_factory=dict)
    #: JSON of what reads the answer in the form that a codec wrote the body of; ``None``: the body is the user's own.
    reading: msgspec.Raw | None = None


#: Where the spool keeps a request's :attr:`~EntryRequest.reading`, beside the user's own columns.
READING = "raif:reading"
#: Where the result row of such a request has the answer in the codec's own form.
RESPONSE = "model_response"
#: Fields of a result row; a user's own column cannot have one of these names.
RESULT_FIELDS = frozenset(
    ("custom_id", "status", "reason", "output", "raw_output", "tool_calls", "error", "model", "finish_reason", "usage",
     "cost", RESPONSE)
)  # fmt: skip
_REQUEST_FIELDS = frozenset(EntryRequest.__struct_fields__) - {"columns", "reading"}
_PROMPT_ALONE = ({"prompt"}, {"custom_id", "prompt"})
_NATIVE_MARKS = ("messages", "input", "contents", "content")


def request_of(row: Any, index: int) -> EntryRequest:
    """Read one row of a DAG author: a prompt, a mapping, or an :class:`EntryRequest`.

    A mapping's ``custom_id``, ``prompt``, ``messages``, ``body``, ``system`` (or ``system_prompt``), ``model``,
    ``max_tokens``, ``temperature`` and ``params`` make the request; every other key is a column of the user's own.
    ``{"custom_id", "params"}`` with native params, as Anthropic's API spells a request, is taken as a ``body``.

    :raises InvalidRequestError: the row is none of these, or a column's name is one of :data:`RESULT_FIELDS`.
    """
    if isinstance(row, EntryRequest):
        _check_columns(row.columns, index)
        return row
    if isinstance(row, str):
        return EntryRequest(prompt=row)
    if not isinstance(row, (dict, Mapping)):
        raise InvalidRequestError(
            f"row {index} is a {type(row).__name__}; give a prompt, a mapping or an EntryRequest", row=index
        )
    fields: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    for name, value in row.items():
        (fields if name in _REQUEST_FIELDS else columns)[name] = value
    if "system_prompt" in columns:
        fields["system"] = columns.pop("system_prompt")
    _check_columns(columns, index)
    _take_native_params(fields)
    custom_id = fields.get("custom_id")
    if isinstance(custom_id, int) and not isinstance(custom_id, bool):
        fields["custom_id"] = str(custom_id)
    elif "custom_id" in fields and (not isinstance(custom_id, str) or not custom_id):
        raise InvalidRequestError(
            f"row {index} has the custom_id {custom_id!r}; give every row a text that is unique in the batch, or none"
            " of them any (then the row's position is used)",
            row=index,
        )
    fields["columns"] = columns
    try:
        return msgspec.convert(fields, EntryRequest)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        name = re.split(r"\W", path, maxsplit=1)[0]
        raise InvalidRequestError(
            f"row {index} has the {name} {fields.get(name)!r:.60}: {problem.lower()}; correct it", row=index
        ) from error


class RowReader:
    """Reads rows as :func:`request_of` does; what follows from their keys alone is found once for many rows."""

    def __init__(self) -> None:
        #: Of the rows that only have a prompt, and perhaps an id, beside columns of the user's own.
        self._keys: tuple[str, ...] | None = None
        self._columns: tuple[str, ...] = ()
        self._has_id = False

    def __call__(self, row: Any, index: int) -> EntryRequest:
        """Read one row; raises as :func:`request_of`."""
        if type(row) is not dict:
            return request_of(row, index)
        keys = tuple(row)
        if keys == self._keys:
            prompt, custom_id = row["prompt"], row["custom_id"] if self._has_id else None
            if type(prompt) is str and (not self._has_id or (type(custom_id) is str and custom_id)):
                columns = {name: row[name] for name in self._columns}
                return EntryRequest(custom_id=custom_id, prompt=prompt, columns=columns)
            return request_of(row, index)
        request = request_of(row, index)
        if _REQUEST_FIELDS.intersection(keys) in _PROMPT_ALONE and "system_prompt" not in keys:
            self._keys, self._has_id = keys, "custom_id" in keys
            self._columns = tuple(name for name in keys if name not in _REQUEST_FIELDS)
        return request


def _check_columns(columns: Mapping[Any, Any], index: int) -> None:
    for name in columns:
        if name in RESULT_FIELDS or name == READING or not isinstance(name, str):
            raise InvalidRequestError(
                f"row {index} has a column named {name!r}, which the result row uses itself; rename it", row=index
            )


def _take_native_params(fields: dict[str, Any]) -> None:
    params = fields.get("params")
    if params is None or not isinstance(params, Mapping) or fields.keys() & {"prompt", "messages", "body"}:
        return
    if any(mark in params for mark in _NATIVE_MARKS):
        fields["body"] = fields.pop("params")


class RequestDefaults(msgspec.Struct, kw_only=True, frozen=True):
    """What every request of a batch shares unless it says otherwise."""

    #: Provider's model name, without a ``provider:`` prefix.
    model: str
    #: The provider's endpoint, such as ``/v1/responses``; ``""``: the adapter's first.
    endpoint: str = ""
    system: str | None = None
    #: Mark the system prompt for the provider's cache, where that is not its own doing; ``None``: if it is long enough.
    cache_system: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    output_schema: dict[str, Any] | None = None
    params: dict[str, Any] | None = None
