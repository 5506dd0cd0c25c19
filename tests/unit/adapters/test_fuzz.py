"""Rows of the documented shape with anything changed: never another error, an answer made up, or negative usage."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import msgspec
import pytest

from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.errors import MalformedResponseError
from airflow_raif.domain.status import EntryStatus
from airflow_raif.pricing.prices import PriceBook
from tests.support import MODELS, settings_of

SEEDS, MUTATIONS = range(10), 400


def openai(body: Any, status: int = 200) -> dict[str, Any]:
    response = {"status_code": status, "request_id": "r", "body": body}
    return {"id": "batch_req_1", "custom_id": "x-1", "response": response, "error": None}


ROWS: dict[str, list[Any]] = {
    "openai": [
        openai({
            "id": "resp_1", "object": "response", "status": "completed", "error": None, "incomplete_details": None,
            "model": "gpt-5-nano", "output": [
                {"id": "rs_1", "type": "reasoning", "summary": []},
                {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'},
                {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
                 "content": [{"type": "output_text", "annotations": [], "text": "hi"}]},
            ],
            "usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 7,
                      "output_tokens_details": {"reasoning_tokens": 5}, "total_tokens": 16},
        }),
        openai({
            "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-5-nano", "choices": [
                {"index": 0, "finish_reason": "tool_calls", "message": {
                    "role": "assistant", "content": "hi", "refusal": None,
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}},
            ],
            "usage": {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16,
                      "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": None},
        }),
        openai({"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
                {"object": "embedding", "index": 1, "embedding": "AAAAPwAAgL8="}],
                "usage": {"prompt_tokens": 3, "total_tokens": 3}}),
        openai({"error": {"message": "no", "type": "invalid_request_error", "code": "invalid_value"}}, 400),
        {"id": "b", "custom_id": "x-1", "response": None, "error": {"code": "batch_expired", "message": "late"}},
    ],
    "anthropic": [
        {"custom_id": "x-1", "result": {"type": "succeeded", "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
            "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "hi"},
                        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1]}}],
            "stop_reason": "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": 9, "cache_creation_input_tokens": 6, "cache_read_input_tokens": 4,
                      "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 2},
                      "output_tokens": 7, "service_tier": "batch"}}}},
        {"custom_id": "x-1", "result": {"type": "errored", "error": {
            "type": "error", "error": {"type": "invalid_request_error", "message": "no"}, "request_id": None}}},
        {"custom_id": "x-1", "result": {"type": "expired"}},
    ],
    "gemini": [
        {"key": "x-1", "response": {
            "candidates": [{"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [
                {"text": "hm", "thought": True}, {"text": "hi"}, {"functionCall": {"name": "f", "args": {"a": 1}}}]}}],
            "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 7, "totalTokenCount": 30,
                              "cachedContentTokenCount": 4, "thoughtsTokenCount": 5, "toolUsePromptTokenCount": 5},
            "modelVersion": "gemini-2.5-flash", "promptFeedback": {"blockReason": None}}},
        {"metadata": {"key": "x-1"}, "response": {"embedding": {"values": [0.5, -1.0]}, "tokenCount": "3"}},
        {"key": "x-1", "error": {"code": 4, "message": "late", "details": []}},
    ],
}  # fmt: skip

ODD = (
    None, True, False, 0, 1, -1, -7, 0.5, -0.5, 404, 2**31, 2**53, 2**63, -(2**64), 10**30, 1e308, float("nan"),
    float("inf"), "", " ", "0", "-3", "12", "1e999", "NaN", "null", "{", "\x00", "\ud83d", "x-1", "x" * 5000, "=",
    "AAA", "AAAAAAAA", [], {}, [[]], [None], ["a"], [0], [{}], {"": None}, {"type": "text"}, {"error": {"error": {}}},
)  # fmt: skip


class Repeated(dict):
    """A mapping whose JSON has one of its fields twice."""


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every field and item, as its holder and its name or position."""
    names = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for name in names for place in ((value, name), *places(value[name]))]


