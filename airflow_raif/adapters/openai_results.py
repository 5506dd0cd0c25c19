"""Rows of OpenAI's output and error files."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec

from airflow_raif.adapters import jsonl
from airflow_raif.adapters.jsonl import usage_of
from airflow_raif.domain.errors import MalformedResponseError
from airflow_raif.domain.result import EntryError, EntryResult, ToolCall
from airflow_raif.domain.status import EntryStatus, FailureReason
from airflow_raif.domain.usage import Usage

_COMPLETED, _FAILED = EntryStatus.COMPLETED, EntryStatus.FAILED


class _Content(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct, gc=False):
    """An item of a response's output."""

    type: str | None = None
    content: list[_Content] | None = None
    call_id: str | None = None
    id: str | None = None
    name: str | None = None
    arguments: Any = None


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | float | None = None
    cache_write_tokens: int | float | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | float | None = None


class _Usage(msgspec.Struct, gc=False):
    """Usage as /v1/responses (input, output) and the others (prompt, completion) name it."""

    input_tokens: int | float | None = None
    output_tokens: int | float | None = None
    prompt_tokens: int | float | None = None
    completion_tokens: int | float | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    #: JSON as text; some compatible servers give it parsed.
    arguments: Any = None


class _Call(msgspec.Struct, gc=False):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | list[_Content] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message | None = None
    finish_reason: str | None = None


class _Embedding(msgspec.Struct, gc=False):
    embedding: list[float] | str | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Error(msgspec.Struct, gc=False):
    """An error of a row or of a body; some servers wrap it once more, or give an HTTP status as its code."""

    message: str | None = None
    code: str | int | None = None
    type: str | None = None
    error: _Error | str | None = None


class _Body(msgspec.Struct, gc=False):
    model: str | None = None
    status: str | None = None
    output: list[_Item] | None = None
    choices: list[_Choice] | None = None
    data: list[_Embedding] | None = None
    usage: _Usage | None = None
    incomplete_details: _Incomplete | None = None
    error: _Error | str | None = None


class _Response(msgspec.Struct, gc=False):
    status_code: int | None = None
    body: _Body | str | None = None


class _Row(msgspec.Struct, gc=False):
    custom_id: str
    response: _Response | None = None
    error: _Error | str | None = None


_decoder = msgspec.json.Decoder(_Row)
_decode_any = msgspec.json.Decoder().decode

_NOT_RUN = {"batch_expired": FailureReason.EXPIRED, "batch_cancelled": FailureReason.CANCELED}
#: Why an answer is not whole, by the provider's own word.
_CUT = {
    "max_output_tokens": FailureReason.TRUNCATED,
    "length": FailureReason.TRUNCATED,
    "incomplete": FailureReason.TRUNCATED,
    "content_filter": FailureReason.REFUSED,
}


def _read(row: _Row) -> EntryResult:
    response = row.response
    body = response.body if response is not None else None
    if response is None or not isinstance(body, _Body):
        return _not_run(row, response)
    if not 200 <= (response.status_code or 200) < 300:
        return _failed(row.custom_id, FailureReason.ERRORED, body.error, response.status_code, body)
    if body.output is not None:
        return _from_response(row.custom_id, body)
    if body.choices is not None:
        return _from_chat(row.custom_id, body)
    if body.data is not None:
        return _from_embedding(row.custom_id, body)
    if body.error is not None:
        return _failed(row.custom_id, FailureReason.ERRORED, body.error, None, body)
    return _failed(row.custom_id, FailureReason.INVALID_OUTPUT, "the answer is empty", None, body)


def _not_run(row: _Row, response: _Response | None) -> EntryResult:
    status = response.status_code if response is not None else None
    text = response.body if response is not None and isinstance(response.body, str) else None
    error = row.error or text or "the row has neither a response nor an error"
    reason = _NOT_RUN.get(_error_of(error, status).code or "", FailureReason.ERRORED)
    return _failed(row.custom_id, reason, error, status, None)


def _failed(
    wire_id: str, reason: FailureReason, error: _Error | str | None, status: int | None, body: _Body | None
) -> EntryResult:
    return EntryResult(
        wire_id=wire_id,
        status=_FAILED,
        reason=reason,
        error=_error_of(error, status),
        model=body.model if body else None,
        usage=_usage(body.usage) if body and body.usage else None,
    )


