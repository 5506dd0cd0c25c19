"""Anthropic's Message Batches, Messages and Models (https://docs.anthropic.com/en/api)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from airflow_raif.emulator.anthropic_answers import AnthropicAnswers, RefusedError
from airflow_raif.emulator.compose import Composer
from airflow_raif.emulator.results import ResultFiles
from airflow_raif.emulator.state import DAY_SECONDS, Batch, EmulatorState, StoredFile, Tally
from airflow_raif.emulator.wire import ApiError, Dialect, JsonResponse, host_url, read_limit, reject, save_body

MODELS = ("claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5")
_CUSTOM_ID = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
_KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
_STATUS_OF_KIND = {kind: status for status, kind in _KINDS.items()}


class _Entry(msgspec.Struct):
    custom_id: str
    params: msgspec.Raw


class _Create(msgspec.Struct):
    requests: list[msgspec.Raw]


_decode_entry = msgspec.json.Decoder(_Entry).decode


def render_error(status: int, message: str, code: str, headers: Mapping[str, str] | None) -> Response:
    """Render an error as Anthropic does."""
    request_id = f"req_{secrets.token_hex(12)}"
    error: dict[str, Any] = {"type": _KINDS.get(status, "api_error"), "message": message}
    if code and code not in _STATUS_OF_KIND:
        error["details"] = {"error_code": code}
    return JsonResponse(
        {"type": "error", "error": error, "request_id": request_id},
        status,
        {"request-id": request_id, **(headers or {})},
    )


def _moment(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")


class AnthropicDialect:
    """Serves Anthropic's routes."""

    def __init__(self, state: EmulatorState, composer: Composer) -> None:
        self._state = state
        self._answers = AnthropicAnswers(composer)

    def routes(self) -> list[Route]:
        """Return the routes."""
        bad_key = ApiError(401, "invalid x-api-key")
        dialect = Dialect(self._state, "anthropic", render_error, bad_key, id_header="request-id")
        batches = "/v1/messages/batches"
        dialect.add("POST", batches, "batches.create", self._create)
        dialect.add("GET", batches, "batches.list", self._list)
        dialect.add("GET", batches + "/{id}", "batches.get", self._get)
        dialect.add("DELETE", batches + "/{id}", "batches.delete", self._delete)
        dialect.add("POST", batches + "/{id}/cancel", "batches.cancel", self._cancel)
        dialect.add("GET", batches + "/{id}/results", "batches.results", self._results)
        dialect.add("POST", "/v1/messages", "messages.create", self._message)
        dialect.add("GET", "/v1/models", "models.list", self._list_models)
        return dialect.routes

    async def _create(self, request: Request) -> Response:
        settings = self._state.settings
        body = self._state.new_path()
        await save_body(request, body, settings.anthropic_max_bytes)
        rows = self._state.new_path()
        count = await run_in_threadpool(self._split, body, rows)
        body.unlink()
        now = self._state.now()
        batch = Batch(
            id=f"msgbatch_{secrets.token_hex(12)}",
            provider="anthropic",
            model="",
            endpoint="/v1/messages",
            rows_path=rows,
            created_at=now,
            expires_at=now + DAY_SECONDS,
            row_count=count,
        )
        if not self._state.enqueue(batch, count, settings.anthropic_max_queued_requests):
            reject(429, "Number of batch requests in the processing queue would exceed your organization's rate limit")
        return self._reply(request, self._state.add_batch(batch))

    def _split(self, body: Path, rows: Path) -> int:
        """Check the create and write one request a line; params are looked at only when a row runs."""
        try:
            requests = msgspec.json.decode(body.read_bytes(), type=_Create).requests
        except msgspec.DecodeError as exc:
            reject(400, f"requests: {exc}")
        if not requests:
            reject(400, "requests: List should have at least 1 item after validation, not 0")
        if len(requests) > self._state.settings.anthropic_max_rows:
            reject(400, f"requests: at most {self._state.settings.anthropic_max_rows} requests are allowed in a batch")
        seen: set[str] = set()
        with rows.open("wb") as lines:
            for number, raw in enumerate(requests):
                try:
                    entry = _decode_entry(raw)
                except msgspec.DecodeError as exc:
                    reject(400, f"requests.{number}: {exc}")
                if not _CUSTOM_ID.fullmatch(entry.custom_id):
                    reject(400, f"requests.{number}.custom_id: String should match pattern '{_CUSTOM_ID.pattern}'")
                if entry.custom_id in seen:
                    reject(400, f"requests.{number}.custom_id: custom_id must be unique; {entry.custom_id!r} is not")
                seen.add(entry.custom_id)
                lines.write(msgspec.json.format(bytes(raw), indent=-1) + b"\n")
        return len(seen)

    def _batch(self, request: Request) -> Batch:
        batch = self._state.batches["anthropic"].get(request.path_params["id"])
        return batch or reject(404, f"Message Batch {request.path_params['id']} not found.")

    def _look(self, batch: Batch) -> Batch:
        return self._state.look(batch, lambda _: None, self._finish)

    def _get(self, request: Request) -> Response:
        return self._reply(request, self._look(self._batch(request)))

    def _reply(self, request: Request, batch: Batch) -> Response:
        # Seen in real traffic: a batch that runs comes with a hint when to ask again.
        headers = {} if batch.is_terminal or request.method != "GET" else {"retry-after": "10"}
        return JsonResponse(self._render(request, batch), 200, headers)

    def _list(self, request: Request) -> Response:
        limit = read_limit(request, "limit", 20, 1000)
        batches = list(reversed(self._state.batches["anthropic"].values()))
        ids = [batch.id for batch in batches]
        after, before = request.query_params.get("after_id"), request.query_params.get("before_id")
        for cursor in (after, before):
            if cursor and cursor not in ids:
                reject(400, f"Invalid cursor: {cursor}")
        if after:
            batches = batches[ids.index(after) + 1 :]
        elif before:
            batches = batches[max(0, ids.index(before) - limit) : ids.index(before)]
        data = [self._render(request, self._look(batch)) for batch in batches[:limit]]
        has_more = ids.index(before) > limit if before else len(batches) > limit
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return JsonResponse({"data": data, "has_more": has_more, "first_id": first, "last_id": last})

    def _cancel(self, request: Request) -> Response:
        batch = self._batch(request)
        if batch.is_terminal:
            reject(400, f"Batch {batch.id} cannot be canceled: it has already ended.")
        self._state.cancel(batch)
        return self._reply(request, batch)

    def _delete(self, request: Request) -> Response:
        batch = self._batch(request)
        if not batch.is_terminal:
            reject(400, f"Batch {batch.id} cannot be deleted before it has ended; cancel it first.")
        with self._state.lock:
            del self._state.batches["anthropic"][batch.id]
        return JsonResponse({"id": batch.id, "type": "message_batch_deleted"})

    def _results(self, request: Request) -> Response:
        batch = self._batch(request)
        if batch.output is None:
            reject(404, f"Batch {batch.id} has no available results.")
        return FileResponse(batch.output.path, media_type="application/x-jsonl")

    def _finish(self, batch: Batch, done: int, rest: str) -> None:
        path = self._state.new_path()
        ResultFiles(self._state, path, None).write(
            batch,
            done,
            rest,
            lambda raw: _decode_entry(raw).custom_id,
            lambda raw, kind: (self._write_row(batch.tally, raw, kind), False),
        )
        batch.output = StoredFile(batch.id, path, "results.jsonl", path.stat().st_size, self._state.now())

    def _write_row(self, tally: Tally, raw: bytes, kind: str) -> bytes:
        entry = _decode_entry(raw)
        return msgspec.json.encode({"custom_id": entry.custom_id, "result": self._result(entry, tally, kind)})

    def _result(self, entry: _Entry, tally: Tally, kind: str) -> dict[str, Any]:
        if kind in ("canceled", "expired"):
            setattr(tally, kind, getattr(tally, kind) + 1)
            return {"type": kind}
        refused = {
            "errored": RefusedError("invalid_request_error", "Emulated invalid request."),
            "overloaded": RefusedError("overloaded_error", "Overloaded"),
        }.get(kind)
        try:
            if refused:
                raise refused
            message = self._answers.answer(bytes(entry.params), kind, tally)
        except RefusedError as exc:
            tally.errored += 1
            error = {"type": "error", "error": {"type": exc.kind, "message": str(exc)}, "request_id": None}
            return {"type": "errored", "error": error}
        tally.succeeded += 1
        return {"type": "succeeded", "message": message}

    def _render(self, request: Request, batch: Batch) -> dict[str, Any]:
        status = "ended" if batch.is_terminal else "canceling" if batch.status == "canceling" else "in_progress"
        tally = batch.tally if batch.is_terminal else Tally()
        if self._state.faults.unknown_status and not batch.is_terminal:
            status = self._state.faults.unknown_status
        url = f"{host_url(request)}/v1/messages/batches/{batch.id}/results"
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": {
                "processing": 0 if batch.is_terminal else batch.row_count,
                "succeeded": tally.succeeded,
                "errored": tally.errored,
                "canceled": tally.canceled,
                "expired": tally.expired,
            },
            "ended_at": _moment(batch.times.get(batch.status)) if batch.is_terminal else None,
            "created_at": _moment(batch.created_at),
            "expires_at": _moment(batch.expires_at),
            "archived_at": None,
            "cancel_initiated_at": _moment(batch.times.get("canceling")),
            "results_url": url if batch.output else None,
        }

    async def _message(self, request: Request) -> Response:
        try:
            return JsonResponse(self._answers.answer(await request.body(), "", Tally()))
        except RefusedError as exc:
            reject(_STATUS_OF_KIND[exc.kind], str(exc))

    def _list_models(self, _: Request) -> Response:
        created = "2025-10-01T00:00:00Z"
        data = [{"type": "model", "id": name, "display_name": name, "created_at": created} for name in MODELS]
        return JsonResponse({"data": data, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]})
