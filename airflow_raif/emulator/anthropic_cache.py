"""Anthropic's prompt cache: what a request marks is written by the first that has it, and read by those after it.

Source: https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from airflow_raif.emulator.answers import count_tokens

#: Tokens that a prefix needs to be cached at all; some models want more.
_LEAST_TOKENS = 1024
#: Prefixes that are remembered.
_MOST_PREFIXES = 1000
_MARK = b'"cache_control"'


class Cached(NamedTuple):
    """Input tokens of a request that were read from the cache, or written to it for five minutes or an hour."""

    read: int = 0
    written: int = 0
    written_1h: int = 0


class PromptCache:
    """Remembers prefixes in the order they came."""

    def __init__(self) -> None:
        self._seen: dict[bytes, None] = {}

    def use(self, raw: bytes) -> Cached:
        """Look up what a request marks, and remember it."""
        if _MARK not in raw:
            return Cached()
        params = msgspec.json.decode(raw)
        prefix, last_for = [params.get("model"), params.get("tools")], ""
        marked: list[Any] = []
        for block in _blocks(params):
            prefix.append(block)
            if isinstance(block, dict) and (mark := block.get("cache_control")):
                marked, last_for = list(prefix), str(mark.get("ttl", "5m"))
        content = msgspec.json.encode(marked)
        tokens = count_tokens(len(content))
        if tokens < _LEAST_TOKENS:
            return Cached()
        key = hashlib.sha256(content).digest()
        if key in self._seen:
            return Cached(read=tokens)
        self._seen[key] = None
        if len(self._seen) > _MOST_PREFIXES:
            del self._seen[next(iter(self._seen))]
        return Cached(written_1h=tokens) if last_for == "1h" else Cached(written=tokens)


def _blocks(params: dict[str, Any]) -> Iterator[Any]:
    """Yield the blocks of a request in the order in which the cache takes them: tools, system, messages."""
    yield from params.get("tools") or ()
    for content in (params.get("system"), *(message.get("content") for message in params.get("messages") or ())):
        yield from content if isinstance(content, list) else (content,)
