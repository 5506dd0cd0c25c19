"""Apply: write one result row per input row, in input order, and stamp it once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from decimal import Decimal
from typing import IO, Any

import msgspec

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.domain.result import EntryResult, ToolCall
from airflow_raif.domain.status import EntryStatus, FailureReason
from airflow_raif.domain.usage import Usage, usd
from airflow_raif.services.metrics import batch_applied
from airflow_raif.services.output import InvalidOutputError, answer_reader
from airflow_raif.services.results import Results
from airflow_raif.services.row_files import columns_reader, split_reading
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.share import Share, find_share
from airflow_raif.spool.files import Folder, OpenFiles, results_file
from airflow_raif.store import EntryRow

log = logging.getLogger(__name__)

#: Name of the result file in its folder.
RESULT_FILE = "results.jsonl"
#: Bytes of results read, and of rows written, at one time; a batch may have many parts, each with a file that is read.
BLOCK_BYTES = 64 * 1024
#: Parts whose results are open at one time; rows of one part and of the rounds that repeated some of it lie together.
MAX_OPEN_PARTS = 4
#: Takes the rows of a result file elsewhere, as often as it is called.
Deliver = Callable[[Results], object]
_LINE_END_BYTES = len(b"\r\n")
_COMMA = ord(",")
_COMPLETED = EntryStatus.COMPLETED.value
#: Name of the result file of one part's rows, by the first of them, so that names and input are in one order.
PART_FILE = "results-{:012d}.jsonl"


def apply_results(
    runtime: Runtime, batch_id: str, destination: Folder, name: str = RESULT_FILE, deliver: Deliver | None = None
) -> Batch:
    """Write the batch's results as JSONL, whole or not at all; a second call with the same place does nothing.

    Another attempt may open a round meanwhile; then what was written is not all, and is written anew once it is.

    A row has ``custom_id``, the user's own columns, ``status``, ``reason``, ``output`` (text, parsed JSON or
    embedding; null unless completed), ``raw_output`` (text of an answer that failed), ``tool_calls``, ``error``
    (message, code, status), ``model``, ``finish_reason``, ``usage`` and ``cost`` (USD: batch, standard). The row of a
    request that a codec wrote has ``model_response`` too, the answer in its form.

    :param deliver: takes the rows elsewhere, too; called with each call, since it may have broken off. The batch is not
        applied before it returns.
    :raises InvalidBatchError: the results have not been fetched.
    """
    uri = destination.uri_of(name)
    while True:
        batch = runtime.store.get_batch(batch_id)
        if batch.results_fetched_at is None:
            raise _not_fetched(
                batch, f"batch {batch_id} is {batch.status} and its results were not fetched; fetch them first"
            )
        is_there = batch.applied_at is not None and batch.result_uri == uri and destination.exists(name)
        if not is_there:
            _check_spool(batch, batch.result_uri)
            _write(runtime, batch, destination, name)
        if deliver is not None:
            # What a retry goes on with even if its input was changed by what is delivered.
            runtime.store.note_result(batch, uri)
            deliver(Results(batch, destination, name))
        at = runtime.clock()
        if is_there or runtime.store.mark_applied(batch, uri, at):
            return _count(runtime, runtime.store.get_batch(batch_id), at)


def apply_part(
    runtime: Runtime,
    batch_id: str,
    number: int,
    destination: Folder,
    deliver: Deliver | None = None,
    end: Callable[[Batch], object] | None = None,
) -> Share:
    """Write the results of the rows that one part was made of, as :func:`apply_results` does those of all.

    The names of the files of a batch's parts follow the input; rows that rounds repeated are with those of their first
    part. Of a batch with several models, each file has rows of one. The batch is applied with the last of its parts.

    :param deliver: as there.
    :param end: called with the batch once all of its parts are through, for that part alone which was the last. The
        batch is not applied before it returns: if it raises or dies, another call for that part calls it again.
    :raises InvalidBatchError: the batch has no such part, or its results have not been fetched; retryable if they are
        in a round.
    """
    while True:
        share = find_share(runtime, batch_id, number)
        if not share.is_fetched:
            raise _not_fetched(
                share.batch, f"the results of part {number} of batch {batch_id} were not fetched; fetch them first"
            )
        name = PART_FILE.format(share.rows.start)
        part, uri = share.part, destination.uri_of(name)
        is_there = part.applied_at is not None and part.result_uri == uri and destination.exists(name)
        if not is_there:
            _check_spool(share.batch, part.result_uri)
            _write(runtime, share.batch, destination, name, share)
        if deliver is not None:
            deliver(Results(share.batch, destination, name, share.rows.start))
        at = runtime.clock()
        if is_there or runtime.store.mark_part_applied(
            share.batch, part, share.rows, share.numbers, uri, at, end is None
        ):
            applied = find_share(runtime, batch_id, number)
            if end is not None and applied.is_to_end_batch:
                end(applied.batch)
                at = runtime.clock()
                runtime.store.mark_applied(applied.batch, destination.uri, at)
                applied = find_share(runtime, batch_id, number)
            _count(runtime, applied.batch, at)
            return applied


def _not_fetched(batch: Batch, message: str) -> InvalidBatchError:
    error = InvalidBatchError(message)
    # A round that another task opened meanwhile: who tries again waits for it.
    error.retryable = any(part.round and part.results_fetched_at is None for part in batch.parts)
    return error


def _count(runtime: Runtime, batch: Batch, at: datetime) -> Batch:
    """Count a batch with its last row, by whom it was applied: the first stamp stays."""
    if batch.applied_at == at:
        batch_applied(runtime.metrics, batch, runtime.store.count_entries(batch))
    return batch


def _check_spool(batch: Batch, result_uri: str | None) -> None:
    if batch.spool_deleted_at is not None:
        raise InvalidBatchError(
            f"the spool of batch {batch.batch_id} was deleted on {batch.spool_deleted_at:%Y-%m-%d}, and {result_uri} is"
            " the only result file there was; to pay for these answers again, trigger a new run"
        )


def _write(runtime: Runtime, batch: Batch, destination: Folder, name: str, share: Share | None = None) -> None:
    """Write the result rows of a batch, or of a share of it."""
    count, uri = 0, destination.uri_of(name)
    with ExitStack() as stack:
        folder = runtime.folder(batch.batch_id)
        writer = _RowWriter(runtime, batch, folder, stack)
        read_columns = columns_reader(folder)
        file = stack.enter_context(destination.write(name))
        for entries in runtime.store.iter_entries(batch, share.rows if share else None):
            for block in writer.rows(entries, read_columns):
                file.write(block)
            count += len(entries)
        if writer.refused:
            log.warning(
                "Batch %s: %s answers that were completed when they were fetched are refused now, and failed in %s; if"
                " what reads them was changed by mistake, mend it, delete that file and clear the task",
                batch.batch_id, writer.refused, uri,
            )  # fmt: skip
        if share is not None and count != share.part.request_count:
            raise AssertionError(f"part {share.part.number} has {share.part.request_count} rows, not {count}")


class _Error(msgspec.Struct, gc=False):
    message: str
    code: str | None = None
    status: int | None = None


class _Cost(msgspec.Struct, gc=False):
    batch: Decimal | float | None
    standard: Decimal | float | None


class _Result(msgspec.Struct, gc=False):
    """What a result row has beside the custom_id and the user's own columns."""

    status: str
    reason: str | None
    output: Any = None
    raw_output: str | None = None
    tool_calls: list[ToolCall] | None = None
    error: _Error | None = None
    model: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    cost: _Cost | None = None
    #: See :data:`~airflow_raif.domain.request.RESPONSE`.
    model_response: msgspec.Raw | msgspec.UnsetType | None = msgspec.UNSET


