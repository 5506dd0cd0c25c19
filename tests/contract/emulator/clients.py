"""The official SDKs, of either generation, as clients of an emulator, and a clock that a test sets."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

DAY = 86_400.0


class Clock:
    """Unix seconds that move only when a test says so."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def openai_client(url: str, key: str = "good-key") -> Any:
    """An OpenAI client that repeats nothing."""
    sdk = pytest.importorskip("openai")
    return sdk.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20)


def anthropic_client(url: str, key: str = "good-key") -> Any:
    """An Anthropic client that repeats nothing."""
    sdk = pytest.importorskip("anthropic")
    return sdk.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=20)


def gemini_client(url: str, key: str = "good-key", version: str = "") -> Any:
    """A Gemini client; without a version it speaks the one its generation prefers."""
    sdk = pytest.importorskip("google.genai")
    options = {"base_url": url, "timeout": 20_000, **({"api_version": version} if version else {})}
    return sdk.Client(api_key=key, http_options=options)


def gemini_raw(url: str, key: str = "good-key") -> httpx.Client:
    """A plain client of Gemini's REST API: what the SDK drops from a reply is only seen so."""
    return httpx.Client(base_url=url, headers={"x-goog-api-key": key}, timeout=20, trust_env=False)


def lines(*rows: Any) -> bytes:
    """JSON lines; a text is a line as it stands."""
    return b"".join((row if isinstance(row, str) else json.dumps(row)).encode() + b"\n" for row in rows)


def rows_of(data: bytes) -> list[dict[str, Any]]:
    """Read JSON lines, split on the line feed only."""
    return [json.loads(line) for line in data.split(b"\n") if line.strip()]
