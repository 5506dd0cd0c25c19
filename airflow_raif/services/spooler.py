"""Spooler: writes a batch's rows into the spool and the store, and finds those that take answers of others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from airflow_raif.adapters.base import Limits
from airflow_raif.domain.batch import SHARED, Batch, Part
from airflow_raif.domain.errors import EmptyBatchError, LimitExceededError
from airflow_raif.domain.request import EntryRequest
from airflow_raif.domain.sharing import Sharing
from airflow_raif.domain.wire_id import make_wire_id
from airflow_raif.services.fingerprint import (
    Encoder,
    Fingerprint,
    content_hash,
    encoded,
    encoded_id,
    model_of,
    not_utf8,
    numbered_requests,
)
from airflow_raif.services.known_answers import KnownAnswers
from airflow_raif.services.part_files import PartFiles
from airflow_raif.services.recorded import RecordedParts
from airflow_raif.services.row_files import RowFiles
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.seen import SeenRequests
from airflow_raif.spool.files import Folder, results_file
from airflow_raif.store import NewEntry, NewPart, SharedEntry

#: Entries written to the store in one transaction.
ENTRY_CHUNK = 5000
#: Rows, or bytes of requests, that are looked up together; so many are held in memory.
CHUNK_ROWS, CHUNK_BYTES = 500, 4 << 20
#: Told of each part that is whole while the input goes on.
OnPart = Callable[[Batch, Part], object]


class _Row(msgspec.Struct, gc=False):
    """One row on its way."""

    index: int
    custom_id: str
    raw_id: bytes
    model: str
    line: bytes
    content: bytes
    inputs: int
    columns: bytes
    #: The part that an earlier attempt put it in.
    part_number: int | None = None


#: Where a row gets its answer from: a raw result, or the first row of the batch with the same request.
_Other = bytes | int


@dataclass
class Spooler:
    """Writes one batch's rows, each once."""

    runtime: Runtime
    batch: Batch
    encode: Encoder
    default_model: str
    on_part: OnPart
    limits: Limits
    fingerprint: Fingerprint
    sharing: Sharing
    count: int = 0
    _is_read: bool = False
    _entries: list[NewEntry] = field(default_factory=list)
    _shared: list[SharedEntry] = field(default_factory=list)
    _answers: _AnswerFile = field(init=False)

    def __post_init__(self) -> None:
        self._answers = _AnswerFile(self.runtime.folder(self.batch.batch_id))

    def spool(self, rows: Iterable[Any]) -> None:
        """Read every row.

        :raises InvalidBatchError: there is none, or one cannot be sent.
        """
        folder = self.runtime.folder(self.batch.batch_id)
        recorded = RecordedParts(self.runtime.store, self.batch, self.fingerprint, self._tell)
        row_files = RowFiles(folder)

        def before_part() -> None:
            self._flush_entries()
            row_files.publish()

        files = PartFiles(folder, self.limits, self._on_part, before_part, taken=recorded.numbers)
        with ExitStack() as stack:
            for each in (self._answers, row_files, files):
                stack.enter_context(each)
            for row, other in self._resolved(self._read(rows, recorded), stack):
                recorded.check(row.index)
                self._add(files, row, other)
                row_files.add(row.columns)
            self._is_read = True
            recorded.check_end(self.count)
            if not self.count:
                raise EmptyBatchError

    def _read(self, rows: Iterable[Any], recorded: RecordedParts) -> Iterator[_Row]:
        batch_id, inputs_of = self.batch.batch_id, self.runtime.adapter.count_embedding_inputs
        for index, request in numbered_requests(rows):
            columns = _encoded_columns(request, index)
            custom_id, wire_id = request.custom_id or str(index), make_wire_id(batch_id, index)
            model = model_of(request, self.default_model, index)
            line = encoded(self.encode, request, index, wire_id)
            raw_id, inputs = encoded_id(custom_id, index), inputs_of(request)
            self._check_size(index, custom_id, len(line) + 1, inputs)
            content, part_number = content_hash(line, wire_id, model), recorded.part_of(index)
            yield _Row(index, custom_id, raw_id, model, line, content, inputs, columns, part_number)

    def _resolved(self, rows: Iterator[_Row], stack: ExitStack) -> Iterator[tuple[_Row, _Other | None]]:
        """Yield each row with where its answer comes from, if it is not to be sent."""
        shared = {part.number for part in self.batch.parts if part.is_shared}
        seen = stack.enter_context(SeenRequests()) if self.sharing.within_batch else None
        if self.sharing.reuse_for is not None and self.batch.answer_scope is not None:
            known = KnownAnswers(self.runtime, self.batch.answer_scope, self.sharing.reuse_for)
            yield from _looked_up(rows, shared, seen, stack.enter_context(known))
            return
        if seen is None:
            yield from ((row, None) for row in rows)
            return
        for row in rows:
            if row.part_number in shared:
                yield row, None
            else:
                yield row, seen.note(row.content, row.index)
            if seen.is_full:
                yield from _looked_up(rows, shared, seen, None)

    def _add(self, files: PartFiles, row: _Row, other: _Other | None) -> None:
        if row.part_number is None:
            kept = row.content if self.batch.answer_scope is not None else None
            if other is None:
                number, offset = files.add(row.model, row.line, row.inputs)
                self._entries.append((row.index, row.custom_id, number, offset, len(row.line), kept))
            else:
                number, offset = files.add(SHARED, row.line, 0)
                entry = (row.index, row.custom_id, number, offset, len(row.line), kept)
                if isinstance(other, int):
                    self._shared.append((*entry, other, None, None, None))
                else:
                    self._shared.append((*entry, None, number, self._answers.add(number, other), len(other)))
        self.fingerprint.add(row.content, row.raw_id)
        self.count += 1
        if len(self._entries) + len(self._shared) >= ENTRY_CHUNK:
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
        at = None
        if new.model == SHARED:
            self._answers.publish()
            at = self.runtime.clock()
        new = msgspec.structs.replace(new, digest=str(self.fingerprint), rows_read=self.count, shared_at=at)
        self._tell(self.runtime.store.add_part(self.batch, new))

    def _tell(self, part: Part) -> None:
        # What ends with the input is submitted once the batch is whole.
        if not self._is_read:
            self.on_part(self.batch, part)

    def _flush_entries(self) -> None:
        """Write the entries so far, and see to it that the batch is still this attempt's own."""
        self.runtime.store.add_entries(self.batch, self._entries, self._shared)
        self._entries, self._shared = [], []


