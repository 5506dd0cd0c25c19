"""Accounts full of running batches: list pages and single states in the providers' shapes, rendered beforehand."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: Unix seconds when the first batch was created; each is a second younger than the one before.
CREATED_AT = 1_790_000_000
#: Page size by provider: its default and its most.
PAGE_SIZES = {"openai": (20, 100), "anthropic": (20, 1000), "gemini": (50, 100)}
REQUESTS_OF_A_BATCH = 50_000


def batch_id(provider: str, account: int, number: int) -> str:
    """The provider's id of a batch."""
    prefix = {"openai": "batch_", "anthropic": "msgbatch_", "gemini": "batches/"}[provider]
    return f"{prefix}{account:04}{number:028}"


def openai(name: str, number: int, done: int, *, is_ended: bool) -> dict[str, Any]:
    created = CREATED_AT + number
    return {
        "id": name, "object": "batch", "endpoint": "/v1/responses", "model": "gpt-5-nano-2025-08-07", "errors": None,
        "input_file_id": f"file-{name}", "completion_window": "24h",
        "status": "completed" if is_ended else "in_progress", "output_file_id": f"file-{name}" if is_ended else None,
        "error_file_id": None, "created_at": created, "in_progress_at": created + 60, "expires_at": created + 86400,
        "finalizing_at": None, "completed_at": created + 3600 if is_ended else None, "failed_at": None,
        "expired_at": None, "cancelling_at": None, "cancelled_at": None,
        "request_counts": {"total": REQUESTS_OF_A_BATCH, "completed": done, "failed": 0},
        "usage": {"input_tokens": 0, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 0,
                  "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 0},
        "metadata": {"raif": f"raif-{number:032x}-0", "dag_id": "nightly", "owner": "data"},
    }  # fmt: skip


def anthropic(name: str, number: int, done: int, *, is_ended: bool) -> dict[str, Any]:
    created, expires = (_text(CREATED_AT + number + seconds) for seconds in (0, 86400))
    counts = {"processing": REQUESTS_OF_A_BATCH - done, "succeeded": done, "errored": 0, "canceled": 0, "expired": 0}
    return {
        "id": name, "type": "message_batch", "processing_status": "ended" if is_ended else "in_progress",
        "request_counts": counts, "ended_at": expires if is_ended else None, "created_at": created,
        "expires_at": expires, "archived_at": None, "cancel_initiated_at": None,
        "results_url": f"http://127.0.0.1/v1/messages/batches/{name}/results" if is_ended else None,
    }  # fmt: skip


def gemini(name: str, number: int, done: int, *, is_ended: bool) -> dict[str, Any]:
    created, state = _text(CREATED_AT + number), f"BATCH_STATE_{'SUCCEEDED' if is_ended else 'RUNNING'}"
    output = {"responsesFile": f"files/batch-{number}"}
    metadata = {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
        "model": "models/gemini-2.5-flash", "displayName": f"raif-{number:032x}-0", "createTime": created,
        "updateTime": created, "name": name, "state": state,
        "batchStats": {"requestCount": str(REQUESTS_OF_A_BATCH), "pendingRequestCount": str(REQUESTS_OF_A_BATCH - done),
                       "successfulRequestCount": str(done)},
    }  # fmt: skip
    if is_ended:
        return {"name": name, "metadata": metadata | {"output": output}, "done": True, "response": output}
    return {"name": name, "metadata": metadata}


def _text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


class Handler(BaseHTTPRequestHandler):
    """``/{provider}/{account}/…`` is that provider's API; ``/control`` counts calls and lets every batch end."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    batches: int
    calls = 0
    is_ended = False
    #: Requests that every running batch has done; grows with each look at a first page.
    done = 0

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        if address.path == "/control":
            Handler.is_ended |= "end" in query
            self._answer(Handler.calls)
            return
        _, provider, account, path = address.path.split("/", 3)
        Handler.calls += 1
        if path.endswith("batches"):
            self._answer(self._page(provider, int(account), query))
        else:
            self._answer(self._batch(provider, int(account), int(path[-28:])))

    def _batch(self, provider: str, account: int, number: int) -> dict[str, Any]:
        make = {"openai": openai, "anthropic": anthropic, "gemini": gemini}[provider]
        return make(batch_id(provider, account, number), number, Handler.done, is_ended=Handler.is_ended)

    def _page(self, provider: str, account: int, query: dict[str, str]) -> dict[str, Any]:
        """A page, newest first."""
        size, most = PAGE_SIZES[provider]
        size = min(int(query.get("limit") or query.get("pageSize") or size), most)
        after = query.get("after") or query.get("after_id") or query.get("pageToken")
        if after is None:
            Handler.done += 1
        newest = int(after[-28:]) if after else self.batches
        numbers = range(newest - 1, max(newest - 1 - size, -1), -1)
        data = [self._batch(provider, account, number) for number in numbers]
        has_more = bool(numbers) and numbers[-1] > 0
        if provider == "gemini":
            return {"operations": data} | ({"nextPageToken": f"{numbers[-1]:028}"} if has_more else {})
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return {"data": data, "has_more": has_more, **ends}

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


if __name__ == "__main__":
    Handler.batches = int(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
