"""Writing down traffic in the form the schema checks read: method, path, status and body of each reply."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MAX_BODY_BYTES = 4 << 20


class Recorder:
    """ASGI middleware that keeps every reply with a text body of at most 4 MB."""

    def __init__(self, app: ASGIApp, path: Path) -> None:
        self._app = app
        self._path = path
        self._replies: list[tuple[str, str, int, str]] = []
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a call and keep its reply."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status, body = 0, bytearray()

        async def keep(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and len(body) <= _MAX_BODY_BYTES:
                body.extend(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, keep)
        if status and len(body) <= _MAX_BODY_BYTES:
            with self._lock:
                self._replies.append((scope["method"], scope["path"], status, body.decode("utf-8", "replace")))
        return None

    def save(self) -> None:
        """Write what was kept as one JSON list."""
        with self._lock:
            self._path.write_bytes(msgspec.json.encode(self._replies))
