"""Fingerprint: rows read in order as requests, and what tells whether an input is still the same work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from airflow_raif.adapters.base import Adapter
from airflow_raif.domain.errors import InvalidRequestError
from airflow_raif.domain.request import EntryRequest, RequestDefaults, RowReader
from airflow_raif.services.runtime import Runtime

#: Writes a request as one line: (request, wire id).
Encoder = Callable[[EntryRequest, str], bytes]
_WIRE_ID = "raif"
_DIGEST_LENGTH = 32
HASH_BYTES = 16


# Processors have instructions for this one.
_sha256 = hashlib.sha256


def content_hash(line: bytes, wire_id: str, model: str) -> bytes:
    """Return what two requests share that are the same but for their ids: 16 bytes over their bytes and model."""
    return _sha256(line.replace(wire_id.encode(), b"", 1) + model.encode()).digest()[:HASH_BYTES]


def scope_of(adapter: Adapter, defaults: RequestDefaults) -> bytes:
    """Return what else has to be the same, so that the answer to a request of the same bytes is as good."""
    where = (adapter.name, adapter.base_url, defaults.endpoint, defaults.output_schema)
    return _sha256(msgspec.json.encode(where)).digest()[:HASH_BYTES]


class Fingerprint:
    """A hash over every request so far: its model, its bytes without the batch's own id, and the user's id.

    :param output_schema: what answers are checked by; not all of it, and not with every row, is in the requests.
    """

    def __init__(self, output_schema: dict[str, Any] | None = None) -> None:
        self._digest = _sha256(msgspec.json.encode(output_schema))

    def add(self, content: bytes, custom_id: bytes) -> None:
        """Take in the :func:`content_hash` and the user's id of the next request."""
        self._digest.update(content + custom_id + b"\0")

    def __str__(self) -> str:
        return self._digest.hexdigest()[:_DIGEST_LENGTH]


def fingerprint_rows(runtime: Runtime, rows: Iterable[Any], *, defaults: RequestDefaults) -> str:
    """Return the fingerprint that a batch of these rows would have, without keeping anything."""
    defaults = msgspec.structs.replace(defaults, endpoint=runtime.adapter.resolve_endpoint(defaults.endpoint))
    encode = runtime.adapter.make_encoder(defaults)
    fingerprint = Fingerprint(defaults.output_schema)
    for index, request in numbered_requests(runtime.requests(rows, defaults)):
        line = encoded(encode, request, index, _WIRE_ID)
        content = content_hash(line, _WIRE_ID, model_of(request, defaults.model, index))
        fingerprint.add(content, encoded_id(request.custom_id or str(index), index))
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
