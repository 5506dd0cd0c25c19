"""Rows in the rich form, and pydantic-ai's requests made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_raif.adapters.text_form import merge_params
from airflow_raif.domain.errors import InvalidRequestError
from airflow_raif.domain.request import EntryRequest, RequestDefaults, request_of

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_ai.messages import ModelMessage

#: Keys of a row that only the rich form has.
SETTINGS, PARAMETERS = "model_settings", "model_request_parameters"
#: What the ids begin with that pydantic-ai makes up for tool calls that have none; each time it makes up others.
_MADE_UP = "pyd_ai_"
_ROLE = "role"


@dataclass(frozen=True)
class RowOfTemplate:
    """What a ``prompt_template`` made of a row, in the rich form, apart from the row: all of that is columns."""

    made: Any
    custom_id: str | None
    columns: dict[str, Any]


def is_rich(row: Any) -> bool:
    """Whether a row is in the rich form; pydantic-ai is not imported to tell.

    That is a :class:`RowOfTemplate`, a ``BatchRequest``, or a mapping whose ``prompt`` is a list or a file, whose
    ``messages`` are pydantic-ai's own or their JSON form, or that has ``model_settings`` or
    ``model_request_parameters``.
    """
    if type(row) is dict and type(row.get("prompt")) is str and "messages" not in row:
        # What most rows are.
        return SETTINGS in row or PARAMETERS in row
    if isinstance(row, str | EntryRequest):
        return False
    if not isinstance(row, Mapping):
        return isinstance(row, RowOfTemplate) or _is_theirs(row)
    if SETTINGS in row or PARAMETERS in row:
        return True
    prompt, messages = row.get("prompt"), row.get("messages")
    if isinstance(prompt, list | tuple) or _is_theirs(prompt):
        return True
    if isinstance(messages, bytes | str):
        return True
    first = messages[0] if isinstance(messages, list | tuple) and messages else None
    return _is_theirs(first) or (isinstance(first, Mapping) and "parts" in first and _ROLE not in first)


@dataclass(frozen=True)
class RichRow:
    """A row on its way to a request: what the core knows of it, and what only pydantic-ai does."""

    #: With its id, model, own columns and native params.
    request: EntryRequest
    #: Text, or pieces of content; ``None`` where messages are all there is.
    prompt: str | list[Any] | None
    messages: list[ModelMessage]
    settings: dict[str, Any]
    parameters: Any = None
    #: The settings and parameters that the row itself has.
    own: dict[str, Any] = field(default_factory=dict)


def read_row(row: Any, index: int, defaults: RequestDefaults) -> RichRow:
    """Read one row.

    :raises InvalidRequestError: it is none, or something in it is not pydantic-ai's.
    """
    custom_id, columns = None, dict[str, Any]()
    if isinstance(row, RowOfTemplate):
        row, custom_id, columns = row.made, row.custom_id, row.columns
    if _is_theirs(row) and not isinstance(row, Mapping):
        row = _of_batch_request(row)
    if isinstance(row, EntryRequest):
        # Its columns may have the names of its fields.
        row = {name: value for name, value in msgspec.structs.asdict(row).items() if value is not None}
        columns = row.pop("columns")
    row = dict(row) if isinstance(row, Mapping) else {"prompt": row}
    given = {name: row.pop(name, None) for name in ("prompt", "messages", SETTINGS, PARAMETERS)}
    # The core's reader checks the rest; it knows no row without a prompt.
    request = request_of({**row, "prompt": "-"}, index)
    if columns:
        columns = columns | request.columns
        request = request_of(msgspec.structs.replace(request, columns=columns), index)
    request = msgspec.structs.replace(request, custom_id=request.custom_id or custom_id)
    if request.body is not None or (given["prompt"] is None) == (given["messages"] is None):
        raise InvalidRequestError(
            f"row {index} needs exactly one of prompt, messages and body, and model_settings go with no body", row=index
        )
    try:
        messages = with_steady_ids(_messages_of(given["messages"])) if given["messages"] is not None else []
        prompt = _prompt_of(given["prompt"])
        parameters = _parameters_of(given[PARAMETERS])
    except (ValueError, TypeError) as error:
        raise InvalidRequestError(
            f"row {index} is not what pydantic-ai takes: {_first_line(error)}", row=index
        ) from error
    own = {name: given[name] for name in (SETTINGS, PARAMETERS) if given[name] is not None}
    return RichRow(request, prompt, messages, _settings_of(given[SETTINGS], request, defaults, index), parameters, own)


def with_params(request: EntryRequest, defaults: RequestDefaults) -> dict[str, Any] | None:
    """Return what is merged into the native body last: the batch's params and the row's own."""
    return merge_params(dict(defaults.params or {}), request.params) or None


def with_steady_ids(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    """Return messages that are the same each time they are made: made-up ids of tool calls are numbered instead."""
    numbers: dict[str, str] = {}

    def steady(part: Any) -> Any:
        made_up = getattr(part, "tool_call_id", None)
        if not isinstance(made_up, str) or not made_up.startswith(_MADE_UP):
            return part
        return replace(part, tool_call_id=numbers.setdefault(made_up, f"{_MADE_UP}{len(numbers)}"))

    def walk(message: Any) -> ModelMessage:
        parts = [steady(part) for part in message.parts]
        steadied: ModelMessage = replace(message, parts=parts)
        return steadied

    return [walk(message) for message in messages]


def _is_theirs(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "pydantic_ai"


def _of_batch_request(row: Any) -> Any:
    from pydantic_ai.models.batch import BatchRequest

    if not isinstance(row, BatchRequest):
        # A single file or message is a prompt, or no row at all; the messages' own check tells.
        return {"prompt": row}
    return {
        "custom_id": row.custom_id,
        "messages": row.messages,
        SETTINGS: dict(row.model_settings or {}),
        PARAMETERS: row.model_request_parameters,
    }


def _messages_of(given: Any) -> list[ModelMessage]:
    from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelRequest

    given = json.loads(given) if isinstance(given, str | bytes) else given
    _check_downloads(given)
    messages = ModelMessagesTypeAdapter.validate_python(given)
    if not messages or not isinstance(messages[-1], ModelRequest):
        raise ValueError("the last of the messages is to be a ModelRequest, which is what the model answers")
    return messages


def _prompt_of(given: Any) -> str | list[Any] | None:
    """Return a prompt as text or pieces of content, those in JSON form as objects."""
    if given is None or (isinstance(given, str) and given):
        return given
    pieces = list(given) if isinstance(given, list | tuple) else [given]
    if not pieces or pieces == [""]:
        raise ValueError("the prompt is empty")
    _check_downloads(pieces)
    return list(_content().validate_python(pieces))


@lru_cache(maxsize=1)
def _content() -> TypeAdapter[Any]:
    """Return what reads pieces of content; to make it takes longer than to write a row."""
    from pydantic import TypeAdapter
    from pydantic_ai.messages import UserContent

    return TypeAdapter(list[UserContent])


@lru_cache(maxsize=1)
def _parameters() -> TypeAdapter[Any]:
    from pydantic import TypeAdapter
    from pydantic_ai.models import ModelRequestParameters

    return TypeAdapter(ModelRequestParameters)


def _check_downloads(given: Any) -> None:
    """Rows may come from anywhere, so they are not what lets pydantic-ai read addresses of the local network."""
    if isinstance(given, Mapping):
        if given.get("force_download") == "allow-local":
            raise ValueError("force_download='allow-local' is not taken from a row's JSON form; make the object of it")
        given = list(given.values())
    if isinstance(given, list | tuple):
        for each in given:
            _check_downloads(each)


def _parameters_of(given: Any) -> Any:
    from pydantic_ai.models import ModelRequestParameters

    if isinstance(given, ModelRequestParameters):
        return given
    return ModelRequestParameters() if given is None else _parameters().validate_python(given)


def _settings_of(given: Any, request: EntryRequest, defaults: RequestDefaults, index: int) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise InvalidRequestError(f"row {index} has the model_settings {given!r:.60}; give a mapping", row=index)
    settings: dict[str, Any] = {}
    for name in ("max_tokens", "temperature"):
        value = getattr(request, name)
        if (value := getattr(defaults, name) if value is None else value) is not None:
            settings[name] = value
    return settings | dict(given or {})


def _first_line(error: Exception) -> str:
    """Return what is wrong and where, without the values: they may be files."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{first['msg']} at {'.'.join(str(step) for step in first['loc'])}"
