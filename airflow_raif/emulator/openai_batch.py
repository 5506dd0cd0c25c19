"""The life of an OpenAI batch: checking the input file, making the output and error files, showing it."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from airflow_raif.emulator.compose import Composer, input_tokens
from airflow_raif.emulator.openai_answers import OpenAIAnswers, RequestBody, dated_model, embedding_inputs
from airflow_raif.emulator.results import ResultFiles
from airflow_raif.emulator.schema_rules import malformed, openai_problem
from airflow_raif.emulator.state import Batch, EmulatorState, StoredFile

#: Documented at https://platform.openai.com/docs/guides/batch#rate-limits.
_MAX_EMBEDDING_INPUTS = 50_000
_NOT_RUN = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "canceled": ("batch_cancelled", "This request was not executed because the batch was cancelled."),
}
_STATUS_WORDS = {"ended": "completed", "canceling": "cancelling", "canceled": "cancelled"}


class _Line(msgspec.Struct):
    body: msgspec.Raw
    custom_id: str = ""
    method: str = ""
    url: str = ""


class _ProblemError(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.entry = {"code": code, "message": message, "param": param}


def _queue_is_full(model: str, limit: int | None) -> _ProblemError:
    return _ProblemError(
        "token_limit_exceeded",
        f"Enqueued token limit reached for {model} in organization org-emulated. Limit: {limit:,} enqueued tokens. "
        "Please try again once some in_progress batches have been completed.",
    )


def is_unknown_model(model: str) -> bool:
    """Tell whether a model stands for one that does not exist."""
    return model.startswith(("unknown", "no-such"))


def _refusal(endpoint: str, body: RequestBody, kind: str) -> dict[str, str | None] | None:
    """Return the error that a request ends with instead of an answer."""
    param = "messages" if endpoint == "/v1/chat/completions" else "input"
    given = bytes(getattr(body, param))
    error: dict[str, str | None] = {"type": "invalid_request_error", "param": None, "code": "invalid_value"}
    if kind == "overloaded":
        return {**error, "message": "The server had an error.", "type": "server_error", "code": None}
    if kind == "errored":
        return {**error, "message": "Emulated invalid request."}
    if given in (b"", b"null"):
        message = f"Missing required parameter: '{param}'."
        return {**error, "message": message, "param": param, "code": "missing_required_parameter"}
    if given in (b"[]", b'""'):
        return {**error, "message": f"Invalid '{param}': it is empty.", "param": param}
    problem = _schema_problem(body)
    return {**error, "message": problem, "code": "invalid_json_schema"} if problem else None


def _schema_problem(body: RequestBody) -> str | None:
    tool = body.forced_tool
    if tool and bytes(tool.parameters) and (problem := malformed(bytes(tool.parameters))):
        return f"Invalid schema for function '{tool.name}': {problem}"
    if not body.schema:
        return None
    problem = malformed(body.schema) or (openai_problem(body.schema) if body.is_strict else None)
    return f"Invalid schema for response_format '{body.schema_name}': {problem}" if problem else None


class OpenAIBatches:
    """Checks, runs and renders batches."""

    def __init__(self, state: EmulatorState, composer: Composer) -> None:
        self._state = state
        self.answers = OpenAIAnswers(composer)
        self._lines = msgspec.json.Decoder(_Line)
        self._bodies = msgspec.json.Decoder(RequestBody)

    def look(self, batch: Batch) -> Batch:
        """Let a batch move on and return it."""
        return self._state.look(batch, self.check, self.finish)

    def check(self, batch: Batch) -> None:
        """Read the input file; the first bad line fails the whole batch."""
        number: int | None = None
        try:
            self._check_whole(batch)
            seen: set[str] = set()
            inputs = tokens = 0
            with batch.rows_path.open("rb") as lines:
                for line_number, raw in enumerate(lines, 1):
                    number = line_number
                    if raw.strip():
                        body, embedded = self._check_line(batch, raw, seen)
                        inputs += embedded
                        tokens += input_tokens(body)
            number = None
            if not seen:
                raise _ProblemError("empty_batch", "The batch input file is empty.")
            if inputs > _MAX_EMBEDDING_INPUTS:
                raise _ProblemError("invalid_request", "The batch has more than 50,000 embedding inputs.")
            batch.row_count = len(seen)
            model, batch.model = batch.model, dated_model(batch.model)
            if not self._state.enqueue(batch, tokens, limit := self._state.settings.openai_max_enqueued_tokens):
                raise _queue_is_full(model, limit)
        except _ProblemError as problem:
            batch.errors = [{**problem.entry, "line": number}]
            batch.model = ""
            self._state.move(batch, "failed")

    def _check_whole(self, batch: Batch) -> None:
        if self._state.faults.take_count("token_limit_exceeded"):
            raise _queue_is_full("gpt-5-nano", 2_000_000)
        if self._state.faults.take_count("failed_batches"):
            raise _ProblemError("invalid_request", "The batch failed for an emulated reason.")
        if batch.rows_path.stat().st_size > self._state.settings.openai_max_bytes:
            raise _ProblemError("invalid_request", "The batch input file is larger than the 200 MB maximum.")

    def _check_line(self, batch: Batch, raw: bytes, seen: set[str]) -> tuple[int, int]:
        """Return the bytes of the line's body, and its embedding inputs."""
        try:
            line = self._lines.decode(raw)
        except msgspec.ValidationError as exc:
            raise _ProblemError("missing_required_parameter", f"Missing required parameter: {exc}", "body") from exc
        except msgspec.DecodeError as exc:
            raise _ProblemError("invalid_json_line", "This line is not parseable as valid JSON.") from exc
        if not line.custom_id:
            raise _ProblemError("missing_required_parameter", "Missing required parameter: 'custom_id'.", "custom_id")
        if line.custom_id in seen:
            raise _ProblemError("duplicate_custom_id", f"The custom_id {line.custom_id!r} is used twice.", "custom_id")
        seen.add(line.custom_id)
        if len(seen) > self._state.settings.openai_max_rows:
            raise _ProblemError(
                "too_many_tasks", "The batch input file holds more than the maximum number of requests."
            )
        if line.method != "POST":
            raise _ProblemError("invalid_method", "The method must be POST.", "method")
        if line.url != batch.endpoint:
            raise _ProblemError(
                "invalid_url", "The URL provided for this request does not match the batch endpoint.", "url"
            )
        return len(line.body), self._check_body(batch, line.body)

    def _check_body(self, batch: Batch, raw: msgspec.Raw) -> int:
        try:
            body = self._bodies.decode(raw)
        except msgspec.DecodeError as exc:
            raise _ProblemError("invalid_request", f"The request body is invalid: {exc}", "body") from exc
        if not body.model:
            raise _ProblemError("missing_required_parameter", "Missing required parameter: 'model'.", "body.model")
        if is_unknown_model(body.model):
            raise _ProblemError(
                "model_not_found", f"The provided model '{body.model}' is not supported by the Batch API.", "body.model"
            )
        if batch.model and body.model != batch.model:
            raise _ProblemError("mismatched_model", "All requests of a batch must use the same model.", "body.model")
        if body.stream:
            raise _ProblemError("streaming_unsupported", "Streaming is not supported in the Batch API.", "body.stream")
        batch.model = body.model
        return len(embedding_inputs(body)) if batch.endpoint == "/v1/embeddings" else 0

    def finish(self, batch: Batch, done: int, rest: str) -> None:
        """Write the output and the error file; an empty one gets no id."""
        if batch.status == "canceling" and not batch.row_count:
            return
        output, errors = self._state.new_path(), self._state.new_path()
        now = int(self._state.now())
        ResultFiles(self._state, output, errors).write(
            batch,
            done,
            rest,
            lambda raw: self._lines.decode(raw).custom_id,
            lambda raw, kind: self._write_row(batch, raw, kind, now),
        )
        batch.output = self._keep(batch, output, "output")
        batch.error_output = self._keep(batch, errors, "error")

    def _keep(self, batch: Batch, path: Any, part: str) -> StoredFile | None:
        size = path.stat().st_size
        if not size:
            return None
        stored = StoredFile(
            f"file-{secrets.token_hex(11)}", path, f"{batch.id}_{part}.jsonl", size, self._state.now(), "batch_output"
        )
        return self._state.add_file("openai", stored)

    def _write_row(self, batch: Batch, raw: bytes, kind: str, now: int) -> tuple[bytes, bool]:
        line = self._lines.decode(raw)
        row: dict[str, Any] = {
            "id": f"batch_req_{secrets.token_hex(16)}", "custom_id": line.custom_id, "response": None, "error": None,
        }  # fmt: skip
        if kind in _NOT_RUN:
            code, message = _NOT_RUN[kind]
            setattr(batch.tally, kind, getattr(batch.tally, kind) + 1)
            row["error"] = {"code": code, "message": message}
            return msgspec.json.encode(row), True
        status, body = self.run(batch.endpoint, bytes(line.body), kind, batch, now)
        row["response"] = {"status_code": status, "request_id": secrets.token_hex(16), "body": body}
        return msgspec.json.encode(row), status != 200

    def run(self, endpoint: str, raw: bytes, kind: str, batch: Batch, now: int) -> tuple[int, dict[str, Any]]:
        """Answer one request; return its status and body."""
        body = self._bodies.decode(raw)
        error = _refusal(endpoint, body, kind)
        if error:
            batch.tally.errored += 1
            return (500 if error["type"] == "server_error" else 400), {"error": error}
        batch.tally.succeeded += 1
        return 200, self.answers.answer(endpoint, body, raw, kind, batch.tally, now)

    def render(self, batch: Batch) -> dict[str, Any]:
        """Return the batch object as OpenAI shows it."""
        tally = batch.tally if batch.status == "ended" else type(batch.tally)()
        times = {name: int(at) for name, at in batch.times.items()}
        status = _STATUS_WORDS.get(batch.status, batch.status)
        if self._state.faults.unknown_status and not batch.is_terminal:
            status = self._state.faults.unknown_status
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "model": batch.model or None,
            "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
            "input_file_id": batch.details["input_file_id"],
            "completion_window": "24h",
            "status": status,
            "output_file_id": batch.output.id if batch.output else None,
            "error_file_id": batch.error_output.id if batch.error_output else None,
            "created_at": int(batch.created_at),
            "in_progress_at": times.get("in_progress"),
            "expires_at": int(batch.expires_at),
            "finalizing_at": times.get("finalizing"),
            "completed_at": times.get("ended"),
            "failed_at": times.get("failed"),
            "expired_at": times.get("expired"),
            "cancelling_at": times.get("canceling"),
            "cancelled_at": times.get("canceled"),
            "request_counts": self._counts(batch),
            "usage": {
                "input_tokens": tally.input_tokens,
                "output_tokens": tally.output_tokens,
                "total_tokens": tally.input_tokens + tally.output_tokens,
                "input_tokens_details": {"cached_tokens": tally.cached_tokens},
                "output_tokens_details": {"reasoning_tokens": tally.reasoning_tokens},
            },
            "metadata": batch.details.get("metadata"),
        }

    @staticmethod
    def _counts(batch: Batch) -> dict[str, int]:
        if batch.is_terminal:
            completed, failed = batch.tally.succeeded, batch.tally.errored
        else:
            completed, failed = int(batch.row_count * batch.fraction), 0
        return {"total": batch.row_count, "completed": completed, "failed": failed}
