"""Gemini's Files API with resumable uploads (https://ai.google.dev/api/files)."""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from airflow_raif.emulator.state import EmulatorState, StoredFile
from airflow_raif.emulator.wire import Dialect, JsonResponse, host_url, read_json, read_limit, read_page_token, reject

_KEPT_SECONDS = 48 * 3600
_GRANULARITY = 256 * 1024


def moment(at: float | None) -> str | None:
    """Write Unix seconds as Google does."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class _Upload:
    path: Path
    version: str
    display_name: str
    mime_type: str
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


class GeminiFiles:
    """Uploads, shows, downloads and deletes files."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state
        self._uploads: dict[str, _Upload] = {}

    def add_routes(self, dialect: Dialect) -> None:
        """Add the routes."""
        dialect.add("POST", "/upload/{v}/files", "files.upload", self._upload)
        dialect.add("PUT", "/upload/{v}/files", "files.upload", self._upload)
        dialect.add("GET", "/download/{v}/files/{id}:download", "files.download", self._download)
        dialect.add("GET", "/{v}/files/{id}:download", "files.download", self._download)
        dialect.add("GET", "/{v}/files", "files.list", self._list)
        dialect.add("GET", "/{v}/files/{id}", "files.get", self._get)
        dialect.add("DELETE", "/{v}/files/{id}", "files.delete", self._delete)

    def keep_output(self, path: Path, name: str) -> StoredFile:
        """Keep a results file under its name."""
        stored = StoredFile(f"files/{name}", path, name, path.stat().st_size, self._state.now())
        return self._state.add_file("gemini", stored)

    async def _upload(self, request: Request) -> Response:
        commands = [word.strip() for word in request.headers.get("x-goog-upload-command", "").split(",")]
        if "start" in commands:
            return await self._start(request)
        upload = self._uploads.get(request.query_params.get("upload_id", ""))
        if upload is None:
            reject(404, "Upload not found.")
        if "query" in commands:
            return Response(headers=_progress(upload))
        if request.headers.get("x-goog-upload-offset", "0") != str(upload.size):
            reject(400, f"Invalid upload offset: the next byte is {upload.size}.")
        if "upload" in commands:
            await self._receive(request, upload, is_last="finalize" in commands)
        if "finalize" not in commands:
            return Response(headers=_progress(upload))
        return self._finalize(request, upload)

    async def _start(self, request: Request) -> Response:
        if request.headers.get("x-goog-upload-protocol") != "resumable":
            reject(400, "Unsupported upload protocol.")
        body = await read_json(request, dict[str, dict[str, Any]])
        upload_id = secrets.token_urlsafe(24)
        version = request.path_params["v"]
        file = body.get("file") or {}
        self._uploads[upload_id] = _Upload(
            self._state.new_path(),
            version,
            file.get("displayName") or file.get("display_name") or "",
            request.headers.get("x-goog-upload-header-content-type") or "application/octet-stream",
        )
        address = f"{host_url(request)}/upload/{version}/files?upload_id={upload_id}&upload_protocol=resumable"
        headers = {
            "x-goog-upload-url": address,
            "x-goog-upload-status": "active",
            "x-goog-upload-chunk-granularity": str(_GRANULARITY),
        }
        return Response(headers=headers)

    async def _receive(self, request: Request, upload: _Upload, *, is_last: bool) -> None:
        before = upload.size
        with upload.path.open("ab") as file:
            async for block in request.stream():
                upload.size += len(block)
                if upload.size > self._state.settings.gemini_max_file_bytes:
                    reject(400, "Request payload size exceeds the limit.")
                upload.digest.update(block)
                file.write(block)
        if not is_last and (upload.size - before) % _GRANULARITY:
            reject(400, f"Invalid chunk size: all chunks but the last must be a multiple of {_GRANULARITY} bytes.")

    def _finalize(self, request: Request, upload: _Upload) -> Response:
        upload_id = request.query_params["upload_id"]
        del self._uploads[upload_id]
        upload.path.touch()
        stored = StoredFile(
            f"files/{secrets.token_hex(6)}",
            upload.path,
            upload.display_name,
            upload.size,
            self._state.now(),
            "upload",
            upload.mime_type,
            upload.digest.hexdigest(),
        )
        self._state.add_file("gemini", stored)
        self._state.uploads["gemini"] += 1
        return JsonResponse({"file": _render(request, stored)}, 200, {"x-goog-upload-status": "final"})

    def find(self, name: str) -> StoredFile:
        """Return a file.

        :raises ApiError: there is none, or it has expired.
        """
        file = self._state.files["gemini"].get(name)
        if file is None or (file.purpose == "upload" and self._state.now() > file.created_at + _KEPT_SECONDS):
            if name.startswith("files/batch-"):
                reject(404, f"Requested entity was not found: {name}")
            # So it speaks of uploads: https://github.com/googleapis/python-genai/issues/1218.
            reject(403, f"You do not have permission to access the File {name[6:]} or it may not exist.")
        return file

    def _from(self, request: Request) -> StoredFile:
        return self.find(f"files/{request.path_params['id']}")

    def _get(self, request: Request) -> Response:
        return JsonResponse(_render(request, self._from(request)))

    def _list(self, request: Request) -> Response:
        limit = read_limit(request, "pageSize", 10, 100)
        files = [file for file in self._state.files["gemini"].values() if file.purpose == "upload"]
        start = read_page_token(request)
        page: dict[str, Any] = {"files": [_render(request, file) for file in files[start : start + limit]]}
        if len(files) > start + limit:
            page["nextPageToken"] = str(start + limit)
        return JsonResponse(page)

    def _delete(self, request: Request) -> Response:
        file = self._from(request)
        self._state.remove_file("gemini", file)
        return JsonResponse({})

    def _download(self, request: Request) -> Response:
        if request.query_params.get("alt") != "media":
            reject(400, "Downloads need alt=media.")
        file = self._from(request)
        if file.purpose == "upload":
            reject(400, "Only generated files can be downloaded.")
        return FileResponse(file.path, media_type="application/octet-stream")


def _progress(upload: _Upload) -> dict[str, str]:
    return {"x-goog-upload-status": "active", "x-goog-upload-size-received": str(upload.size)}


def _render(request: Request, file: StoredFile) -> dict[str, Any]:
    return {
        "name": file.id,
        **({"displayName": file.filename} if file.filename else {}),
        "mimeType": file.mime_type,
        "sizeBytes": str(file.size),
        "createTime": moment(file.created_at),
        "updateTime": moment(file.created_at),
        "expirationTime": moment(file.created_at + _KEPT_SECONDS),
        "sha256Hash": b64encode(file.sha256.encode()).decode(),
        "uri": f"{host_url(request)}/v1beta/{file.id}",
        "state": "ACTIVE",
        "source": "UPLOADED" if file.purpose == "upload" else "GENERATED",
    }
