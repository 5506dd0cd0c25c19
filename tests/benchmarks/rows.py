"""The rows that every side works on: inputs, and the providers' result lines, each of 2 KB."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

SYSTEM = "Summarise in one line."
TEXT = "The quick brown fox jumps over the lazy dog near the quiet river bank. " * 25
RESULT_BYTES = 2048
#: As long as a real one: it is looked for in whatever a provider sends.
KEY = "sk-proj-" + "Zt4v9QmX2bLw7RkD" * 3

#: What an answer must follow, where it is ``structured``.
SCHEMA = {
    "type": "object",
    "properties": {"summary": {"type": "string"}, "category": {"type": "string", "enum": ["a", "b"]}},
    "required": ["summary", "category"],
    "additionalProperties": False,
}
#: What is measured -> provider, model, endpoint.
DIALECTS = {
    "openai": ("openai", "gpt-5-nano", "/v1/chat/completions"),
    "structured": ("openai", "gpt-5-nano", "/v1/chat/completions"),
    "responses": ("openai", "gpt-5-nano", "/v1/responses"),
    "anthropic": ("anthropic", "claude-haiku-4-5", "/v1/messages"),
    "gemini": ("gemini", "gemini-2.5-flash", "batchGenerateContent"),
}


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Yield input rows as a DAG author has them: an id, a prompt, a column of their own."""
    for n in range(count):
        yield {"custom_id": f"row-{n}", "prompt": f"{n} {TEXT}", "shelf": n}


def result_lines(dialect: str, prefix: str, first: int, count: int, *, shuffled: bool = False) -> Iterator[bytes]:
    """Yield the result lines of the rows from ``first`` on, in input order or in none."""
    order = list(range(first, first + count))
    if shuffled:
        random.Random(1).shuffle(order)
    make = _LINES[dialect]
    for n in order:
        spare = RESULT_BYTES - len(msgspec.json.encode(make(f"{prefix}-{n}", n, "")))
        text = f"{n} {TEXT}"[:spare].ljust(spare, "x")
        yield msgspec.json.encode(make(f"{prefix}-{n}", n, text)) + b"\n"


def _openai(wire_id: str, n: int, body: dict[str, Any]) -> dict[str, Any]:
    response = {"status_code": 200, "request_id": f"{n:032}", "body": body}
    return {"id": f"batch_req_{n:032}", "custom_id": wire_id, "response": response, "error": None}


def _chat(wire_id: str, n: int, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    return _openai(wire_id, n, {
        "id": f"chatcmpl-{n:029}", "object": "chat.completion", "created": 1786000000,
        "model": "gpt-5-nano-2025-08-07",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 500, "completion_tokens": 250, "total_tokens": 750,
            "prompt_tokens_details": {"cached_tokens": 128, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 0, "accepted_prediction_tokens": 0,
                                          "rejected_prediction_tokens": 0},
        },
        "service_tier": "default", "system_fingerprint": None,
    })  # fmt: skip


def _structured(wire_id: str, n: int, text: str) -> dict[str, Any]:
    return _chat(wire_id, n, msgspec.json.encode({"summary": text, "category": "a"}).decode())


def _responses(wire_id: str, n: int, text: str) -> dict[str, Any]:
    return _openai(wire_id, n, {
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
    })  # fmt: skip


def _anthropic(wire_id: str, n: int, text: str) -> dict[str, Any]:
    message = {
        "id": f"msg_{n:024}", "type": "message", "role": "assistant", "model": "claude-haiku-4-5-20251001",
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {
            "input_tokens": 372, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 128,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 250, "service_tier": "batch",
        },
    }  # fmt: skip
    return {"custom_id": wire_id, "result": {"type": "succeeded", "message": message}}


def _gemini(wire_id: str, n: int, text: str) -> dict[str, Any]:
    response = {
        "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": 500, "candidatesTokenCount": 186, "totalTokenCount": 750, "thoughtsTokenCount": 64,
            "cachedContentTokenCount": 128, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 500}],
            "serviceTier": "standard",
        },
        "modelVersion": "gemini-2.5-flash", "responseId": f"{n:022}",
    }  # fmt: skip
    return {"key": wire_id, "response": response}


_LINES: dict[str, Callable[[str, int, str], dict[str, Any]]] = {
    "openai": _chat, "structured": _structured, "responses": _responses, "anthropic": _anthropic, "gemini": _gemini,
}  # fmt: skip
