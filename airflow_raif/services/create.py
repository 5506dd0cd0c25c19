"""Create: spool the requests as the exact bytes to send, and write batch, parts and entries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import msgspec

from airflow_raif.adapters.base import Limits
from airflow_raif.domain.batch import Batch, Claim, Part
from airflow_raif.domain.errors import EmptyBatchError, InvalidRequestError, LimitExceededError
from airflow_raif.domain.request import EntryRequest, RequestDefaults
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.wire_id import make_wire_id
from airflow_raif.services.fingerprint import (
    Encoder,
    Fingerprint,
    encoded,
    encoded_id,
    model_of,
    not_utf8,
    numbered_requests,
)
from airflow_raif.services.output import make_parser
from airflow_raif.services.part_files import PartFiles
from airflow_raif.services.recorded import RecordedParts
from airflow_raif.services.row_files import RowFiles
from airflow_raif.services.runtime import Runtime
from airflow_raif.store import AttemptLostError, BatchMissingError, NewBatch, NewPart

log = logging.getLogger(__name__)

#: Entries written to the store in one transaction.
ENTRY_CHUNK = 5000
#: Told of each part that is whole while the input goes on.
OnPart = Callable[[Batch, Part], object]


def create_batch(
    runtime: Runtime,
    rows: Iterable[Any],
    *,
    defaults: RequestDefaults,
    claim: Claim | None = None,
    metadata: Mapping[str, Any] | None = None,
    round_policy: RoundPolicy | None = None,
    on_batch: Callable[[Batch], object] = lambda _: None,
    on_part: OnPart = lambda *_: None,
) -> Batch:
    """Spool every row and write the batch as ``pending``; nothing is sent.

    :param rows: prompts, mappings or :class:`EntryRequest`, read once from start to end.
    :param on_batch: told of the batch before the first row is read.
    :param on_part: told of each part once it is whole, but for the last of each model; it may submit it.
    :raises InvalidBatchError: the batch is empty, or a row cannot be sent; nothing of it is kept, unless parts of it
        were submitted: then it stays as it is, for an attempt that continues it.
    """
    adapter = runtime.adapter
    defaults = msgspec.structs.replace(defaults, endpoint=adapter.resolve_endpoint(defaults.endpoint))
    make_parser(defaults.output_schema)
    encode = adapter.make_encoder(defaults)
    batch_id = uuid4().hex
    batch = runtime.store.create_batch(
        NewBatch(
            batch_id=batch_id,
            provider=adapter.name,
            conn_id=runtime.conn_id,
            model=defaults.model,
            endpoint=defaults.endpoint,
            claim=claim,
            spool_uri=runtime.folder(batch_id).uri,
            output_schema=defaults.output_schema,
            metadata=dict(metadata or {}),
            round_policy=round_policy or RoundPolicy(),
            created_at=runtime.clock(),
        )
    )
    on_batch(batch)
    fingerprint = Fingerprint(defaults.output_schema)
    return _spool(_Spooler(runtime, batch, encode, defaults.model, on_part, adapter.limits, fingerprint), rows)


def continue_batch(
    runtime: Runtime, batch: Batch, rows: Iterable[Any], *, defaults: RequestDefaults, on_part: OnPart
) -> Batch:
    """Read the input of a batch again that an earlier attempt did not read to its end, and go on after its parts.

    :param on_part: also told of the parts that were there, once they are seen to be what the input still holds.
    :raises InputChangedError: the input does not begin with the requests of those parts.
    :raises AttemptLostError: another attempt goes on with it.
    """
    defaults = msgspec.structs.replace(defaults, endpoint=runtime.adapter.resolve_endpoint(defaults.endpoint))
    encode = runtime.adapter.make_encoder(defaults)
    batch = runtime.store.take_up_spooling(batch)
    log.info("Batch %s has %s parts; reading its input again to go on", batch.batch_id, len(batch.parts))
    fingerprint, limits = Fingerprint(defaults.output_schema), runtime.adapter.limits
    return _spool(_Spooler(runtime, batch, encode, defaults.model, on_part, limits, fingerprint), rows)


def _spool(spooler: _Spooler, rows: Iterable[Any]) -> Batch:
    runtime, batch = spooler.runtime, spooler.batch
    try:
        spooler.spool(rows)
    except AttemptLostError:
        raise
    except BaseException as error:
        _leave(runtime, batch, error)
        raise
    runtime.store.finish_spooling(
        batch, fingerprint=str(spooler.fingerprint), request_count=spooler.count, at=runtime.clock()
    )
    return runtime.store.get_batch(batch.batch_id)


def _leave(runtime: Runtime, batch: Batch, error: BaseException) -> None:
    """Leave nothing of a batch that cannot be made whole, unless something of it was submitted.

    :raises InvalidRequestError: instead of the row's error, with what was submitted before it.
    :raises AttemptLostError: another attempt took this one for dead, and discarded the batch.
    """
    if runtime.store.discard_batch(batch.batch_id):
        runtime.folder(batch.batch_id).delete()
        return
    try:
        parts = runtime.store.get_batch(batch.batch_id).parts
    except BatchMissingError:
        runtime.folder(batch.batch_id).delete()
        raise AttemptLostError(f"another attempt of the task discarded batch {batch.batch_id}; it goes on") from error
    sent = [part for part in parts if part.intent_at is not None]
    account = (
        f"{len(sent)} parts of batch {batch.batch_id} with {sum(part.request_count for part in sent):,} requests"
        " were submitted before; they go on, and a retry or a clear of the task goes on after them, if the rows"
        " before stay as they are"
    )
    log.warning("%s", account)
    if isinstance(error, InvalidRequestError):
        raise type(error)(f"{error}. {account}", row=error.row) from error


@dataclass
class _Spooler:
    """Writes one batch's rows into the spool and the store."""

    runtime: Runtime
    batch: Batch
    encode: Encoder
    default_model: str
    on_part: OnPart
    limits: Limits
    fingerprint: Fingerprint
    count: int = 0
    _is_read: bool = False
    _entries: list[tuple[int, str, int, int, int]] = field(default_factory=list)

    def spool(self, rows: Iterable[Any]) -> None:
        folder = self.runtime.folder(self.batch.batch_id)
        recorded = RecordedParts(self.batch, self.fingerprint, self._tell)
        row_files = RowFiles(folder)

        def before_part() -> None:
            self._flush_entries()
            row_files.publish()

        files = PartFiles(folder, self.limits, self._on_part, before_part, taken=recorded.numbers)
        with row_files, files:
            for index, request in numbered_requests(rows):
                columns = _encoded_columns(request, index)
                self._add(files, recorded, index, request)
                row_files.add(columns)
            self._is_read = True
            recorded.check_end()
            if not self.count:
                raise EmptyBatchError

    def _add(self, files: PartFiles, recorded: RecordedParts, index: int, request: EntryRequest) -> None:
        custom_id, wire_id = request.custom_id or str(index), make_wire_id(self.batch.batch_id, index)
        model = model_of(request, self.default_model, index)
        line = encoded(self.encode, request, index, wire_id)
        raw_id = encoded_id(custom_id, index)
        inputs = self.runtime.adapter.count_embedding_inputs(request)
        self._check_size(index, custom_id, len(line) + 1, inputs)
        if not recorded.take(model):
            number, offset = files.add(model, line, inputs)
            self._entries.append((index, custom_id, number, offset, len(line)))
        self.fingerprint.add(line, wire_id, raw_id, model)
        self.count += 1
        if len(self._entries) >= ENTRY_CHUNK:
            self._flush_entries()

    def _check_size(self, index: int, custom_id: str, size: int, inputs: int) -> None:
        limits, provider = self.limits, self.batch.provider
        if size > limits.max_request_bytes or size > limits.max_bytes:
            raise LimitExceededError(
                f"row {index} (custom_id {custom_id!r}) is {size:,} bytes as a request; {provider} takes at"
                f" most {min(limits.max_request_bytes, limits.max_bytes):,}; shorten it or split it into several rows",
                row=index,
            )
        if limits.max_embedding_inputs is not None and inputs > limits.max_embedding_inputs:
            raise LimitExceededError(
                f"row {index} (custom_id {custom_id!r}) has {inputs:,} texts to embed; {provider} takes at most"
                f" {limits.max_embedding_inputs:,} in one batch job; split it into several rows",
                row=index,
            )

    def _on_part(self, new: NewPart) -> None:
        part = self.runtime.store.add_part(self.batch, msgspec.structs.replace(new, digest=str(self.fingerprint)))
        self._tell(part)

    def _tell(self, part: Part) -> None:
        # What ends with the input is submitted once the batch is whole.
        if not self._is_read:
            self.on_part(self.batch, part)

    def _flush_entries(self) -> None:
        """Write the entries so far, and see to it that the batch is still this attempt's own."""
        self.runtime.store.add_entries(self.batch, self._entries)
        self._entries = []


_encode_columns = msgspec.json.Encoder(enc_hook=str).encode


def _encoded_columns(request: EntryRequest, index: int) -> bytes:
    try:
        return _encode_columns(request.columns) + b"\n"
    except UnicodeEncodeError as error:
        raise not_utf8(index, "a column", error) from error
