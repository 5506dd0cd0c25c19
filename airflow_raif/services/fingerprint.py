"""Fingerprint: rows read in order as requests, and what tells whether an input is still the same work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from airflow_raif.domain.errors import InvalidRequestError
from airflow_raif.domain.request import EntryRequest, RequestDefaults, RowReader
from airflow_raif.services.runtime import Runtime

#: Writes a request as one line: (request, wire id).
Encoder = Callable[[EntryRequest, str], bytes]
_WIRE_ID = "raif"
_DIGEST_LENGTH = 32


class Fingerprint:
    """A hash over every request so far: its model, its bytes without the batch's own id, and the user's id.

    :param output_schema: what answers are checked by; not all of it, and not with every row, is in the requests.
    """

    def __init__(self, output_schema: dict[str, Any] | None = None) -> None:
        # Processors have instructions for this one.
        self._digest = hashlib.sha256(msgspec.json.encode(output_schema))

    def add(self, line: bytes, wire_id: str, custom_id: bytes, model: str) -> None:
        """Take in the next request."""
        self._digest.update(line.replace(wire_id.encode(), b"", 1) + custom_id + model.encode())

    def __str__(self) -> str:
        return self._digest.hexdigest()[:_DIGEST_LENGTH]


def fingerprint_rows(runtime: Runtime, rows: Iterable[Any], *, defaults: RequestDefaults) -> str:
    """Return the fingerprint that a batch of these rows would have, without keeping anything."""
    defaults = msgspec.structs.replace(defaults, endpoint=runtime.adapter.resolve_endpoint(defaults.endpoint))
    encode = runtime.adapter.make_encoder(defaults)
    fingerprint = Fingerprint(defaults.output_schema)
    for index, request in numbered_requests(rows):
        line = encoded(encode, request, index, _WIRE_ID)
        custom_id = request.custom_id or str(index)
        fingerprint.add(line, _WIRE_ID, encoded_id(custom_id, index), model_of(request, defaults.model, index))
    return str(fingerprint)


def numbered_requests(rows: Iterable[Any]) -> Iterator[tuple[int, EntryRequest]]:
    """Read rows with their positions, and see to it that all or none of them have a custom_id."""
    have_ids: bool | None = None
    read = RowReader()
    for index, row in enumerate(rows):
        request = read(row, index)
        has_id = request.custom_id is not None
        if have_ids is None:
            have_ids = has_id
        elif have_ids != has_id:
            raise InvalidRequestError(
                f"row {index} has {'a' if has_id else 'no'} custom_id, unlike the rows before it; give every row one,"
                " or none of them",
                row=index,
            )
        yield index, request


def model_of(request: EntryRequest, default: str, index: int) -> str:
    """Return the model of a request.

    :raises InvalidRequestError: the one in its native body is no text.
    """
    model = request.model or (request.body or {}).get("model") or default
    if not isinstance(model, str):
        raise InvalidRequestError(f"row {index} has the model {model!r:.60} in its body; give its name", row=index)
    return model


def encoded(encode: Encoder, request: EntryRequest, index: int, wire_id: str) -> bytes:
    """Write a request as one line.

    :raises InvalidRequestError: it cannot be sent; names the row.
    """
    try:
        return encode(request, wire_id)
    except InvalidRequestError as error:
        name = f" (custom_id {request.custom_id!r})" if request.custom_id else ""
        raise type(error)(f"row {index}{name}: {error}", row=index) from error
    except (TypeError, UnicodeEncodeError) as error:
        raise InvalidRequestError(f"row {index} cannot be written as JSON: {error}", row=index) from error


def encoded_id(custom_id: str, index: int) -> bytes:
    """Write a user's id.

    :raises InvalidRequestError: the store cannot keep it.
    """
    if "\0" in custom_id:
        raise InvalidRequestError(f"row {index}: the custom_id {custom_id!r:.60} holds a NUL; leave it out", row=index)
    try:
        return custom_id.encode()
    except UnicodeEncodeError as error:
        raise not_utf8(index, "the custom_id", error) from error


def not_utf8(index: int, what: str, error: UnicodeEncodeError) -> InvalidRequestError:
    """Return the error of a text that holds half a character."""
    where = f"{error.reason} at character {error.start}"
    return InvalidRequestError(
        f"row {index}: {what} cannot be written as UTF-8 ({where}); mend its encoding", row=index
    )
