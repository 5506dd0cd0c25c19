"""Rows of Gemini's responses, from a file or inline."""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_raif.adapters import jsonl
from airflow_raif.adapters.jsonl import count_of, usage_of
from airflow_raif.domain.errors import MalformedResponseError
from airflow_raif.domain.result import EntryError, EntryResult, ToolCall
from airflow_raif.domain.status import EntryStatus, FailureReason
from airflow_raif.domain.usage import Usage

_COMPLETED, _FAILED = EntryStatus.COMPLETED, EntryStatus.FAILED


class _Call(msgspec.Struct, gc=False):
    name: str | None = None
    id: str | None = None
    args: Any = None


class _Piece(msgspec.Struct, rename="camel", gc=False):
    """A part of a content."""

    text: str | None = None
    thought: bool | None = None
    function_call: _Call | None = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Piece] | None = None


class _Candidate(msgspec.Struct, rename="camel", gc=False):
    content: _Content | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, rename="camel", gc=False):
    prompt_token_count: int | float | None = None
    candidates_token_count: int | float | None = None
    thoughts_token_count: int | float | None = None
    tool_use_prompt_token_count: int | float | None = None
    cached_content_token_count: int | float | None = None


class _Feedback(msgspec.Struct, rename="camel", gc=False):
    block_reason: str | None = None


class _Embedding(msgspec.Struct, gc=False):
    values: list[float] | None = None


class _Response(msgspec.Struct, rename="camel", gc=False):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    embedding: _Embedding | None = None
    token_count: int | float | None = None


class _Error(msgspec.Struct, gc=False):
    """A google.rpc.Status, or an error as HTTP answers have it: with its HTTP status as the code, and its name."""

    code: int | str | None = None
    message: str | None = None
    status: str | None = None


class _RowMetadata(msgspec.Struct, gc=False):
    key: str | None = None


class _Row(msgspec.Struct, gc=False):
    key: str | None = None
    metadata: _RowMetadata | None = None
    response: _Response | None = None
    error: _Error | str | None = None


_decoder = msgspec.json.Decoder(_Row, strict=False)

#: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto, by number.
_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_CODE_OF_HTTP = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED",
    429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}  # fmt: skip
#: Entries that were never run.
_NOT_RUN = {"CANCELLED": FailureReason.CANCELED, "DEADLINE_EXCEEDED": FailureReason.EXPIRED}
#: https://ai.google.dev/api/generate-content#FinishReason
_CUT = {
    "MAX_TOKENS": FailureReason.TRUNCATED,
    "SAFETY": FailureReason.REFUSED,
    "RECITATION": FailureReason.REFUSED,
    "BLOCKLIST": FailureReason.REFUSED,
    "PROHIBITED_CONTENT": FailureReason.REFUSED,
    "SPII": FailureReason.REFUSED,
    "LANGUAGE": FailureReason.REFUSED,
    "IMAGE_SAFETY": FailureReason.REFUSED,
    "IMAGE_PROHIBITED_CONTENT": FailureReason.REFUSED,
    "IMAGE_RECITATION": FailureReason.REFUSED,
    "ESCALATION": FailureReason.REFUSED,
    "MALFORMED_RESPONSE": FailureReason.INVALID_OUTPUT,
    "MALFORMED_FUNCTION_CALL": FailureReason.INVALID_OUTPUT,
    "UNEXPECTED_TOOL_CALL": FailureReason.INVALID_OUTPUT,
    "TOO_MANY_TOOL_CALLS": FailureReason.INVALID_OUTPUT,
    "MISSING_THOUGHT_SIGNATURE": FailureReason.INVALID_OUTPUT,
}


def _read(row: _Row) -> EntryResult:
    key = row.key or (row.metadata.key if row.metadata else None)
    if not key:
        raise MalformedResponseError("a result row has no key", provider="gemini")
    error = _error_of(row.error)
    if error is None and row.response is None:
        error = EntryError("the row has neither a response nor an error")
    if error is not None or row.response is None:
        reason = _NOT_RUN.get((error.code if error else None) or "", FailureReason.ERRORED)
        return EntryResult(wire_id=key, status=_FAILED, reason=reason, error=error)
    if row.response.embedding is not None:
        return _embedded(key, row.response, row.response.embedding)
    return _generated(key, row.response)


