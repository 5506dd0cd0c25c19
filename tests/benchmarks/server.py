"""A provider that does as little as possible: takes any upload, and serves one results file."""

from __future__ import annotations

import json
import shutil
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BATCH = {
    "id": "batch_1",
    "object": "batch",
    "status": "in_progress",
    "endpoint": "/v1/responses",
    "input_file_id": "file-in",
    "created_at": 1,
    "request_counts": {"total": 0, "completed": 0, "failed": 0},
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    results: Path

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(self.results.stat().st_size))
        self.end_headers()
        with self.results.open("rb") as file:
            shutil.copyfileobj(file, self.wfile, 1 << 20)

    def do_POST(self) -> None:
        left = int(self.headers["content-length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        body = json.dumps({"id": "file-in"} if self.path.endswith("/files") else BATCH).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


if __name__ == "__main__":
    Handler.results = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
