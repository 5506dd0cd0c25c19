"""Which answers a provider's result files bill, read without any of the package's own code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def request_ids(requests: bytes) -> tuple[str, ...]:
    """Return the ids in a batch's requests, in order, with any provider."""
    return tuple(_id(row) for row in _rows(requests))


def paid_answers(provider: str, results: bytes) -> dict[str, tuple[str, int]]:
    """Return text and output tokens of every answer that was billed, by id; what cannot be read is not there."""
    paid: dict[str, tuple[str, int]] = {}
    for row in _rows(results):
        message = _message(provider, row)
        if message is not None:
            paid[_id(row)] = (answer_text(provider, message), _output_tokens(provider, message))
    return paid


def _output_tokens(provider: str, message: dict[str, Any]) -> int:
    if provider == "gemini":
        usage = message.get("usageMetadata") or {}
        return int(usage.get("candidatesTokenCount", 0)) + int(usage.get("thoughtsTokenCount", 0))
    return int((message.get("usage") or {}).get("output_tokens", 0))


def answer_text(provider: str, message: dict[str, Any]) -> str:
    """Return the text in one answer."""
    if provider == "anthropic":
        return "".join(each.get("text", "") for each in message["content"])
    if provider == "gemini":
        parts = message["candidates"][0].get("content", {}).get("parts", [])
        return "".join(each.get("text", "") for each in parts if not each.get("thought"))
    messages = [each for each in message["output"] if each["type"] == "message"]
    return "".join(each.get("text", "") for one in messages for each in one["content"])


def _message(provider: str, row: dict[str, Any]) -> dict[str, Any] | None:
    if provider == "openai":
        response = row.get("response")
        return response["body"] if response and response["status_code"] == 200 else None
    if provider == "anthropic":
        return row["result"]["message"] if row["result"]["type"] == "succeeded" else None
    return row.get("response")


def _id(row: dict[str, Any]) -> str:
    return str(row.get("custom_id") or row.get("key") or row["metadata"]["key"])


def _rows(text: bytes) -> Iterator[dict[str, Any]]:
    for line in text.split(b"\n"):
        try:
            row = json.loads(line)
            if isinstance(row, dict):
                yield row
        except ValueError:
            continue
