"""What a DAG author asks for: one entry's request, and the defaults of its batch."""

from __future__ import annotations

from typing import Any

import msgspec


class EntryRequest(msgspec.Struct, kw_only=True):
    """One request of a batch, in text form (``prompt`` or ``messages``) or as a native ``body``.

    Exactly one of ``prompt``, ``messages`` and ``body`` is set; for embeddings ``prompt`` is the text to embed.
    Fields left ``None`` fall back to the batch's :class:`RequestDefaults`.
    """

    #: Unique within the batch; any text. ``None``: the row's position.
    custom_id: str | None = None
    prompt: str | None = None
    #: ``[{"role": "user" | "assistant" | "system", "content": text}, ...]``
    messages: list[dict[str, Any]] | None = None
    #: Complete native request body, passed through (with ``model`` filled in where the provider wants it there).
    body: dict[str, Any] | None = None
    system: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    #: JSON schema of the answer.
    output_schema: dict[str, Any] | None = None
    #: Merged into the native body last (dicts are merged deeply).
    params: dict[str, Any] | None = None
    #: The user's own columns; they travel to the result row.
    columns: dict[str, Any] = msgspec.field(default_factory=dict)


class RequestDefaults(msgspec.Struct, kw_only=True, frozen=True):
    """What every request of a batch shares unless it says otherwise."""

    #: Provider's model name, without a ``provider:`` prefix.
    model: str
    #: The provider's endpoint, such as ``/v1/responses``; ``""``: the adapter's first.
    endpoint: str = ""
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    output_schema: dict[str, Any] | None = None
    params: dict[str, Any] | None = None
