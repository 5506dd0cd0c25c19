"""Rows of Anthropic's results, read into one shape."""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_raif.adapters import jsonl
from airflow_raif.adapters.jsonl import count_of
from airflow_raif.domain.result import EntryError, EntryResult, ToolCall
from airflow_raif.domain.status import EntryStatus, FailureReason
from airflow_raif.domain.usage import Usage


class _Block(msgspec.Struct, gc=False):
    """A content block of an answer."""

    type: str | None = None
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: int | float | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | float | None = None
    output_tokens: int | float | None = None
    cache_read_input_tokens: int | float | None = None
    cache_creation_input_tokens: int | float | None = None
    cache_creation: _CacheCreation | None = None


class _Message(msgspec.Struct, gc=False):
    content: list[_Block] | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Error(msgspec.Struct, gc=False):
    """An error as a row has it: in the real shape the error lies in the error."""

    type: str | None = None
    message: str | None = None
    error: _Error | str | None = None


class _Result(msgspec.Struct, gc=False):
    type: str
    message: _Message | None = None
    error: _Error | str | None = None


class _Row(msgspec.Struct, gc=False):
    custom_id: str
    result: _Result


_row_decoder = msgspec.json.Decoder(_Row)
_COMPLETED, _FAILED = EntryStatus.COMPLETED, EntryStatus.FAILED
_CUT = {
    "max_tokens": FailureReason.TRUNCATED,
    "model_context_window_exceeded": FailureReason.TRUNCATED,
    "refusal": FailureReason.REFUSED,
    # The provider's own tools took too long: https://docs.anthropic.com/en/api/handling-stop-reasons.
    "pause_turn": FailureReason.INVALID_OUTPUT,
}


def _read(row: _Row) -> EntryResult:
    result = row.result
    if result.type == "succeeded" and result.message is not None:
        return _succeeded(row.custom_id, result.message)
    if result.type in ("canceled", "expired"):
        reason, error = FailureReason(result.type), EntryError(f"the entry was {result.type}", result.type)
    else:
        reason, error = FailureReason.ERRORED, _error_of(result)
    return EntryResult(wire_id=row.custom_id, status=_FAILED, reason=reason, error=error)


def _error_of(result: _Result) -> EntryError:
    error: _Error | str | None = result.error
    while isinstance(error, _Error) and error.error is not None:
        error = error.error
    if isinstance(error, _Error):
        return EntryError(error.message or error.type or "no message", error.type)
    return EntryError(error or f"the result is {result.type!r} without a reason", None if error else result.type)


def _succeeded(wire_id: str, message: _Message) -> EntryResult:
    texts: list[str] = []
    calls: list[ToolCall] = []
    for block in message.content or ():
        if block.type in ("text", None) and block.text is not None:
            texts.append(block.text)
        elif block.type == "tool_use":
            calls.append(ToolCall(block.id or "", block.name or "", block.input))
    text = "".join(texts) if texts else None
    reason: FailureReason | None = _CUT.get(message.stop_reason or "")
    error: EntryError | None = None
    if reason is None and not text and not calls:
        reason, error = FailureReason.INVALID_OUTPUT, EntryError("the answer is empty")
    elif reason is FailureReason.TRUNCATED:
        error = EntryError("the answer was cut off at its token limit; raise max_tokens", message.stop_reason)
    elif reason is FailureReason.REFUSED:
        error = EntryError("the model declined to answer", message.stop_reason)
    elif reason is not None:
        error = EntryError(f"the answer is not whole: it ended with {message.stop_reason}", message.stop_reason)
    return EntryResult(
        wire_id=wire_id,
        status=_COMPLETED if reason is None else _FAILED,
        reason=reason,
        text=text,
        tool_calls=calls,
        error=error,
        model=message.model,
        usage=_usage(message.usage) if message.usage else None,
        finish_reason=message.stop_reason,
        refusal=text if reason is FailureReason.REFUSED else None,
    )


def _usage(usage: _Usage) -> Usage | None:
    """Anthropic counts cached tokens beside ``input_tokens``; ours include them."""
    given, answered = count_of(usage.input_tokens), count_of(usage.output_tokens)
    if given is None and answered is None:
        return None
    read, written = count_of(usage.cache_read_input_tokens) or 0, count_of(usage.cache_creation_input_tokens) or 0
    one_hour = (count_of(usage.cache_creation.ephemeral_1h_input_tokens) or 0) if usage.cache_creation else 0
    written = max(written, one_hour)
    return Usage((given or 0) + read + written, read, written - one_hour, answered or 0, 0, one_hour)


#: Reads one row of a results stream.
read_row = jsonl.row_reader(_read, _row_decoder)
