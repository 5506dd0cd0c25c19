"""A gateway before an emulator: it sees every call, and may change an answer or give one of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx


@dataclass
class Call:
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def is_download(self) -> bool:
        """Whether it asks for a batch's results."""
        return self.path.endswith(("/content", "/results")) or self.path.startswith("/download/")


@dataclass
class Answer:
    """What it gets back."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    #: Whether the answer says how long it is; otherwise it ends with the connection.
    has_length: bool = True


class Gateway:
    """Serves on loopback.

    :param upstream: where calls go on to; without one every call is answered with 404.
    """

    def __init__(self, upstream: str = "") -> None:
        self.calls: list[Call] = []
        #: Makes of the upstream's answer what the client gets.
        self.change: Callable[[Call, Answer], Answer] = lambda call, answer: answer
        self._client = httpx.Client(timeout=30, trust_env=False)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(upstream))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _handler(self, upstream: str) -> type[BaseHTTPRequestHandler]:
        gateway, client = self, self._client

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_call(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                call = Call(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                gateway.calls.append(call)
                answer = gateway.change(call, self._forwarded(call))
                self.send_response(answer.status)
                if answer.has_length:
                    answer.headers["content-length"] = str(len(answer.body))
                else:
                    self.close_connection = True
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST = do_DELETE = handle_call

            def _forwarded(self, call: Call) -> Answer:
                if not upstream:
                    return Answer(404)
                found = client.request(call.method, upstream + call.path, headers=call.headers, content=call.body)
                dropped = ("content-length", "content-encoding", "transfer-encoding", "connection", "date", "server")
                return Answer(
                    found.status_code, {k: v for k, v in found.headers.items() if k not in dropped}, found.content
                )

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler

    @contextmanager
    def serving(self) -> Iterator[Gateway]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._client.close()
            thread.join()