def _usd(pico: int | None) -> Decimal | float | None:
    """Return dollars that JSON shows exactly: up to 15 digits are those of the float, which costs a tenth."""
    return pico / 1e12 if pico is not None and pico < 10**15 else usd(pico)


class _ResultsFile:
    """Raw results by their place in a file, mostly one after the other."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file_number = file.fileno()
        self._block = b""
        self._start = self._last = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return a result; if it follows the last one, what comes after it is read along with it."""
        start, end = offset - self._start, offset - self._start + length
        if start < 0 or end > len(self._block):
            is_next = 0 <= offset - self._last <= _LINE_END_BYTES
            self._block = os.pread(self._file_number, max(length, BLOCK_BYTES if is_next else 0), offset)
            self._start, start, end = offset, 0, length
        self._last = offset + length
        return self._block[start:end]


class _RowWriter:
    """Builds result rows from the store's entries and the spooled results."""

    def __init__(self, runtime: Runtime, batch: Batch, folder: Folder, stack: ExitStack) -> None:
        self._folder = folder
        self._read_raw = runtime.adapter.apply_batch_result
        self._batch = batch
        self._codec = runtime.codec
        self._answers = answer_reader(runtime, batch)
        self._files = stack.enter_context(closing(OpenFiles(MAX_OPEN_PARTS, _ResultsFile)))
        self._part = -1
        self._file: _ResultsFile | None = None
        #: Answers that were taken when they were fetched, and are not any more.
        self.refused = 0

    def rows(
        self, entries: list[EntryRow], read_columns: Callable[[Sequence[int]], list[bytes]]
    ) -> Iterator[bytearray]:
        """Yield result rows, many in one block, which is written over when the next one is asked for."""
        encode_into = msgspec.json.Encoder(decimal_format="number").encode_into
        block = bytearray()
        lines = read_columns([entry.index for entry in entries])
        for entry, line in zip(entries, lines, strict=True):
            block += b'{"custom_id":'
            encode_into(entry.custom_id, block, -1)
            reading, line = split_reading(line)
            # The user's columns are JSON already: they go between the id and the result as they are.
            if len(line) > 2:
                block += b","
                block += line[1:-1]
            end = len(block)
            encode_into(self._result(entry, reading), block, end)
            # In the place of the brace that opens the result, which makes one object of both.
            block[end] = _COMMA
            block += b"\n"
            if len(block) > BLOCK_BYTES:
                yield block
                block.clear()
        yield block

    def _result(self, entry: EntryRow, reading: bytes | None) -> _Result:
        row = _Result(entry.status, entry.reason)
        if entry.error is not None:
            row.error = _Error(entry.error)
        if entry.result_offset is None or entry.result_length is None or entry.result_part is None:
            return row
        place = (entry.result_part, entry.result_offset, entry.result_length)
        raw = self._raw(*place, is_double=entry.same_as is not None)
        result, has_calls = self._read_raw(raw), True
        if entry.status == _COMPLETED:
            self._take_answer(row, raw, result)
            has_calls = not self._answers.takes_tool_calls
            if reading is not None and self._codec is not None:
                row.model_response = self._codec.response(raw, reading, self._batch)
        else:
            row.raw_output = result.text
        if result.error is not None:
            row.error = _Error(result.error.message, result.error.code, result.error.status)
        if has_calls:
            row.tool_calls = result.tool_calls or None
        row.model, row.finish_reason = result.model, result.finish_reason
        # What another row was billed for is not this one's.
        row.usage = result.usage if entry.input_tokens is not None else None
        if entry.batch_cost is not None:
            row.cost = _Cost(_usd(entry.batch_cost), _usd(entry.standard_cost))
        return row

    def _raw(self, part: int, offset: int, length: int, *, is_double: bool) -> bytes:
        if part == self._part and self._file is not None:
            return self._file.read(offset, length)
        name = results_file(part)
        try:
            if is_double and not self._files.has_room_for(self._folder, name):
                # Those that follow each other may be of any parts: each would be opened, and downloaded, many times.
                return self._folder.read(name, offset, length)
            self._part, self._file = part, self._files.get(self._folder, name)
            return self._file.read(offset, length)
        except FileNotFoundError as error:
            raise InvalidBatchError(
                f"the results of part {part} are not in the spool at {self._folder.uri} any more; put {name} back to"
                " apply the batch"
            ) from error

    def _take_answer(self, row: _Result, raw: bytes, result: EntryResult) -> None:
        try:
            row.output = self._answers.output(raw, result)
        except InvalidOutputError as error:
            # An agent was changed since it took the answer, or does not always judge alike.
            row.status, row.reason = EntryStatus.FAILED.value, FailureReason.INVALID_OUTPUT.value
            row.raw_output, row.error = result.text, _Error(str(error))
            self.refused += 1
