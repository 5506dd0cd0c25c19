"""The life of a Gemini batch: reading its input, making its responses, showing it as an operation."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from airflow_raif.emulator.compose import Composer
from airflow_raif.emulator.gemini_answers import BadRequestError, GeminiAnswers
from airflow_raif.emulator.gemini_files import GeminiFiles, moment
from airflow_raif.emulator.results import ResultFiles, read_lines
from airflow_raif.emulator.state import Batch, EmulatorState

_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main."
_STATES = {"ended": "SUCCEEDED", "failed": "FAILED", "canceled": "CANCELLED", "expired": "EXPIRED"}
_ROW_ERRORS: dict[str, tuple[int, str]] = {
    "expired": (4, "Deadline expired before operation could complete."),
    "canceled": (1, "The operation was cancelled."),
    "errored": (3, "Emulated invalid argument."),
    "overloaded": (14, "The model is overloaded. Please try again later."),
}


class _Line(msgspec.Struct):
    request: msgspec.Raw
    key: str | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"")

    @property
    def name(self) -> str:
        """The key of a file's line, or that in an inline request's metadata."""
        if self.key is None and bytes(self.metadata):
            return str(msgspec.json.decode(self.metadata).get("key", ""))
        return self.key or ""


_decode_line = msgspec.json.Decoder(_Line).decode


def embeds(batch: Batch) -> bool:
    """Tell whether a batch makes embeddings."""
    return batch.endpoint == "asyncBatchEmbedContent"


class GeminiBatches:
    """Checks, runs and renders batches."""

    def __init__(self, state: EmulatorState, files: GeminiFiles, composer: Composer) -> None:
        self._state = state
        self._files = files
        self.answers = GeminiAnswers(composer)

    def look(self, batch: Batch) -> Batch:
        """Let a batch move on and return it."""
        with batch.lock:
            if not batch.looks and self._state.faults.take_count("failed_batches"):
                self._fail(batch, 13, "Internal error encountered.")
        return self._state.look(batch, lambda _: None, self._finish)

    def count_rows(self, batch: Batch) -> None:
        """Read a file's lines once; a bad one fails the batch."""
        count = 0
        for count, raw in enumerate(read_lines(batch.rows_path), 1):
            try:
                line = _decode_line(raw)
            except msgspec.DecodeError as exc:
                return self._fail(batch, 3, f"Invalid input file: line {count}: {exc}")
            if line.key is None:
                return self._fail(batch, 3, f"Invalid input file: line {count}: key is not specified")
        batch.row_count = count
        if not count:
            self._fail(batch, 3, "Invalid input file: it has no requests.")
        return None

    def _fail(self, batch: Batch, code: int, message: str) -> None:
        batch.errors = [{"code": code, "message": message}]
        self._state.move(batch, "failed")

    def _finish(self, batch: Batch, done: int, rest: str) -> None:
        if rest == "canceled":
            # Seen on canceled batches in real traffic: an error beside the state.
            batch.errors = [{"code": 13, "message": "The batch was cancelled."}]
        if rest != "ended":
            # An expired or canceled batch has no results to fetch (https://ai.google.dev/gemini-api/docs/batch-api).
            return
        path = self._state.new_path()
        ResultFiles(self._state, path, None).write(
            batch,
            done,
            rest,
            lambda raw: _decode_line(raw).name,
            lambda raw, kind: (self._write_row(batch, raw, kind), False),
        )
        batch.output = self._files.keep_output(path, f"batch-{batch.id.removeprefix('batches/')}")

    def _write_row(self, batch: Batch, raw: bytes, kind: str) -> bytes:
        line = _decode_line(raw)
        error = _ROW_ERRORS.get(kind)
        outcome: dict[str, Any] = {}
        try:
            if error is None:
                reply = self.answers.answer(batch.model, bytes(line.request), kind, batch.tally, embeds=embeds(batch))
                outcome = {"response": reply}
                batch.tally.succeeded += 1
        except BadRequestError as exc:
            error = (3, str(exc))
        if error:
            outcome = {"error": {"code": error[0], "message": error[1]}}
            batch.tally.errored += 1
        mark = {"key": line.key} if line.key is not None else {}
        if bytes(line.metadata):
            outcome["metadata"] = line.metadata
        return msgspec.json.encode({**mark, **outcome})

    def _output(self, batch: Batch) -> dict[str, Any]:
        if batch.output is None:
            return {}
        if "fileName" in batch.details["inputConfig"]:
            return {"responsesFile": batch.output.id}
        rows = [msgspec.Raw(raw) for raw in read_lines(batch.output.path)]
        name = "inlinedEmbedContentResponses" if embeds(batch) else "inlinedResponses"
        return {name: {"inlinedResponses": rows}}

    def render(self, batch: Batch, *, with_results: bool = True) -> dict[str, Any]:
        """Return the operation; ``done`` is there only at the end, and zero counts are left out."""
        kind = "EmbedContentBatch" if embeds(batch) else "GenerateContentBatch"
        state = _STATES.get(batch.status) or ("RUNNING" if batch.looks else "PENDING")
        if self._state.faults.unknown_status and not batch.is_terminal:
            state = self._state.faults.unknown_status
        output = self._output(batch) if with_results else {}
        ended = batch.times.get(batch.status) if batch.is_terminal else None
        metadata: dict[str, Any] = {"@type": _TYPE + kind, "model": f"models/{batch.model}"}
        if batch.details.get("displayName"):
            metadata["displayName"] = batch.details["displayName"]
        if output:
            metadata["output"] = output
        metadata["createTime"] = moment(batch.created_at)
        if ended:
            metadata["endTime"] = moment(ended)
        metadata |= {
            "updateTime": moment(ended or batch.created_at),
            "batchStats": self._stats(batch),
            "state": f"BATCH_STATE_{state}",
            "name": batch.id,
        }
        operation: dict[str, Any] = {"name": batch.id, "metadata": metadata}
        if batch.is_terminal:
            operation["done"] = True
        if batch.errors:
            operation["error"] = batch.errors[0]
        elif output:
            operation["response"] = {"@type": f"{_TYPE}{kind}Output", **output}
        return operation

    @staticmethod
    def _stats(batch: Batch) -> dict[str, str]:
        stats = {
            "requestCount": batch.row_count,
            "pendingRequestCount": 0 if batch.is_terminal else batch.row_count,
            "successfulRequestCount": batch.tally.succeeded if batch.is_terminal else 0,
            "failedRequestCount": batch.tally.errored if batch.is_terminal else 0,
        }
        return {name: str(value) for name, value in stats.items() if value}


def new_batch_id() -> str:
    """Return the name of a new batch."""
    return f"batches/{secrets.token_hex(14)}"
