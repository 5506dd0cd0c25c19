"""Every shape of a result row that the providers document, read into one result."""

from __future__ import annotations

import base64
import json
import struct

import pytest

from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.errors import MalformedResponseError
from airflow_raif.domain.rounds import is_worth_repeating
from airflow_raif.domain.status import EntryStatus, FailureReason
from airflow_raif.domain.usage import Usage
from tests.support import settings_of

R = FailureReason


def read(provider, row):
    raw = row if isinstance(row, bytes) else json.dumps(row).encode()
    return make_adapter(settings_of(provider, "http://127.0.0.1:1")).apply_batch_result(raw)


def openai(body=None, status=200, error=None):
    response = None if body is None else {"status_code": status, "request_id": "r", "body": body}
    return {"id": "b", "custom_id": "x-1", "response": response, "error": error}


def response(*output, **values):
    return {"object": "response", "status": "completed", "model": "m", "output": list(output), **values}


def message(*content):
    return {"type": "message", "content": list(content)}


def chat(finish="stop", **fields):
    return {"model": "m", "choices": [{"message": {"role": "assistant", **fields}, "finish_reason": finish}]}


TEXT = {"type": "output_text", "text": "hi"}


@pytest.mark.parametrize(
    ("row", "reason", "text"),
    [
        (openai(response({"type": "reasoning", "summary": []}, message(TEXT, TEXT))), None, "hihi"),
        (openai(response(message({"type": "refusal", "refusal": "no"}))), R.REFUSED, None),
        (openai(response(message(TEXT), status="incomplete", incomplete_details={"reason": "max_output_tokens"})),
         R.TRUNCATED, "hi"),
        (openai(response(status="incomplete", incomplete_details={"reason": "content_filter"})), R.REFUSED, None),
        (openai(response()), R.INVALID_OUTPUT, None),
        (openai(response(status="failed", error={"message": "boom", "code": "server_error"})), R.ERRORED, None),
        (openai(response(status="failed")), R.ERRORED, None),
        (openai(chat(content="hi")), None, "hi"),
        (openai(chat(content=[{"type": "text", "text": "h"}, {"type": "text", "text": "i"}])), None, "hi"),
        (openai(chat("length", content="hi")), R.TRUNCATED, "hi"),
        (openai(chat(content=None, refusal="no")), R.REFUSED, None),
        (openai(chat("content_filter", content=None)), R.REFUSED, None),
        (openai({"choices": []}), R.INVALID_OUTPUT, None),
        (openai({}), R.INVALID_OUTPUT, None),
        (openai({"error": {"message": "bad", "code": "invalid_value"}}, 400), R.ERRORED, None),
        (openai({"error": {"message": "bad", "type": "server_error"}}, 500), R.ERRORED, None),
        (openai({"error": "just text"}, 500), R.ERRORED, None),
        (openai({}, 502), R.ERRORED, None),
        (openai("upstream is away", 502), R.ERRORED, None),
        (openai(error={"code": "batch_expired", "message": "late"}), R.EXPIRED, None),
        (openai(error={"code": "batch_cancelled", "message": "stop"}), R.CANCELED, None),
        (openai(error={"code": "request_timeout", "message": "slow"}), R.ERRORED, None),
        (openai(), R.ERRORED, None),
        (openai({"data": []}), R.INVALID_OUTPUT, None),
        (openai({"data": [{"embedding": None}]}), R.INVALID_OUTPUT, None),
    ],
)  # fmt: skip
def test_openai(row, reason, text):
    """Answers, cuts, refusals, errors inside and outside the response."""
    result = read("openai", row)
    assert (result.wire_id, result.reason, result.text) == ("x-1", reason, text)
    assert result.status is (EntryStatus.FAILED if reason else EntryStatus.COMPLETED)
    assert (result.error is None) == (reason is None)
    if result.error:
        assert result.error.message


def test_openai_tool_calls():
    """Arguments are parsed; those that are no JSON stay text."""
    calls = [
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call", "id": "c2", "name": "g", "arguments": "{broken"},
    ]
    found = read("openai", openai(response(*calls))).tool_calls
    assert [(call.id, call.name, call.arguments) for call in found] == [("c1", "f", {"a": 1}), ("c2", "g", "{broken")]
    calls = [{"id": "c", "function": {"name": "f", "arguments": "{}"}}, {"id": "d", "function": None}]
    found = read("openai", openai(chat("tool_calls", content=None, tool_calls=calls))).tool_calls
    assert [(call.id, call.name, call.arguments) for call in found] == [("c", "f", {})]


def test_openai_usage_of_both_endpoints():
    """Cached and reasoning tokens are part of input and output, and counted apart."""
    new = response(message(TEXT), usage={
        "input_tokens": 10, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 5}})  # fmt: skip
    old = {**chat(content="hi"), "usage": {
        "prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens": 7,
        "completion_tokens_details": {"reasoning_tokens": 5}}}  # fmt: skip
    assert read("openai", openai(new)).usage == read("openai", openai(old)).usage == Usage(10, 4, 0, 7, 5)
    assert read("openai", openai({**old, "usage": {"prompt_tokens": 3}})).usage == Usage(3)


