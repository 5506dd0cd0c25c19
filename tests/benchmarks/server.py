"""Providers that do as little as possible: they take any upload and any create, and serve result files."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any


def _openai_batch(batch_id: str, status: str) -> dict[str, Any]:
    return {
        "id": batch_id, "object": "batch", "status": status, "endpoint": "/v1/responses", "input_file_id": "file-in",
        "completion_window": "24h", "created_at": 1, "output_file_id": batch_id if status == "completed" else None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
    }  # fmt: skip


def _anthropic_batch(batch_id: str, status: str, host: str) -> dict[str, Any]:
    return {
        "id": batch_id, "type": "message_batch", "processing_status": status, "archived_at": None,
        "request_counts": {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0},
        "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z", "ended_at": None,
        "cancel_initiated_at": None, "results_url": f"http://{host}/v1/messages/batches/{batch_id}/results",
    }  # fmt: skip


_number = count()
_FILE = {
    "id": "file-in", "object": "file", "bytes": 1, "created_at": 1, "filename": "in.jsonl", "purpose": "batch",
    "status": "processed",
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Answers by path; a result file's name is its id."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.removesuffix("/content").removesuffix("/results").removesuffix(":download").rpartition("/")[2]
        if path.endswith(("/content", "/results", ":download")):
            self._file(self.folder / name)
        elif "/messages/" in path:
            self._json(_anthropic_batch(name, "ended", self.headers["host"]))
        else:
            self._json(_openai_batch(name, "completed"))

    def do_POST(self) -> None:
        left = int(self.headers["content-length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        if self.path.endswith("/files"):
            self._json(_FILE)
        elif "/messages/" in self.path:
            self._json(_anthropic_batch(f"batch_{next(_number)}", "in_progress", self.headers["host"]))
        else:
            self._json(_openai_batch(f"batch_{next(_number)}", "validating"))

    def _file(self, path: Path) -> None:
        self._head(path.stat().st_size, "application/octet-stream")
        with path.open("rb") as file:
            self.connection.sendfile(file)

    def _json(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self._head(len(body), "application/json")
        self.wfile.write(body)

    def _head(self, length: int, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