class _AnswerFile:
    """Raw results that rows of one part after the other take from earlier batches.

    Used as a context: at an error the file that is open is dropped.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._number = -1
        self._file: IO[bytes] | None = None
        self._open = ExitStack()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def add(self, part_number: int, raw: bytes) -> int:
        """Write a result; return its offset in the part's file."""
        if self._file is None or part_number != self._number:
            self.publish()
            self._file = self._open.enter_context(self._folder.write(results_file(part_number)))
            self._number, self._size = part_number, 0
        offset = self._size
        self._file.write(raw)
        self._file.write(b"\n")
        self._size += len(raw) + 1
        return offset

    def publish(self) -> None:
        """Let the file appear: its part is about to."""
        self._file = None
        self._open.close()


def _looked_up(
    rows: Iterator[_Row], shared: Collection[int], seen: SeenRequests | None, known: KnownAnswers | None
) -> Iterator[tuple[_Row, _Other | None]]:
    """Yield each row with where its answer comes from; they are looked up many at a time.

    :param shared: the parts of rows whose answers come from others, as an earlier attempt put them there.
    """
    for chunk in _chunks(rows):
        hashes = [row.content for row in chunk if row.part_number not in shared]
        first = seen.find(hashes) if seen is not None else {}
        answers = known.find([each for each in hashes if each not in first]) if known is not None else {}
        for row in chunk:
            content = row.content
            if row.part_number in shared:
                yield row, None
            elif (answer := answers.get(content)) is not None:
                yield row, answer
            elif (same := first.get(content)) is not None:
                yield row, same
            else:
                if seen is not None:
                    first[content] = row.index
                    seen.add(content, row.index)
                yield row, None


def _chunks(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    """Yield rows in chunks; those before one that cannot be read come before its error."""
    chunk: list[_Row] = []
    size = 0
    try:
        for row in rows:
            chunk.append(row)
            size += len(row.line)
            if len(chunk) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                full, chunk, size = chunk, [], 0
                yield full
    except Exception:
        yield chunk
        raise
    yield chunk


_encode_columns = msgspec.json.Encoder(enc_hook=str).encode


def _encoded_columns(request: EntryRequest, index: int) -> bytes:
    try:
        return _encode_columns(request.columns) + b"\n"
    except UnicodeEncodeError as error:
        raise not_utf8(index, "a column", error) from error