def test_openai_cache_writes():
    """They are part of the input, too, and dearer than the rest of it from gpt-5.6 on."""
    details = {"cached_tokens": 4, "cache_write_tokens": 5}
    new = response(message(TEXT), usage={"input_tokens": 10, "input_tokens_details": details, "output_tokens": 7})
    old = {**chat(content="hi"), "usage": {"prompt_tokens": 10, "prompt_tokens_details": details,
                                           "completion_tokens": 7}}  # fmt: skip
    assert read("openai", openai(new)).usage == read("openai", openai(old)).usage == Usage(10, 4, 5, 7)
    details["cache_write_tokens"] = 9
    assert read("openai", openai(old)).usage == Usage(10, 4, 6, 7)


def test_openai_embeddings():
    """A vector, a packed vector, and several of one request."""
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()
    assert read("openai", openai({"data": [{"embedding": [0.5, 1]}]})).embedding == [0.5, 1.0]
    assert read("openai", openai({"data": [{"embedding": packed}]})).embedding == [0.5, -1.0]
    both = {"data": [{"embedding": [0.5]}, {"embedding": [1.5]}], "usage": {"prompt_tokens": 2}}
    assert read("openai", openai(both)).embedding == [[0.5], [1.5]]


def anthropic(kind="succeeded", **fields):
    return {"custom_id": "x-1", "result": {"type": kind, **fields}}


def answer(*content, stop="end_turn", **values):
    return anthropic(message={"model": "m", "content": list(content), "stop_reason": stop, **values})


BLOCK = {"type": "text", "text": "hi"}
NESTED = {"type": "error", "error": {"type": "invalid_request_error", "message": "bad"}, "request_id": None}


@pytest.mark.parametrize(
    ("row", "reason", "text"),
    [
        (answer(BLOCK, BLOCK), None, "hihi"),
        (answer({"type": "thinking", "thinking": "hm"}, BLOCK), None, "hi"),
        (answer(BLOCK, stop="max_tokens"), R.TRUNCATED, "hi"),
        (answer(BLOCK, stop="pause_turn"), R.INVALID_OUTPUT, "hi"),
        (answer(BLOCK, stop="model_context_window_exceeded"), R.TRUNCATED, "hi"),
        (answer(BLOCK, stop="refusal"), R.REFUSED, "hi"),
        (answer(), R.INVALID_OUTPUT, None),
        (answer({"type": "text", "text": ""}), R.INVALID_OUTPUT, ""),
        (anthropic("errored", error=NESTED), R.ERRORED, None),
        (anthropic("errored", error={"type": "api_error", "message": "flat"}), R.ERRORED, None),
        (anthropic("errored", error={"type": "api_error"}), R.ERRORED, None),
        (anthropic("errored"), R.ERRORED, None),
        (anthropic("canceled"), R.CANCELED, None),
        (anthropic("expired"), R.EXPIRED, None),
        (anthropic("vanished"), R.ERRORED, None),
        (anthropic("succeeded"), R.ERRORED, None),
    ],
)
def test_anthropic(row, reason, text):
    """Answers, cuts, refusals, errors in their nested and their flat form, unknown results."""
    result = read("anthropic", row)
    assert (result.wire_id, result.reason, result.text) == ("x-1", reason, text)
    assert result.status is (EntryStatus.FAILED if reason else EntryStatus.COMPLETED)
    assert (result.error is None) == (reason is None)
    if result.error:
        assert result.error.message


def test_anthropic_tool_use_and_usage():
    """Tool input is JSON already; cached input is counted beside, and added."""
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
    usage = {
        "input_tokens": 10, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 6, "output_tokens": 3,
        "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 2},
    }  # fmt: skip
    result = read("anthropic", answer(tool, stop="tool_use", usage=usage))
    assert [(call.id, call.name, call.arguments) for call in result.tool_calls] == [("t", "f", {"a": 1})]
    assert result.usage == Usage(20, 4, 4, 3, 0, 2)


def gemini(finish="STOP", *parts, **fields):
    content = {"content": {"role": "model", "parts": list(parts)}} if parts else {}
    return {"key": "x-1", "response": {"candidates": [{**content, "finishReason": finish}], **fields}}


