"""Money before it is spent: what a batch will probably take, and what it may."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

import msgspec

from airflow_raif.domain.queue import tokens_of
from airflow_raif.domain.usage import PICO, Cost, Usage, usd

#: Output tokens of a request of which nothing is known.
UNKNOWN_OUTPUT_TOKENS = 1000
#: Where the expected tokens come from.
Source = Literal["given", "earlier batches", "max_tokens", "nothing"]


class History(msgspec.Struct, frozen=True):
    """What requests of the same task and model took before."""

    requests: int
    request_bytes: int
    usage: Usage


class Budget(msgspec.Struct, frozen=True):
    """What a batch may cost, and what is said of its answers; kept with the batch."""

    #: In picodollars.
    max_cost: int | None = None
    #: Output tokens of one answer that the user expects.
    expected_output_tokens: int | None = None
    #: Output tokens that the batch allows an answer.
    max_tokens: int | None = None


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What the requests of a batch will probably take, before any of them is sent."""

    requests: int = 0
    request_bytes: int = 0
    usage: Usage = Usage()
    cost: Cost = Cost(0, 0)
    #: Where the tokens of an answer come from.
    source: Source = "nothing"

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            requests=self.requests + other.requests,
            request_bytes=self.request_bytes + other.request_bytes,
            usage=self.usage + other.usage,
            cost=Cost(
                _sum(self.cost.batch, other.cost.batch),
                _sum(self.cost.standard, other.cost.standard),
                self.cost.is_estimated or other.cost.is_estimated,
            ),
            source=other.source,
        )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def expected_usage(
    requests: int,
    size: int,
    history: History | None,
    budget: Budget,
    *,
    tokens_per_byte: float | None = None,
    has_output: bool = True,
) -> tuple[Usage, Source]:
    """Return what so many requests of so many bytes will probably take together, and how that is known.

    Input follows the bytes, as it did in the last batch of the task if there is one; output the number of requests.
    """
    if history is not None:
        by_bytes, by_count = size / history.request_bytes, requests / history.requests
        took = history.usage
        usage = Usage(
            round(took.input_tokens * by_bytes),
            round(took.cached_tokens * by_bytes),
            round(took.cache_write_tokens * by_bytes),
            round(took.output_tokens * by_count),
            round(took.reasoning_tokens * by_count),
            round(took.cache_write_1h_tokens * by_bytes),
        )
        if budget.expected_output_tokens is None:
            return usage, "earlier batches"
        return msgspec.structs.replace(usage, output_tokens=budget.expected_output_tokens * requests), "given"
    each, source = _output_tokens(budget)
    if not has_output:
        each = 0
    taken = tokens_of(size) if tokens_per_byte is None else round(size * tokens_per_byte)
    return Usage(input_tokens=taken, output_tokens=each * requests), source


def _output_tokens(budget: Budget) -> tuple[int, Source]:
    if budget.expected_output_tokens is not None:
        return budget.expected_output_tokens, "given"
    if budget.max_tokens is not None:
        return budget.max_tokens, "max_tokens"
    return UNKNOWN_OUTPUT_TOKENS, "nothing"


def picodollars(amount: Decimal | float | str) -> int:
    """Return an amount in US dollars as whole picodollars.

    :raises ValueError: it is no number above 0.
    """
    try:
        pico = int(Decimal(str(amount)) * PICO)
    except (ArithmeticError, ValueError) as error:
        raise ValueError(f"{amount!r} is no amount of US dollars") from error
    if pico <= 0:
        raise ValueError(f"{amount!r} US dollars are no budget; give more than 0")
    return pico


def dollars(pico: int | None) -> str:
    """Return an amount as people read it; of a small one two digits that tell something."""
    if pico is None:
        return "an unknown amount"
    amount = usd(pico)
    return f"${amount:,.4f}" if pico == 0 or pico >= PICO // 1000 else f"${Decimal(f'{amount:.2g}'):f}"


def day_of(at: datetime) -> tuple[datetime, datetime]:
    """Return when the day of a time begins and ends, in UTC, as providers bill."""
    start = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return start, start + timedelta(days=1)