def _error_of(error: _Error | str | None, status: int | None) -> EntryError:
    while isinstance(error, _Error) and error.error is not None:
        error = error.error
    if not isinstance(error, _Error):
        return EntryError(error or f"HTTP {status}", None, status)
    code: str | int | None = error.code or error.type
    if isinstance(code, int):
        # https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html: an HTTP status is the code.
        status, code = status or code, error.type or str(code)
    return EntryError(error.message or str(code or "no message"), code, status)


def _from_response(wire_id: str, body: _Body) -> EntryResult:
    texts: list[str] = []
    calls: list[ToolCall] = []
    refusal: str | None = None
    for item in body.output or ():
        if item.type == "function_call":
            calls.append(ToolCall(item.call_id or item.id or "", item.name or "", _arguments(item.arguments)))
        elif item.type == "message":
            for content in item.content or ():
                if content.text is not None:
                    texts.append(content.text)
                elif content.refusal is not None:
                    refusal = content.refusal
    if body.status == "failed":
        return _failed(wire_id, FailureReason.ERRORED, body.error or "the response failed", None, body)
    cut = body.incomplete_details.reason if body.incomplete_details else None
    return _judged(wire_id, body, "".join(texts) if texts else None, calls, refusal, cut or body.status)


def _from_chat(wire_id: str, body: _Body) -> EntryResult:
    choice = body.choices[0] if body.choices else None
    message = choice.message if choice is not None else None
    if choice is None or message is None:
        return _failed(wire_id, FailureReason.INVALID_OUTPUT, "the answer has no choice", None, body)
    content = message.content
    if isinstance(content, list):
        content = "".join(each.text or "" for each in content)
    calls = [
        ToolCall(call.id or "", call.function.name or "", _arguments(call.function.arguments))
        for call in message.tool_calls or ()
        if call.function is not None
    ]
    return _judged(wire_id, body, content, calls, message.refusal, choice.finish_reason)


def _judged(
    wire_id: str, body: _Body, text: str | None, calls: list[ToolCall], refusal: str | None, finish: str | None
) -> EntryResult:
    reason: FailureReason | None = _CUT.get(finish or "")
    if reason is None and refusal is not None:
        reason = FailureReason.REFUSED
    error: EntryError | None = None
    if reason is None and not text and not calls:
        reason, error = FailureReason.INVALID_OUTPUT, EntryError("the answer is empty")
    elif reason is FailureReason.TRUNCATED:
        error = EntryError("the answer was cut off at its token limit; raise max_tokens")
    elif reason is FailureReason.REFUSED:
        error = EntryError(refusal or "the provider's content filter held the answer back")
    return EntryResult(
        wire_id=wire_id,
        status=_COMPLETED if reason is None else _FAILED,
        reason=reason,
        text=text,
        tool_calls=calls,
        error=error,
        model=body.model,
        usage=_usage(body.usage) if body.usage else None,
        finish_reason=finish,
        refusal=refusal,
    )


def _from_embedding(wire_id: str, body: _Body) -> EntryResult:
    vectors = [_vector(each.embedding) for each in body.data or ()]
    if not vectors or not all(vectors):
        return _failed(wire_id, FailureReason.INVALID_OUTPUT, "the answer has no embedding", None, body)
    return EntryResult(
        wire_id=wire_id,
        status=_COMPLETED,
        # One request may hold several inputs, each with a vector of its own.
        embedding=vectors[0] if len(vectors) == 1 else vectors,
        model=body.model,
        usage=_usage(body.usage) if body.usage else None,
    )


def _vector(value: list[float] | str | None) -> list[float]:
    if isinstance(value, str):
        try:
            packed = base64.b64decode(value)
            return list(struct.unpack(f"<{len(packed) // 4}f", packed))
        except (ValueError, struct.error) as error:
            raise MalformedResponseError(f"an embedding cannot be unpacked: {error}", provider="openai") from error
    return value or []


def _usage(usage: _Usage) -> Usage | None:
    read = usage.input_tokens_details or usage.prompt_tokens_details
    written = usage.output_tokens_details or usage.completion_tokens_details
    return usage_of(
        usage.prompt_tokens if usage.input_tokens is None else usage.input_tokens,
        usage.completion_tokens if usage.output_tokens is None else usage.output_tokens,
        cached=read.cached_tokens if read is not None else 0,
        reasoning=written.reasoning_tokens if written is not None else 0,
        written=(read.cache_write_tokens or 0) if read is not None else 0,
    )


def _arguments(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return _decode_any(given or "null")
    except (msgspec.DecodeError, RecursionError):
        return given


#: Reads a row of any of the three endpoints.
read_row = jsonl.row_reader(_read, _decoder)