@pytest.mark.parametrize(
    ("row", "reason", "text"),
    [
        (gemini("STOP", {"text": "h"}, {"text": "i"}), None, "hi"),
        (gemini("STOP", {"text": "hm", "thought": True}, {"text": "hi"}), None, "hi"),
        (gemini("MAX_TOKENS", {"text": "hi"}), R.TRUNCATED, "hi"),
        (gemini("SAFETY"), R.REFUSED, None),
        (gemini("PROHIBITED_CONTENT"), R.REFUSED, None),
        (gemini("ESCALATION"), R.REFUSED, None),
        (gemini("IMAGE_RECITATION", {"text": "a"}), R.REFUSED, "a"),
        (gemini("MALFORMED_RESPONSE", {"text": "hal"}), R.INVALID_OUTPUT, "hal"),
        (gemini("TOO_MANY_TOOL_CALLS", {"functionCall": {"name": "f"}}), R.INVALID_OUTPUT, None),
        (gemini("A_NEW_ONE", {"text": "hi"}), None, "hi"),
        (gemini("STOP"), R.INVALID_OUTPUT, None),
        ({"key": "x-1", "response": {"promptFeedback": {"blockReason": "SAFETY"}}}, R.REFUSED, None),
        ({"key": "x-1", "response": {}}, R.INVALID_OUTPUT, None),
        ({"key": "x-1", "error": {"code": 4, "message": "Deadline expired"}}, R.EXPIRED, None),
        ({"key": "x-1", "error": {"code": 1}}, R.CANCELED, None),
        ({"metadata": {"key": "x-1"}, "error": {"message": "odd"}}, R.ERRORED, None),
        ({"key": "x-1"}, R.ERRORED, None),
        ({"key": "x-1", "response": {"embedding": {"values": []}}}, R.INVALID_OUTPUT, None),
    ],
)
def test_gemini(row, reason, text):
    """Answers without their thoughts, blocks, cuts, errors by code, keys in both places."""
    result = read("gemini", row)
    assert (result.wire_id, result.reason, result.text) == ("x-1", reason, text)
    assert result.status is (EntryStatus.FAILED if reason else EntryStatus.COMPLETED)
    assert (result.error is None) == (reason is None)
    if result.error:
        assert result.error.message


def test_gemini_calls_embeddings_and_usage():
    """Function calls, vectors, thoughts beside the output, counts as text."""
    call = {"functionCall": {"name": "f", "args": {"a": 1}}}
    usage = {
        "promptTokenCount": "10", "cachedContentTokenCount": 4, "candidatesTokenCount": 3, "thoughtsTokenCount": 5,
        "toolUsePromptTokenCount": 2,
    }  # fmt: skip
    result = read("gemini", gemini("STOP", call, usageMetadata=usage, modelVersion="m"))
    assert [(each.name, each.arguments) for each in result.tool_calls] == [("f", {"a": 1})]
    assert result.usage == Usage(12, 4, 0, 8, 5)
    assert result.model == "m"
    vector = {"key": "x-1", "response": {"embedding": {"values": [0.5]}, "tokenCount": 3}}
    result = read("gemini", vector)
    assert (result.embedding, result.usage) == ([0.5], Usage(3))
    with_usage = {"embedding": {"values": [0.5]}, "usageMetadata": {"promptTokenCount": 7}}
    assert read("gemini", {"key": "k", "response": with_usage}).usage == Usage(7)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("raw", [b"{broken", b"[]", b'{"result": {}, "response": {}}', b"[" * 5000 + b"]" * 5000])
def test_what_is_no_row(provider, raw):
    """A line without an id, or that is no JSON, or nested beyond measure, is one clear error."""
    with pytest.raises(MalformedResponseError):
        read(provider, raw)


OPENAI_TEXT = b'{"custom_id":"x-1","response":{"status_code":200,"body":{"choices":[{"message":{"content":"%s"}}]}}}'
ANTHROPIC_TEXT = (
    b'{"custom_id":"x-1","result":{"type":"succeeded","message":{"content":[{"type":"text","text":"%s"}]}}}'
)
GEMINI_TEXT = b'{"key":"x-1","response":{"candidates":[{"content":{"parts":[{"text":"%s"}]}}]}}'


@pytest.mark.parametrize(
    ("provider", "row"), [("openai", OPENAI_TEXT), ("anthropic", ANTHROPIC_TEXT), ("gemini", GEMINI_TEXT)]
)
@pytest.mark.parametrize("broken", [b"\\ud83d", b"\xff"])
def test_half_a_character_does_not_cost_the_row(provider, row, broken):
    """An answer cut in the middle of an emoji, or of a UTF-8 sequence, is still an answer."""
    result = read(provider, row.replace(b"%s", b"a" + broken + b"b"))
    assert result.status is EntryStatus.COMPLETED
    assert result.text in ("a?b", "a\ufffdb")


