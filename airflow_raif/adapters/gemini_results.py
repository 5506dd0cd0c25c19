"""Rows of Gemini's responses, from a file or inline."""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_raif.adapters import jsonl
from airflow_raif.domain.errors import MalformedResponseError
from airflow_raif.domain.result import EntryError, EntryResult, ToolCall
from airflow_raif.domain.status import EntryStatus, FailureReason
from airflow_raif.domain.usage import Usage

_COMPLETED, _FAILED = EntryStatus.COMPLETED, EntryStatus.FAILED


class _Call(msgspec.Struct):
    name: str = ""
    id: str | None = None
    args: Any = None


class _Piece(msgspec.Struct, rename="camel"):
    """A part of a content."""

    text: str | None = None
    thought: bool = False
    function_call: _Call | None = None


class _Content(msgspec.Struct):
    parts: list[_Piece] = []


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: int = 0
    candidates_token_count: int = 0
    thoughts_token_count: int = 0
    tool_use_prompt_token_count: int = 0
    cached_content_token_count: int = 0


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Embedding(msgspec.Struct):
    values: list[float] = []


class _Response(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    embedding: _Embedding | None = None
    token_count: int | None = None


class _Error(msgspec.Struct):
    code: int | None = None
    message: str | None = None


class _RowMetadata(msgspec.Struct):
    key: str | None = None


class _Row(msgspec.Struct):
    key: str | None = None
    metadata: _RowMetadata | None = None
    response: _Response | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Row, strict=False).decode

#: google.rpc.Code of entries that were never run.
_NOT_RUN = {1: FailureReason.CANCELED, 4: FailureReason.EXPIRED}
_CUT = {
    "MAX_TOKENS": FailureReason.TRUNCATED,
    "SAFETY": FailureReason.REFUSED,
    "RECITATION": FailureReason.REFUSED,
    "BLOCKLIST": FailureReason.REFUSED,
    "PROHIBITED_CONTENT": FailureReason.REFUSED,
    "SPII": FailureReason.REFUSED,
    "LANGUAGE": FailureReason.REFUSED,
    "IMAGE_SAFETY": FailureReason.REFUSED,
}


def read_row(raw: bytes) -> EntryResult:
    """Read one row.

    :raises MalformedResponseError: it is no row, or has no key.
    """
    return jsonl.read_row(_read, _decode, raw)


def _read(row: _Row) -> EntryResult:
    key = row.key or (row.metadata.key if row.metadata else None)
    if key is None:
        raise MalformedResponseError("a result row has no key", provider="gemini")
    if row.error is not None or row.response is None:
        error_of = row.error or _Error(message="the row has neither a response nor an error")
        return EntryResult(
            wire_id=key,
            status=_FAILED,
            reason=_NOT_RUN.get(error_of.code or 0, FailureReason.ERRORED),
            error=EntryError(
                error_of.message or f"code {error_of.code}", str(error_of.code) if error_of.code is not None else None
            ),
        )
    if row.response.embedding is not None:
        return _embedded(key, row.response, row.response.embedding)
    return _generated(key, row.response)


def _embedded(key: str, response: _Response, embedding: _Embedding) -> EntryResult:
    tokens = response.usage_metadata.prompt_token_count if response.usage_metadata else response.token_count
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
    for piece in candidate.content.parts if candidate is not None and candidate.content is not None else ():
        if piece.function_call is not None:
            calls.append(ToolCall(piece.function_call.id or "", piece.function_call.name, piece.function_call.args))
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


def _usage(usage: _Usage) -> Usage:
    """Thoughts are counted beside the candidates' tokens, and billed as output."""
    return Usage(
        usage.prompt_token_count + usage.tool_use_prompt_token_count,
        usage.cached_content_token_count,
        0,
        usage.candidates_token_count + usage.thoughts_token_count,
        usage.thoughts_token_count,
    )
