"""The floor: what plain httpx and msgspec cost, with no store, no order, no retry and no accounting."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.benchmarks.rows import DIALECTS, SYSTEM, rows


class _Content(msgspec.Struct):
    type: str | None = None
    text: str | None = None


class _Item(msgspec.Struct):
    type: str
    content: list[_Content] | None = None


class _Usage(msgspec.Struct, omit_defaults=True):
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Message(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Message


class _Body(msgspec.Struct):
    model: str
    usage: _Usage
    output: list[_Item] = []
    choices: list[_Choice] = []


class _Response(msgspec.Struct):
    status_code: int
    body: _Body


class _OpenAI(msgspec.Struct):
    custom_id: str
    response: _Response


class _AnthropicMessage(msgspec.Struct):
    content: list[_Content]
    usage: _Usage


class _AnthropicResult(msgspec.Struct):
    message: _AnthropicMessage


class _Anthropic(msgspec.Struct):
    custom_id: str
    result: _AnthropicResult


class _GeminiContent(msgspec.Struct):
    parts: list[_Content]


class _Candidate(msgspec.Struct):
    content: _GeminiContent


class _GeminiUsage(msgspec.Struct):
    promptTokenCount: int
    candidatesTokenCount: int


class _GeminiResponse(msgspec.Struct):
    candidates: list[_Candidate]
    usageMetadata: _GeminiUsage


class _Gemini(msgspec.Struct):
    key: str
    response: _GeminiResponse


_decode = msgspec.json.Decoder().decode


def _chat(row: _OpenAI) -> tuple[str, Any, Any]:
    return row.custom_id, row.response.body.choices[0].message.content, row.response.body.usage


def _structured(row: _OpenAI) -> tuple[str, Any, Any]:
    return row.custom_id, _decode(row.response.body.choices[0].message.content), row.response.body.usage


def _responses(row: _OpenAI) -> tuple[str, Any, Any]:
    body = row.response.body
    return row.custom_id, "".join(c.text or "" for item in body.output for c in item.content or ()), body.usage


def _anthropic(row: _Anthropic) -> tuple[str, Any, Any]:
    message = row.result.message
    return row.custom_id, "".join(each.text or "" for each in message.content), message.usage


def _gemini(row: _Gemini) -> tuple[str, Any, Any]:
    response = row.response
    text = "".join(each.text or "" for each in response.candidates[0].content.parts)
    return row.key, text, response.usageMetadata


_READERS: dict[str, tuple[type[msgspec.Struct], Callable[[Any], tuple[str, Any, Any]], str]] = {
    "openai": (_OpenAI, _chat, "/v1/files/{}/content"),
    "structured": (_OpenAI, _structured, "/v1/files/{}/content"),
    "responses": (_OpenAI, _responses, "/v1/files/{}/content"),
    "anthropic": (_Anthropic, _anthropic, "/v1/messages/batches/{}/results"),
    "gemini": (_Gemini, _gemini, "/download/v1beta/files/{}:download"),
}


#: Told of each row: its id and its bytes.
Record = Callable[[str, bytes], object]


@contextmanager
def recording(home: Path) -> Iterator[Record]:
    """Keep one line about each row in SQLite, the least that any account of rows has to write."""
    with closing(sqlite3.connect(home / "record.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE row (id TEXT PRIMARY KEY, status TEXT, offset INTEGER, length INTEGER)")
        held: list[tuple[str, str, int, int]] = []
        offset = 0

        def flush() -> None:
            database.execute("BEGIN")
            database.executemany("INSERT INTO row VALUES (?, ?, ?, ?)", held)
            database.execute("COMMIT")
            held.clear()

        def record(row_id: str, content: bytes) -> None:
            nonlocal offset
            held.append((row_id, "completed", offset, len(content)))
            offset += len(content)
            if len(held) >= 5000:
                flush()

        yield record
        flush()


def fetch(dialect: str, home: Path, url: str, result_files: list[str], record: Record = lambda *_: None) -> int:
    """Stream each file, decode each line typed, write one file of answers and usage."""
    kind, read, path = _READERS[dialect]
    decode, encode = msgspec.json.Decoder(kind).decode, msgspec.json.Encoder().encode
    done = 0
    with (home / "floor").open("wb") as file:
        for name in result_files:
            for raw in _lines(url + path.format(name)):
                custom_id, text, usage = read(decode(raw))
                file.write(encode({"custom_id": custom_id, "output": text, "usage": usage}) + b"\n")
                record(custom_id, raw)
                done += 1
    return done


def _lines(url: str) -> Iterator[bytes]:
    held = b""
    with httpx.stream("GET", url) as response:
        for block in response.iter_bytes(1 << 20):
            lines = (held + block).split(b"\n")
            held = lines.pop()
            yield from lines


def submit(dialect: str, home: Path, url: str, count: int, record: Record = lambda *_: None) -> int:
    """Encode each request into one file, and send it in one streamed call."""
    send = _submit_anthropic if dialect == "anthropic" else _submit_openai
    send(dialect, home / "floor.jsonl", url, count, record)
    return count


def _submit_openai(dialect: str, path: Path, url: str, count: int, record: Record) -> None:
    encode = msgspec.json.Encoder().encode
    _, model, endpoint = DIALECTS[dialect]
    with path.open("wb") as file:
        for n, row in enumerate(rows(count)):
            messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["prompt"]}]
            body = {"model": model, "max_completion_tokens": 1024, "messages": messages}
            line = encode({"custom_id": str(n), "method": "POST", "url": endpoint, "body": body})
            file.write(line + b"\n")
            record(str(n), line)
    with path.open("rb") as file:
        httpx.post(f"{url}/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", file)}).raise_for_status()


def _submit_anthropic(dialect: str, path: Path, url: str, count: int, record: Record) -> None:
    encode = msgspec.json.Encoder().encode
    model = DIALECTS[dialect][1]
    with path.open("wb") as file:
        file.write(b'{"requests":[')
        for n, row in enumerate(rows(count)):
            messages = [{"role": "user", "content": row["prompt"]}]
            params = {"model": model, "max_tokens": 1024, "system": SYSTEM, "messages": messages}
            line = encode({"custom_id": str(n), "params": params})
            file.write((b"," if n else b"") + line)
            record(str(n), line)
        file.write(b"]}")
    size = path.stat().st_size
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(1 << 20), b"")
        headers = {"content-length": str(size), "content-type": "application/json"}
        httpx.post(f"{url}/v1/messages/batches", content=blocks, headers=headers).raise_for_status()