@pytest.mark.parametrize(
    ("provider", "row"),
    [
        ("openai", {"custom_id": "x-1", "response": {"status_code": 200, "body": {"choices": "none"}}, "error": None}),
        ("openai", openai({"object": "list", "model": "m", "data": [{"embedding": "AAA"}]})),
        ("anthropic", {"custom_id": "x-1", "result": {"type": "succeeded", "message": {"content": 7}}}),
        ("gemini", {"key": "x-1", "response": {"candidates": 7}}),
        ("gemini", {"metadata": {"key": "x-1"}, "response": {"candidates": 7}}),
    ],
)
def test_a_named_row_of_another_shape_is_that_entrys_failure(provider, row):
    """It was answered and perhaps billed, so it is not missing: it is an answer that cannot be read."""
    result = read(provider, row)
    assert (result.wire_id, result.reason) == ("x-1", R.INVALID_OUTPUT)
    assert "cannot be" in result.error.message


def test_openai_arguments_that_are_parsed_or_no_json():
    """Compatible servers give a call's arguments parsed, or leave out its id."""
    calls = [
        {"function": {"name": "f", "arguments": {"a": 1}}},
        {"id": "c2", "function": {"name": None, "arguments": "{"}},
        {"id": "c3", "type": "custom"},
    ]
    result = read("openai", openai(chat("tool_calls", content=None, tool_calls=calls)))
    assert [(call.id, call.name, call.arguments) for call in result.tool_calls] == [
        ("", "f", {"a": 1}),
        ("c2", "", "{"),
    ]


def failed(provider, error, status=None):
    if provider == "openai":
        return openai({"error": error}, status)
    return anthropic("errored", error=error) if provider == "anthropic" else {"key": "x-1", "error": error}


@pytest.mark.parametrize(
    ("provider", "error", "status", "expected"),
    [
        ("openai", {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}, 429,
         ("rate_limit_exceeded", 429)),
        ("openai", {"message": "oops", "type": "server_error", "code": None}, 500, ("server_error", 500)),
        ("openai", "upstream is away", 502, (None, 502)),
        # vLLM and LiteLLM: an HTTP status, and an error in the error.
        ("openai", {"message": "no", "type": "BadRequestError", "code": 400}, None, ("BadRequestError", 400)),
        ("openai", {"error": {"message": "no", "type": None, "code": "503"}}, 503, ("503", 503)),
        ("anthropic", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, None,
         ("overloaded_error", None)),
        ("anthropic", {"type": "rate_limit_error", "message": "slow"}, None, ("rate_limit_error", None)),
        ("anthropic", "just words", None, (None, None)),
        ("gemini", {"code": 8, "message": "quota"}, None, ("RESOURCE_EXHAUSTED", None)),
        ("gemini", {"code": 13}, None, ("INTERNAL", None)),
        ("gemini", {"code": "14"}, None, ("UNAVAILABLE", None)),
        ("gemini", {"code": 503, "message": "away", "status": "UNAVAILABLE"}, None, ("UNAVAILABLE", 503)),
        ("gemini", {"code": 429}, None, ("RESOURCE_EXHAUSTED", 429)),
        ("gemini", {"code": 777}, None, ("777", 777)),
        ("gemini", "just words", None, (None, None)),
    ],
)  # fmt: skip
def test_codes_tell_whether_a_row_is_worth_repeating(provider, error, status, expected):
    """Each provider's own word for what went wrong, and the HTTP status where it gives one."""
    found = read(provider, failed(provider, error, status))
    assert found.reason is R.ERRORED
    assert (found.error.code, found.error.status) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [("batch_expired", True), ("request_timeout", True), ("server_error", True), ("batch_cancelled", False),
     ("invalid_value", False)],
)  # fmt: skip
def test_which_openai_rows_without_a_response_are_sent_again(code, expected):
    """Those that were not run in time, or met a fault; what was canceled was meant to be."""
    found = read("openai", openai(error={"code": code, "message": "not run"}))
    assert is_worth_repeating(found.reason, found.error.code, found.error.status) is expected


def test_an_error_beside_an_answer():
    """An empty error says nothing against the response; one with a code does."""
    assert read("gemini", {**gemini("STOP", {"text": "hi"}), "error": {}}).text == "hi"
    assert read("gemini", {**gemini("STOP", {"text": "hi"}), "error": {"code": 13}}).reason is R.ERRORED
    assert read("openai", {**openai(chat(content="hi")), "error": {"code": None, "message": None}}).text == "hi"
    assert read("openai", openai({"error": {"message": "odd", "code": "server_error"}})).error.code == "server_error"
