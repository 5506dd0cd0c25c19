"""What is measured, each in a process of its own: our way and the floor, for fetching and for submitting."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from airflow_raif.domain.batch import Batch, PartState
from airflow_raif.domain.request import RequestDefaults
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.wire_id import make_wire_id
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.submit import submit_batch
from airflow_raif.store import Store
from tests.support import folder, runtime_of

DEFAULTS = RequestDefaults(model="gpt-5-nano", system="Summarise in one line.")
TEXT = "The quick brown fox jumps over the lazy dog near the quiet river bank. " * 25


def rows(count: int) -> Iterator[dict[str, Any]]:
    for n in range(count):
        yield {"custom_id": f"row-{n}", "prompt": f"{n} {TEXT}", "shelf": n}


@contextlib.contextmanager
def open_runtime(home: Path, url: str) -> Iterator[Runtime]:
    store = Store.open(f"sqlite:///{home}/raif.db", embedded=True)
    with runtime_of("openai", url, store, home) as runtime:
        yield runtime
    store.close()


def prepare(home: Path, count: int) -> None:
    """Make a submitted, ended batch and the file of its results; not measured."""
    with open_runtime(home, "http://127.0.0.1:9") as runtime:
        batch = create_batch(runtime, rows(count), defaults=DEFAULTS)
        part = batch.parts[0]
        runtime.store.record_intent(part.id, runtime.clock())
        state = PartState(provider_batch_id="batch_1", status=BatchStatus.SUBMITTED, raw_status="validating")
        runtime.store.record_submitted(part.id, state, runtime.clock())
        ended = PartState(
            provider_batch_id="batch_1",
            status=BatchStatus.ENDED,
            raw_status="completed",
            refs={"output_file_id": "file-out"},
        )
        runtime.store.record_states({part.id: ended}, runtime.clock())
        (home / "batch_id").write_text(batch.batch_id)
    with (home / "results").open("wb") as file:
        for n in range(count):
            file.write(result_line(make_wire_id(batch.batch_id, n), n) + b"\n")


def result_line(wire_id: str, n: int) -> bytes:
    text = f"{n} {TEXT}"[:1000]
    body = {
        "id": f"resp_{n:048}", "object": "response", "created_at": 1786000000, "status": "completed", "error": None,
        "background": False, "incomplete_details": None, "instructions": None, "max_output_tokens": None,
        "model": "gpt-5-nano-2025-08-07",
        "output": [
            {"id": f"rs_{n:048}", "type": "reasoning", "summary": []},
            {"id": f"msg_{n:048}", "type": "message", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": text}]},
        ],
        "parallel_tool_calls": True, "previous_response_id": None, "reasoning": {"effort": "medium", "summary": None},
        "service_tier": "default", "store": True, "temperature": 1.0, "tool_choice": "auto", "tools": [],
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "top_p": 1.0, "truncation": "disabled",
        "usage": {"input_tokens": 500, "input_tokens_details": {"cached_tokens": 128}, "output_tokens": 250,
                  "output_tokens_details": {"reasoning_tokens": 64}, "total_tokens": 750},
        "user": None, "metadata": {},
    }  # fmt: skip
    line = {"id": f"batch_req_{n:032}", "custom_id": wire_id, "response":
            {"status_code": 200, "request_id": f"{n:032}", "body": body}, "error": None}  # fmt: skip
    return msgspec.json.encode(line)


class Content(msgspec.Struct):
    type: str
    text: str | None = None


class Item(msgspec.Struct):
    type: str
    content: list[Content] | None = None


class Usage(msgspec.Struct):
    input_tokens: int
    output_tokens: int


class Body(msgspec.Struct):
    model: str
    output: list[Item]
    usage: Usage


class Response(msgspec.Struct):
    status_code: int
    body: Body


class Line(msgspec.Struct):
    custom_id: str
    response: Response


def fetch_floor(home: Path, url: str, count: int) -> int:
    """A plain httpx stream, typed decode and encode, one file."""
    decode, encode = msgspec.json.Decoder(Line).decode, msgspec.json.Encoder().encode
    held, done = b"", 0
    with httpx.stream("GET", f"{url}/v1/files/file-out/content") as response, (home / "floor").open("wb") as file:
        for block in response.iter_bytes(1 << 20):
            lines = (held + block).split(b"\n")
            held = lines.pop()
            for raw in lines:
                line = decode(raw)
                body = line.response.body
                text = "".join(c.text or "" for item in body.output for c in item.content or ())
                file.write(encode({"custom_id": line.custom_id, "output": text, "usage": body.usage}) + b"\n")
                done += 1
    return done


def fetch_ours(home: Path, url: str, count: int) -> int:
    """Stream, account each entry and write the result rows in input order."""
    with open_runtime(home, url) as runtime:
        batch_id = (home / "batch_id").read_text()
        fetch_batch_results(runtime, batch_id)
        batch = apply_results(runtime, batch_id, folder(home / "out"))
        return runtime.store.count_entries(batch).completed


def submit_floor(home: Path, url: str, count: int) -> int:
    """Typed encode into one file, and one streamed multipart upload."""
    encode = msgspec.json.Encoder().encode
    path = home / "floor.jsonl"
    with path.open("wb") as file:
        for n, row in enumerate(rows(count)):
            messages = [{"role": "user", "content": row["prompt"]}]
            body = {"model": DEFAULTS.model, "instructions": DEFAULTS.system, "input": messages}
            file.write(encode({"custom_id": str(n), "method": "POST", "url": "/v1/responses", "body": body}) + b"\n")
    with path.open("rb") as file:
        httpx.post(f"{url}/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", file)}).raise_for_status()
    return count


def submit_ours(home: Path, url: str, count: int) -> int:
    """Create and submit: spool, store, upload."""
    with open_runtime(home, url) as runtime:
        batch: Batch = create_batch(runtime, rows(count), defaults=DEFAULTS)
        return submit_batch(runtime, batch.batch_id).request_count


WORK = {
    "fetch-floor": fetch_floor,
    "fetch-ours": fetch_ours,
    "submit-floor": submit_floor,
    "submit-ours": submit_ours,
}


def warm_up(home: Path, url: str) -> None:
    """Load what is imported at first use, so that the figures are of the work alone."""
    import jsonschema_rs  # noqa: F401

    small = home / "warm"
    small.mkdir()
    prepare(small, 10)
    with open_runtime(small, url) as runtime:
        runtime.prices.pricer("openai", DEFAULTS.model)
    httpx.Client().close()


def main() -> None:
    name, home, url, count = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    scratch = home / f"run-{time.monotonic_ns()}"
    scratch.mkdir()
    warm_up(scratch, url)
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.monotonic()
    done = WORK[name](home if name == "fetch-ours" else scratch, url, count)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"done": done, "cpu": cpu, "wall": wall, "mib": (after.ru_maxrss - before.ru_maxrss) / 1024}))


if __name__ == "__main__":
    main()
