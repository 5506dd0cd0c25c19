"""Token counts and money of one entry, a part or a batch."""

from __future__ import annotations

from decimal import Decimal

import msgspec

#: Money is counted in whole picodollars (1e-12 USD), so that sums are exact in any database.
PICO = Decimal(10) ** 12
_PICODOLLAR = 1 / PICO


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of entries. ``input_tokens`` includes the cached ones, ``output_tokens`` the reasoning ones."""

    input_tokens: int = 0
    #: Tokens read from the provider's prompt cache.
    cached_tokens: int = 0
    #: Tokens written to the provider's prompt cache for a short time (Anthropic: 5 minutes), or the only one (OpenAI).
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    #: Tokens written to the prompt cache with the one-hour lifetime (Anthropic).
    cache_write_1h_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
        )


class Cost(msgspec.Struct, frozen=True, gc=False):
    """Price of some usage, in picodollars; ``None`` where no price is known."""

    batch: int | None = None
    #: What the same tokens cost through the synchronous API.
    standard: int | None = None
    #: True where no batch price is known and the figure is a guess.
    is_estimated: bool = False


def usd(pico: int | None) -> Decimal | None:
    """Convert picodollars to US dollars, exactly."""
    return None if pico is None else (pico * _PICODOLLAR).normalize() + 0