def mutate(row: Any, dice: random.Random) -> str:
    """Change some things; return the row's JSON."""
    row = copy.deepcopy(row)
    twice: dict[int, str] = {}
    for _ in range(dice.choice((1, 1, 2, 4))):
        found = places(row)
        if not found:
            break
        holder, name = dice.choice(found)
        how = dice.randrange(6)
        if how == 0:
            del holder[name]
        elif how == 1:
            holder[name] = copy.deepcopy(dice.choice(found)[0])
        elif how == 2 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[name]))
        elif how == 3 and isinstance(holder, dict):
            twice[id(holder)] = json.dumps({name: dice.choice(ODD)})[1:-1]
        else:
            holder[name] = copy.deepcopy(dice.choice(ODD))
    return written(row, twice, dice)


def written(value: Any, twice: dict[int, str], dice: random.Random) -> str:
    if isinstance(value, dict):
        fields = [f"{json.dumps(name)}:{written(each, twice, dice)}" for name, each in value.items()]
        if id(value) in twice:
            fields.insert(dice.randint(0, len(fields)), twice[id(value)])
        return "{" + ",".join(fields) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(each, twice, dice) for each in value) + "]"
    return json.dumps(value)


def check(provider: str, raw: bytes, price: Any) -> None:
    # The last line that a failure shows.
    print(raw)
    try:
        result = make_adapter(settings_of(provider, "http://127.0.0.1:1")).apply_batch_result(raw)
    except MalformedResponseError:
        return
    assert result.wire_id
    assert (result.status is EntryStatus.COMPLETED) == (result.reason is None) == (result.error is None)
    if result.status is EntryStatus.COMPLETED:
        assert result.text or result.embedding or result.tool_calls
        assert result.embedding is None or all(each or each == 0 for each in result.embedding)
    else:
        assert result.error.message
    if result.usage is not None:
        usage = result.usage
        assert all(type(tokens) is int and tokens >= 0 for tokens in msgspec.structs.astuple(usage))
        assert usage.cached_tokens + usage.cache_write_tokens + usage.cache_write_1h_tokens <= usage.input_tokens
        assert usage.reasoning_tokens <= usage.output_tokens
        cost = price(usage)
        assert 0 <= cost.batch <= cost.standard < 1 << 63
    msgspec.json.encode(result)


@pytest.mark.parametrize("provider", ROWS)
@pytest.mark.parametrize("seed", SEEDS)
def test_anything_may_be_changed_in_a_row(provider, seed):
    """Fields are dropped, doubled, replaced by odd values, at any depth."""
    dice = random.Random(f"{provider} {seed}")
    price = PriceBook().pricer(provider, MODELS[provider])
    for _ in range(MUTATIONS):
        raw = mutate(dice.choice(ROWS[provider]), dice).encode()
        check(provider, raw, price)


@pytest.mark.parametrize("provider", ROWS)
@pytest.mark.parametrize("seed", SEEDS)
def test_any_byte_may_be_changed_in_a_row(provider, seed):
    """Bytes are dropped, doubled, replaced, cut off."""
    dice = random.Random(f"{provider} {seed}")
    price = PriceBook().pricer(provider, MODELS[provider])
    for _ in range(MUTATIONS):
        raw = bytearray(json.dumps(dice.choice(ROWS[provider])).encode())
        for _ in range(dice.choice((1, 1, 3, 9))):
            start = dice.randrange(len(raw))
            raw[start : start + dice.choice((0, 1, 1, 5))] = dice.choice(
                (b"", b'"', b"{", b"]", b"\\", b"\xff", b"\x00", b"-", b"9", b"\\ud800", raw[start : start + 9])
            )
        raw = raw[: dice.choice((len(raw), len(raw), dice.randrange(len(raw) + 1)))]
        check(provider, bytes(raw), price)
