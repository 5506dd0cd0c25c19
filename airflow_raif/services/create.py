"""Create: spool the requests as the exact bytes to send, and write batch, parts and entries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import msgspec

from airflow_raif.domain.batch import Batch, Claim
from airflow_raif.domain.errors import InvalidBatchError, InvalidRequestError, LimitExceededError
from airflow_raif.domain.request import EntryRequest, RequestDefaults, request_of
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.wire_id import make_wire_id
from airflow_raif.services.output import make_parser
from airflow_raif.services.part_files import PartFiles
from airflow_raif.services.runtime import Runtime
from airflow_raif.spool.files import ROWS_FILE, Folder
from airflow_raif.store import NewBatch

#: Entries written to the store in one transaction.
ENTRY_CHUNK = 5000
_FINGERPRINT_ID = "raif"


def create_batch(
    runtime: Runtime,
    rows: Iterable[Any],
    *,
    defaults: RequestDefaults,
    claim: Claim | None = None,
    metadata: Mapping[str, Any] | None = None,
    round_policy: RoundPolicy | None = None,
) -> Batch:
    """Spool every row and write the batch as ``pending``; nothing is sent.

    :param rows: prompts, mappings or :class:`EntryRequest`, read once from start to end.
    :raises InvalidBatchError: the batch is empty, or a row cannot be sent; nothing of it is kept.
    """
    adapter = runtime.adapter
    defaults = msgspec.structs.replace(defaults, endpoint=adapter.resolve_endpoint(defaults.endpoint))
    make_parser(defaults.output_schema)
    encode = adapter.make_encoder(defaults)
    batch_id = uuid4().hex
    folder = runtime.folder(batch_id)
    batch = runtime.store.create_batch(
        NewBatch(
            batch_id=batch_id,
            provider=adapter.name,
            conn_id=runtime.conn_id,
            model=defaults.model,
            endpoint=defaults.endpoint,
            claim=claim,
            spool_uri=folder.uri,
            output_schema=defaults.output_schema,
            metadata=dict(metadata or {}),
            round_policy=round_policy or RoundPolicy(),
            created_at=runtime.clock(),
        )
    )
    try:
        spooler = _Spooler(runtime, batch, folder, encode)
        spooler.spool(numbered_requests(rows), defaults.model)
    except BaseException:
        runtime.store.discard_batch(batch_id)
        folder.delete()
        raise
    runtime.store.finish_spooling(
        batch, fingerprint=spooler.fingerprint, request_count=spooler.count, at=runtime.clock()
    )
    return runtime.store.get_batch(batch_id)


def fingerprint_rows(runtime: Runtime, rows: Iterable[Any], *, defaults: RequestDefaults) -> str:
    """Return the fingerprint that a batch of these rows would have, without keeping anything."""
    defaults = msgspec.structs.replace(defaults, endpoint=runtime.adapter.resolve_endpoint(defaults.endpoint))
    encode = runtime.adapter.make_encoder(defaults)
    digest = hashlib.blake2b(digest_size=16)
    for index, request in numbered_requests(rows):
        line = _encoded(encode, request, index, _FINGERPRINT_ID)
        _add_to_fingerprint(digest, line, _FINGERPRINT_ID, request.custom_id or str(index), index)
    return digest.hexdigest()


def numbered_requests(rows: Iterable[Any]) -> Iterator[tuple[int, EntryRequest]]:
    """Read rows with their positions, and see to it that all or none of them have a custom_id."""
    have_ids: bool | None = None
    for index, row in enumerate(rows):
        request = request_of(row, index)
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


@dataclass
class _Spooler:
    """Writes one batch's rows into the spool and the store."""

    runtime: Runtime
    batch: Batch
    folder: Folder
    encode: Callable[[EntryRequest, str], bytes]
    count: int = 0
    _entries: list[tuple[int, str, int, int, int]] = field(default_factory=list)
    _digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    @property
    def fingerprint(self) -> str:
        return str(self._digest.hexdigest())

    def spool(self, requests: Iterator[tuple[int, EntryRequest]], default_model: str) -> None:
        encode_columns = msgspec.json.Encoder(enc_hook=str).encode
        store, limits = self.runtime.store, self.runtime.adapter.limits
        with (
            self.folder.write(ROWS_FILE) as columns_file,
            PartFiles(self.folder, limits, lambda part: store.add_part(self.batch, part)) as files,
        ):
            for index, request in requests:
                model = request.model or (request.body or {}).get("model") or default_model
                self._add(files, index, request.custom_id or str(index), request, model)
                try:
                    columns_file.write(encode_columns(request.columns) + b"\n")
                except UnicodeEncodeError as error:
                    raise _not_utf8(index, "a column", error) from error
            if not self.count:
                raise InvalidBatchError("the batch is empty: no row came from the input")
        self._flush_entries()

    def _add(self, files: PartFiles, index: int, custom_id: str, request: EntryRequest, model: str) -> None:
        wire_id = make_wire_id(self.batch.batch_id, index)
        limits = self.runtime.adapter.limits
        line = _encoded(self.encode, request, index, wire_id)
        size = len(line) + 1
        if size > limits.max_request_bytes or size > limits.max_bytes:
            raise LimitExceededError(
                f"row {index} (custom_id {custom_id!r}) is {size:,} bytes as a request; {self.batch.provider} takes at"
                f" most {min(limits.max_request_bytes, limits.max_bytes):,}; shorten it or split it into several rows",
                row=index,
            )
        _add_to_fingerprint(self._digest, line, wire_id, custom_id, index)
        inputs = self.runtime.adapter.count_embedding_inputs(request)
        number, offset = files.add(model, line, inputs)
        self._entries.append((index, custom_id, number, offset, len(line)))
        self.count += 1
        if len(self._entries) >= ENTRY_CHUNK:
            self._flush_entries()

    def _flush_entries(self) -> None:
        if self._entries:
            self.runtime.store.add_entries(self.batch, self._entries)
            self._entries = []


def _encoded(encode: Callable[[EntryRequest, str], bytes], request: EntryRequest, index: int, wire_id: str) -> bytes:
    try:
        return encode(request, wire_id)
    except InvalidRequestError as error:
        name = f" (custom_id {request.custom_id!r})" if request.custom_id else ""
        raise type(error)(f"row {index}{name}: {error}", row=index) from error
    except (TypeError, UnicodeEncodeError) as error:
        raise InvalidRequestError(f"row {index} cannot be written as JSON: {error}", row=index) from error


def _add_to_fingerprint(digest: Any, line: bytes, wire_id: str, custom_id: str, index: int) -> None:
    digest.update(line.replace(wire_id.encode(), b"", 1))
    if "\0" in custom_id:
        raise InvalidRequestError(f"row {index}: the custom_id {custom_id!r:.60} holds a NUL; leave it out", row=index)
    try:
        digest.update(custom_id.encode())
    except UnicodeEncodeError as error:
        raise _not_utf8(index, "the custom_id", error) from error


def _not_utf8(index: int, what: str, error: UnicodeEncodeError) -> InvalidRequestError:
    where = f"{error.reason} at character {error.start}"
    return InvalidRequestError(
        f"row {index}: {what} cannot be written as UTF-8 ({where}); mend its encoding", row=index
    )
