"""Apply: write one result row per input row, in input order, and stamp it once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice, repeat
from typing import IO, Any

import msgspec

from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.domain.status import EntryStatus
from airflow_raif.domain.usage import usd
from airflow_raif.services.output import InvalidOutputError, make_parser
from airflow_raif.services.runtime import Runtime
from airflow_raif.spool.files import ROWS_FILE, Folder, results_file
from airflow_raif.store import EntryRow

#: Name of the result file in its folder.
RESULT_FILE = "results.jsonl"


def apply_results(runtime: Runtime, batch_id: str, destination: Folder, name: str = RESULT_FILE) -> Batch:
    """Write the batch's results as JSONL, whole or not at all; a second call with the same place does nothing.

    Another attempt may open a round meanwhile; then what was written is not all, and is written anew once it is.

    A row has ``custom_id``, the user's own columns, ``status``, ``reason``, ``output`` (text, parsed JSON or
    embedding; null unless completed), ``raw_output`` (text of an answer that failed), ``tool_calls``, ``error``
    (message, code, status), ``model``, ``finish_reason``, ``usage`` and ``cost`` (USD: batch, standard).

    :raises InvalidBatchError: the results have not been fetched.
    """
    uri = destination.uri_of(name)
    while True:
        batch = runtime.store.get_batch(batch_id)
        if batch.results_fetched_at is None:
            raise InvalidBatchError(
                f"batch {batch_id} is {batch.status} and its results were not fetched; fetch them first"
            )
        if batch.applied_at is not None and batch.result_uri == uri and destination.exists(name):
            return batch
        if batch.spool_deleted_at is not None:
            raise InvalidBatchError(
                f"the spool of batch {batch_id} was deleted on {batch.spool_deleted_at:%Y-%m-%d}, and"
                f" {batch.result_uri} is the only result file there was; to pay for these answers again, trigger a new"
                " run"
            )
        _write(runtime, batch, destination, name)
        if runtime.store.mark_applied(batch, uri, runtime.clock()):
            return runtime.store.get_batch(batch_id)


def _write(runtime: Runtime, batch: Batch, destination: Folder, name: str) -> None:
    with ExitStack() as stack:
        folder = runtime.folder(batch.batch_id)
        writer = _RowWriter(runtime, batch, folder, stack)
        # A batch that was given up before its input was read to the end has no fingerprint and no columns.
        has_columns = batch.fingerprint is not None
        columns = split_lines(folder.blocks(ROWS_FILE)()) if has_columns else repeat((0, b"{}"))
        file = stack.enter_context(destination.write(name))
        for entries in runtime.store.iter_entries(batch):
            file.writelines(writer.rows(entries, columns))


class _RowWriter:
    """Builds result rows from the store's entries and the spooled results."""

    def __init__(self, runtime: Runtime, batch: Batch, folder: Folder, stack: ExitStack) -> None:
        self._uri = folder.uri
        self._read_raw = runtime.adapter.apply_batch_result
        self._parse = make_parser(batch.output_schema)
        self._results: dict[int, IO[bytes]] = {
            part.number: stack.enter_context(folder.local_copy(results_file(part.number)))
            for part in batch.parts
            if folder.exists(results_file(part.number))
        }
        self._encode = msgspec.json.Encoder(decimal_format="number").encode

    def rows(self, entries: list[EntryRow], columns: Iterator[tuple[int, bytes]]) -> list[bytes]:
        encode, decode = self._encode, msgspec.json.decode
        lines = [line for _, line in islice(columns, len(entries))]
        return [
            encode({"custom_id": entry.custom_id, **(decode(line) if line != b"{}" else {}), **self._result(entry)})
            + b"\n"
            for entry, line in zip(entries, lines, strict=True)
        ]

    def _result(self, entry: EntryRow) -> dict[str, Any]:
        row: dict[str, Any] = {
            "status": entry.status, "reason": entry.reason, "output": None, "raw_output": None, "tool_calls": None,
            "error": None, "model": None, "finish_reason": None, "usage": None, "cost": None,
        }  # fmt: skip
        if entry.error is not None:
            row["error"] = {"message": entry.error, "code": None, "status": None}
        if entry.result_offset is None or entry.result_length is None or entry.result_part is None:
            return row
        file = self._results.get(entry.result_part)
        if file is None:
            raise InvalidBatchError(
                f"the results of part {entry.result_part} are not in the spool at {self._uri} any more; put"
                f" {results_file(entry.result_part)} back to apply the batch"
            )
        file.seek(entry.result_offset)
        result = self._read_raw(file.read(entry.result_length))
        if entry.status == EntryStatus.COMPLETED:
            row["output"] = self._output(result.text) if result.text is not None else result.embedding
        else:
            row["raw_output"] = result.text
        if result.error is not None:
            error = result.error
            row["error"] = {"message": error.message, "code": error.code, "status": error.status}
        if result.tool_calls:
            row["tool_calls"] = result.tool_calls
        row["model"], row["finish_reason"], row["usage"] = result.model, result.finish_reason, result.usage
        if entry.batch_cost is not None:
            row["cost"] = {"batch": usd(entry.batch_cost), "standard": usd(entry.standard_cost)}
        return row

    def _output(self, text: str) -> Any:
        try:
            return self._parse(text)
        except InvalidOutputError:
            return text
