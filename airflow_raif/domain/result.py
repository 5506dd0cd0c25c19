"""The outcome of one entry, independent of the provider."""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_raif.domain.status import EntryStatus, FailureReason
from airflow_raif.domain.usage import Usage


class EntryError(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Why an entry failed, as far as the provider said."""

    message: str
    #: The provider's own code or type, such as ``invalid_request_error`` or ``batch_expired``.
    code: str | None = None
    #: HTTP status of the row, where the provider gives one.
    status: int | None = None


class ToolCall(msgspec.Struct, frozen=True, gc=False):
    """A tool the model wants called; ``arguments`` is parsed JSON, or the raw text where it is not JSON."""

    id: str
    name: str
    arguments: Any


class EntryResult(msgspec.Struct, kw_only=True, gc=False):
    """One raw result row, understood."""

    #: The id on the wire; see :func:`airflow_raif.domain.wire_id.make_wire_id`.
    wire_id: str
    status: EntryStatus
    reason: FailureReason | None = None
    #: Text of the answer, reasoning left out; ``None`` where there is none (embeddings, tool calls only).
    text: str | None = None
    tool_calls: list[ToolCall] = msgspec.field(default_factory=list)
    embedding: list[float] | list[list[float]] | None = None
    error: EntryError | None = None
    #: The model that answered, as the provider names it.
    model: str | None = None
    usage: Usage | None = None
    #: The provider's own word, such as ``stop``, ``end_turn``, ``MAX_TOKENS``.
    finish_reason: str | None = None
    #: The model's own words when it declined.
    refusal: str | None = None