def name_of_code(code: int | str | None) -> str | None:
    """Return the name of a google.rpc code, given as its number, as an HTTP status, or by name."""
    if isinstance(code, str):
        return name_of_code(int(code)) if code.isascii() and code.isdigit() else code
    if code is None:
        return None
    return _CODES[code] if 0 <= code < len(_CODES) else _CODE_OF_HTTP.get(code, str(code))


def _error_of(error: _Error | str | None) -> EntryError | None:
    """Return what a row's error says; an empty one, which some servers put beside a response, says nothing."""
    if isinstance(error, str) or error is None:
        return EntryError(error) if error else None
    name = error.status or name_of_code(error.code)
    if name is None and not error.message:
        return None
    http_status = error.code if isinstance(error.code, int) and error.code >= 100 else None
    return EntryError(error.message or f"code {name}", name, http_status)


def _embedded(key: str, response: _Response, embedding: _Embedding) -> EntryResult:
    metadata = response.usage_metadata
    tokens = count_of(metadata.prompt_token_count) if metadata is not None else None
    if tokens is None:
        tokens = count_of(response.token_count)
    return EntryResult(
        wire_id=key,
        status=_COMPLETED if embedding.values else _FAILED,
        reason=None if embedding.values else FailureReason.INVALID_OUTPUT,
        embedding=embedding.values or None,
        error=None if embedding.values else EntryError("the answer has no embedding"),
        model=response.model_version,
        usage=None if tokens is None else Usage(tokens),
    )


def _generated(key: str, response: _Response) -> EntryResult:
    candidate = response.candidates[0] if response.candidates else None
    texts: list[str] = []
    calls: list[ToolCall] = []
    pieces = candidate.content.parts if candidate is not None and candidate.content is not None else None
    for piece in pieces or ():
        if piece.function_call is not None:
            calls.append(
                ToolCall(piece.function_call.id or "", piece.function_call.name or "", piece.function_call.args)
            )
        elif piece.text is not None and not piece.thought:
            texts.append(piece.text)
    text = "".join(texts) if texts else None
    finish = candidate.finish_reason if candidate is not None else None
    blocked = response.prompt_feedback.block_reason if response.prompt_feedback else None
    reason = FailureReason.REFUSED if blocked else _CUT.get(finish or "")
    error: EntryError | None = None
    if reason is None and not text and not calls:
        reason, error = FailureReason.INVALID_OUTPUT, EntryError("the answer is empty", finish)
    elif reason is FailureReason.TRUNCATED:
        error = EntryError("the answer was cut off at its token limit; raise max_tokens", finish)
    elif reason is FailureReason.REFUSED:
        error = EntryError("the provider held the answer back", blocked or finish)
    elif reason is not None:
        error = EntryError(f"the answer is not whole: it ended with {finish}", finish)
    return EntryResult(
        wire_id=key,
        status=_COMPLETED if reason is None else _FAILED,
        reason=reason,
        text=text,
        tool_calls=calls,
        error=error,
        model=response.model_version,
        usage=_usage(response.usage_metadata) if response.usage_metadata else None,
        finish_reason=finish or blocked,
        refusal=text if reason is FailureReason.REFUSED else None,
    )


def _usage(usage: _Usage) -> Usage | None:
    """Thoughts are counted beside the candidates' tokens, and billed as output; tools' prompts beside the prompt."""
    thoughts = count_of(usage.thoughts_token_count)
    return usage_of(
        _sum(count_of(usage.prompt_token_count), count_of(usage.tool_use_prompt_token_count)),
        _sum(count_of(usage.candidates_token_count), thoughts),
        cached=usage.cached_content_token_count or 0,
        reasoning=thoughts or 0,
    )


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None and second is None else (first or 0) + (second or 0)


#: Reads one row.
read_row = jsonl.row_reader(_read, _decoder)
