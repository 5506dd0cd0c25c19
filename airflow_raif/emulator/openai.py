"""OpenAI's Files, Batches, Models and the endpoints a batch may call (https://platform.openai.com/docs/api-reference)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from airflow_raif.emulator.compose import Composer
from airflow_raif.emulator.openai_answers import ENDPOINTS
from airflow_raif.emulator.openai_batch import OpenAIBatches, is_unknown_model
from airflow_raif.emulator.state import DAY_SECONDS, Batch, EmulatorState, StoredFile
from airflow_raif.emulator.wire import ApiError, Dialect, JsonResponse, read_json, read_limit, reject

MODELS = ("gpt-5-nano", "gpt-5-mini", "gpt-5", "gpt-4.1-mini", "text-embedding-3-small", "text-embedding-3-large")
_BLOCK = 1024 * 1024
_KINDS = {400: "invalid_request_error", 401: "invalid_request_error", 404: "invalid_request_error", 429: "requests"}


def render_error(status: int, message: str, code: str, headers: Mapping[str, str] | None) -> Response:
    """Render an error as OpenAI does."""
    code = code or {429: "rate_limit_exceeded"}.get(status, "")
    error = {"message": message, "type": _KINDS.get(status, "server_error"), "param": None, "code": code or None}
    return JsonResponse({"error": error}, status, dict(headers or {}))


class OpenAIDialect:
    """Serves OpenAI's routes."""

    def __init__(self, state: EmulatorState, composer: Composer) -> None:
        self._state = state
        self._batches = OpenAIBatches(state, composer)

    def routes(self) -> list[Route]:
        """Return the routes."""
        bad_key = ApiError(401, "Incorrect API key provided.", "invalid_api_key")
        dialect = Dialect(self._state, "openai", render_error, bad_key, id_header="x-request-id")
        dialect.add("POST", "/v1/files", "files.create", self._create_file)
        dialect.add("GET", "/v1/files", "files.list", self._list_files)
        dialect.add("GET", "/v1/files/{id}", "files.get", self._get_file)
        dialect.add("DELETE", "/v1/files/{id}", "files.delete", self._delete_file)
        dialect.add("GET", "/v1/files/{id}/content", "files.content", self._file_content)
        dialect.add("POST", "/v1/batches", "batches.create", self._create_batch)
        dialect.add("GET", "/v1/batches", "batches.list", self._list_batches)
        dialect.add("GET", "/v1/batches/{id}", "batches.get", self._get_batch)
        dialect.add("POST", "/v1/batches/{id}/cancel", "batches.cancel", self._cancel_batch)
        dialect.add("GET", "/v1/models", "models.list", self._list_models)
        dialect.add("GET", "/v1/models/{id:path}", "models.get", self._get_model)
        for endpoint in ENDPOINTS:
            dialect.add("POST", endpoint, endpoint.removeprefix("/v1/").replace("/", "."), self._answer)
        return dialect.routes

    async def _create_file(self, request: Request) -> Response:
        if "multipart/form-data" not in request.headers.get("content-type", ""):
            reject(400, "The request must be multipart/form-data.")
        # Starlette spools the file part to disk beyond 1 MB, so an upload is never held in memory.
        async with request.form() as form:
            upload, purpose = form.get("file"), form.get("purpose")
            if not isinstance(upload, UploadFile):
                reject(400, "Missing required parameter: 'file'.")
            if not isinstance(purpose, str) or not purpose:
                reject(400, "Missing required parameter: 'purpose'.")
            path = self._state.new_path()
            size = 0
            with path.open("wb") as target:
                while block := await upload.read(_BLOCK):
                    size += target.write(block)
            name = upload.filename or "file"
        stored = StoredFile(f"file-{secrets.token_hex(11)}", path, name, size, self._state.now(), purpose)
        self._state.add_file("openai", stored)
        self._state.uploads["openai"] += 1
        return JsonResponse(self._render_file(stored))

    @staticmethod
    def _render_file(file: StoredFile) -> dict[str, Any]:
        return {
            "object": "file",
            "id": file.id,
            "purpose": file.purpose,
            "filename": file.filename,
            "bytes": file.size,
            "created_at": int(file.created_at),
            "expires_at": int(file.created_at) + 30 * DAY_SECONDS,
            "status": "processed",
            "status_details": None,
        }

    def _file(self, request: Request) -> StoredFile:
        file = self._state.files["openai"].get(request.path_params["id"])
        return file or reject(404, f"No such File object: {request.path_params['id']}")

    def _list_files(self, request: Request) -> Response:
        purpose = request.query_params.get("purpose")
        files = [f for f in reversed(self._state.files["openai"].values()) if purpose in (None, f.purpose)]
        return self._page(request, files, self._render_file, 10_000, 10_000)

    def _get_file(self, request: Request) -> Response:
        return JsonResponse(self._render_file(self._file(request)))

    def _delete_file(self, request: Request) -> Response:
        file = self._file(request)
        self._state.remove_file("openai", file)
        return JsonResponse({"id": file.id, "object": "file", "deleted": True})

    def _file_content(self, request: Request) -> Response:
        file = self._file(request)
        return FileResponse(file.path, media_type="application/octet-stream", filename=file.filename)

    async def _create_batch(self, request: Request) -> Response:
        body = await read_json(request)
        for name in ("input_file_id", "endpoint", "completion_window"):
            if not body.get(name):
                reject(400, f"Missing required parameter: '{name}'.", "missing_required_parameter")
            if not isinstance(body[name], str):
                reject(400, f"Invalid type for '{name}': expected a string.", "invalid_type")
        if body["completion_window"] != "24h":
            reject(400, "Invalid value: 'completion_window' must be '24h'.", "invalid_value")
        if body["endpoint"] not in ENDPOINTS:
            reject(400, f"Invalid value: '{body['endpoint']}' is no endpoint for batches.", "invalid_value")
        file = self._state.files["openai"].get(body["input_file_id"])
        if file is None:
            reject(400, f"Invalid file id: {body['input_file_id']}", "invalid_value")
        if file.purpose != "batch":
            reject(400, "Invalid purpose: the input file must have the purpose 'batch'.", "invalid_value")
        now = self._state.now()
        batch = Batch(
            id=f"batch_{secrets.token_hex(16)}",
            provider="openai",
            model="",
            endpoint=body["endpoint"],
            rows_path=file.path,
            created_at=now,
            expires_at=now + DAY_SECONDS,
            status="validating",
            details={"input_file_id": file.id, "metadata": _check_metadata(body.get("metadata"))},
        )
        return JsonResponse(self._batches.render(self._state.add_batch(batch)))

    def _batch(self, request: Request) -> Batch:
        batch = self._state.batches["openai"].get(request.path_params["id"])
        return batch or reject(404, f"No batch found with id '{request.path_params['id']}'.")

    def _list_batches(self, request: Request) -> Response:
        def show(batch: Batch) -> dict[str, Any]:
            return self._batches.render(self._batches.look(batch))

        return self._page(request, list(reversed(self._state.batches["openai"].values())), show, 20, 100)

    def _get_batch(self, request: Request) -> Response:
        return JsonResponse(self._batches.render(self._batches.look(self._batch(request))))

    def _cancel_batch(self, request: Request) -> Response:
        batch = self._batch(request)
        if batch.is_terminal:
            status = self._batches.render(batch)["status"]
            reject(409, f"Cannot cancel a batch with status '{status}'.")
        if batch.status == "validating":
            self._batches.check(batch)
        if not batch.is_terminal:
            self._state.cancel(batch)
        return JsonResponse(self._batches.render(batch))

    def _page(self, request: Request, items: list[Any], render: Any, default: int, highest: int) -> Response:
        limit = read_limit(request, "limit", default, highest)
        after = request.query_params.get("after")
        if after:
            ids = [item.id for item in items]
            if after not in ids:
                reject(400, f"Invalid cursor: no object with id '{after}'.", "invalid_value")
            items = items[ids.index(after) + 1 :]
        data = [render(item) for item in items[:limit]]
        return JsonResponse(
            {
                "object": "list",
                "data": data,
                "first_id": data[0]["id"] if data else None,
                "last_id": data[-1]["id"] if data else None,
                "has_more": len(items) > limit,
            }
        )

    def _list_models(self, _: Request) -> Response:
        return JsonResponse({"object": "list", "data": [_render_model(model) for model in MODELS]})

    def _get_model(self, request: Request) -> Response:
        model = request.path_params["id"]
        if is_unknown_model(model):
            reject(404, f"The model '{model}' does not exist", "model_not_found")
        return JsonResponse(_render_model(model))

    async def _answer(self, request: Request) -> Response:
        raw = await request.body()
        try:
            model = msgspec.json.decode(raw).get("model")
        except (msgspec.DecodeError, AttributeError):
            reject(400, "We could not parse the JSON body of your request.")
        if not isinstance(model, str) or not model:
            reject(400, "you must provide a model parameter")
        if is_unknown_model(model):
            reject(404, f"The model '{model}' does not exist", "model_not_found")
        now = self._state.now()
        single = Batch("", "openai", model, request.url.path, self._state.directory, now, now)
        try:
            status, body = self._batches.run(request.url.path, raw, "", single, int(now))
        except msgspec.DecodeError as exc:
            reject(400, f"Invalid type: {exc}", "invalid_type")
        return JsonResponse(body, status)


def _render_model(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 1_754_524_800, "owned_by": "openai"}


def _check_metadata(metadata: Any) -> dict[str, str] | None:
    if metadata is None:
        return None
    if not isinstance(metadata, dict) or len(metadata) > 16:
        reject(400, "Invalid 'metadata': at most 16 pairs.", "invalid_value")
    for key, value in metadata.items():
        if not isinstance(value, str) or len(key) > 64 or len(value) > 512:
            reject(400, f"Invalid 'metadata': {key!r} is too long or no text.", "invalid_value")
    return metadata
