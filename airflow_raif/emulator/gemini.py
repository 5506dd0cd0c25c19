"""Gemini's batches, files, models and content routes (https://ai.google.dev/api)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_raif.emulator.compose import Composer, input_tokens
from airflow_raif.emulator.gemini_answers import BadRequestError, check_request
from airflow_raif.emulator.gemini_batch import GeminiBatches, new_batch_id
from airflow_raif.emulator.gemini_files import GeminiFiles
from airflow_raif.emulator.results import read_lines
from airflow_raif.emulator.state import DAY_SECONDS, Batch, EmulatorState, Tally
from airflow_raif.emulator.wire import ApiError, Dialect, JsonResponse, read_limit, read_page_token, reject, save_body

MODELS = ("gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro", "gemini-embedding-001")
_STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


_QUEUE_IS_FULL = "You exceeded your current quota of enqueued batch tokens."


class _Inline(msgspec.Struct):
    requests: list[dict[str, msgspec.Raw]]


class _Input(msgspec.Struct):
    requests: _Inline | None = None
    fileName: str | None = None
    #: google-genai sends the embeddings file in snake case; Google's parser takes both.
    file_name: str | None = None


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    displayName: str = ""
    inputConfig: _Input | None = None
    input_config: _Input | None = None
    display_name: str = ""
    model: str = ""
    priority: int | str = 0
    webhookConfig: msgspec.Raw = msgspec.Raw(b"")


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    batch: _Body


def render_error(status: int, message: str, code: str, headers: Mapping[str, str] | None) -> Response:
    """Render an error as Google does."""
    status = 400 if status == 413 else status
    error: dict[str, Any] = {"code": status, "message": message, "status": _STATUSES.get(status, "UNKNOWN")}
    if code == "API_KEY_INVALID":
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code, "domain": "googleapis.com"}
        error["details"] = [info]
    return JsonResponse({"error": error}, status, dict(headers or {}))


class GeminiDialect:
    """Serves Gemini's routes, under /v1beta and /v1 alike."""

    def __init__(self, state: EmulatorState, composer: Composer) -> None:
        self._state = state
        self._files = GeminiFiles(state)
        self._batches = GeminiBatches(state, self._files, composer)

    def routes(self) -> list[Route]:
        """Return the routes."""
        message = "API key not valid. Please pass a valid API key."
        dialect = Dialect(self._state, "gemini", render_error, ApiError(400, message, "API_KEY_INVALID"))
        self._files.add_routes(dialect)
        dialect.add("POST", "/{v}/models/{model}:batchGenerateContent", "batches.create", self._create)
        dialect.add("POST", "/{v}/models/{model}:asyncBatchEmbedContent", "batches.create", self._create)
        dialect.add("POST", "/{v}/models/{model}:generateContent", "models.generate", self._generate)
        dialect.add("POST", "/{v}/models/{model}:embedContent", "models.embed", self._generate)
        dialect.add("POST", "/{v}/batches/{id}:cancel", "batches.cancel", self._cancel)
        dialect.add("GET", "/{v}/batches", "batches.list", self._list)
        dialect.add("GET", "/{v}/batches/{id}", "batches.get", self._get)
        dialect.add("DELETE", "/{v}/batches/{id}", "batches.delete", self._delete)
        dialect.add("GET", "/{v}/models", "models.list", self._list_models)
        dialect.add("GET", "/{v}/models/{model}", "models.get", self._get_model)
        return dialect.routes

    async def _create(self, request: Request) -> Response:
        model, endpoint = _model(request), request.url.path.rpartition(":")[2]
        if self._state.faults.take_count("token_limit_exceeded"):
            reject(429, _QUEUE_IS_FULL)
        body_path = self._state.new_path()
        await save_body(request, body_path, self._state.settings.gemini_max_inline_bytes)
        batch = await run_in_threadpool(self._make_batch, body_path, model, endpoint)
        body_path.unlink()
        if (limit := self._state.settings.gemini_max_enqueued_tokens) is not None:
            tokens = sum(input_tokens(len(raw)) for raw in read_lines(batch.rows_path))
            if not self._state.enqueue(batch, tokens, limit):
                reject(429, _QUEUE_IS_FULL)
        return JsonResponse(self._batches.render(self._state.add_batch(batch)))

    def _make_batch(self, body_path: Path, model: str, endpoint: str) -> Batch:
        try:
            body = msgspec.json.decode(body_path.read_bytes(), type=_Create).batch
        except msgspec.DecodeError as exc:
            reject(400, f"Invalid JSON payload received. {exc}")
        source = body.inputConfig or body.input_config or _Input()
        file_name = source.fileName or source.file_name
        now = self._state.now()
        batch = Batch(
            id=new_batch_id(),
            provider="gemini",
            model=model,
            endpoint=endpoint,
            rows_path=self._state.new_path(),
            created_at=now,
            expires_at=now + 2 * DAY_SECONDS,
            details={"displayName": body.displayName or body.display_name, "inputConfig": {}},
        )
        if file_name:
            batch.rows_path = self._files.find(file_name).path
            batch.details["inputConfig"] = {"fileName": file_name}
            self._batches.count_rows(batch)
        else:
            batch.row_count = self._save_inline(source, batch)
        return batch

    @staticmethod
    def _save_inline(source: _Input, batch: Batch) -> int:
        """Write one request a line. A malformed one refuses the whole create."""
        requests = source.requests.requests if source.requests else []
        if not requests:
            reject(400, "* BatchGenerateContentRequest.batch.input_config: requests is not specified")
        with batch.rows_path.open("wb") as lines:
            for number, fields in enumerate(requests):
                where = f"batch.input_config.requests.requests[{number}]"
                unknown = fields.keys() - {"request", "metadata"}
                if unknown:
                    reject(400, f"Invalid JSON payload received. Unknown name \"{min(unknown)}\" at '{where}'")
                metadata = bytes(fields.get("metadata", b"{}"))
                if not metadata.startswith(b"{"):
                    reject(400, f"Invalid value at '{where}.metadata' (type.googleapis.com/google.protobuf.Struct)")
                try:
                    check_request(bytes(fields.get("request", b"{}")), embeds=batch.endpoint.startswith("asyncBatch"))
                except BadRequestError as exc:
                    reject(400, f"{where}: {exc}")
                lines.write(msgspec.json.format(msgspec.json.encode(fields), indent=-1) + b"\n")
        return len(requests)

    def _batch(self, request: Request) -> Batch:
        batch = self._state.batches["gemini"].get(f"batches/{request.path_params['id']}")
        return batch or reject(404, f"Requested entity was not found: batches/{request.path_params['id']}")

    def _get(self, request: Request) -> Response:
        return JsonResponse(self._batches.render(self._batches.look(self._batch(request))))

    def _list(self, request: Request) -> Response:
        limit = read_limit(request, "pageSize", 20, 1000)
        start = read_page_token(request)
        batches = list(reversed(self._state.batches["gemini"].values()))
        shown = [self._batches.look(batch) for batch in batches[start : start + limit]]
        page: dict[str, Any] = {"operations": [self._batches.render(batch, with_results=False) for batch in shown]}
        if len(batches) > start + limit:
            page["nextPageToken"] = str(start + limit)
        return JsonResponse(page)

    def _cancel(self, request: Request) -> Response:
        batch = self._batch(request)
        if not batch.is_terminal:
            self._state.cancel(batch)
        return JsonResponse({})

    def _delete(self, request: Request) -> Response:
        batch = self._batch(request)
        with self._state.lock:
            del self._state.batches["gemini"][batch.id]
            if batch.output:
                self._state.files["gemini"].pop(batch.output.id, None)
        return JsonResponse({})

    async def _generate(self, request: Request) -> Response:
        is_embed = request.url.path.endswith(":embedContent")
        model, raw = _model(request), await request.body()
        try:
            return JsonResponse(self._batches.answers.answer(model, raw, "", Tally(), embeds=is_embed))
        except BadRequestError as exc:
            reject(400, str(exc))

    def _list_models(self, request: Request) -> Response:
        limit = read_limit(request, "pageSize", 50, 1000)
        return JsonResponse({"models": [_render_model(name) for name in MODELS[:limit]]})

    def _get_model(self, request: Request) -> Response:
        return JsonResponse(_render_model(_model(request)))


def _model(request: Request) -> str:
    model: str = request.path_params["model"]
    if not model.startswith("gemini"):
        version = request.path_params["v"]
        reject(404, f"models/{model} is not found for API version {version}, or is not supported for this method.")
    return model


def _render_model(name: str) -> dict[str, Any]:
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name,
        "supportedGenerationMethods": ["generateContent", "batchGenerateContent"],
    }
