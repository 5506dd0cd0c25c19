"""Metrics: what is counted of batches, under which names; the hooks floor says where it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from airflow_raif.domain.batch import Batch, Part
from airflow_raif.store import EntryCounts

#: Picodollars in a microdollar, which is what cost is counted in: counters are whole numbers.
_PICO_IN_MICRO = 10**6


class Metrics(Protocol):
    """Where metrics go. A name's tags are always the same."""

    def count(self, name: str, by: int, tags: Mapping[str, str]) -> None:
        """Add to a counter."""

    def gauge(self, name: str, value: int, tags: Mapping[str, str]) -> None:
        """Tell a value that holds until the next one."""

    def time(self, name: str, took: timedelta, tags: Mapping[str, str]) -> None:
        """Tell how long something took."""


class NoMetrics:
    """Metrics that nobody asked for."""

    def count(self, name: str, by: int, tags: Mapping[str, str]) -> None:
        """Count nothing."""

    def gauge(self, name: str, value: int, tags: Mapping[str, str]) -> None:
        """Tell nothing."""

    def time(self, name: str, took: timedelta, tags: Mapping[str, str]) -> None:
        """Time nothing."""


def part_submitted(metrics: Metrics, batch: Batch, part: Part, *, is_first: bool) -> None:
    """Count a part that was made at its provider, once.

    :param is_first: nothing of its batch was before.
    """
    tags = {"provider": batch.provider, "model": part.model}
    if is_first:
        metrics.count("raif.batches.submitted", 1, {"provider": batch.provider, "model": batch.model})
    metrics.count("raif.parts.submitted", 1, tags)
    metrics.count("raif.requests.submitted", part.request_count, tags)


def part_fetched(metrics: Metrics, batch: Batch, part: Part) -> None:
    """Count a part whose results are in, once: how it ended, and what was paid for, whatever becomes of it."""
    tags = {"provider": batch.provider, "model": part.model}
    metrics.count("raif.parts.ended", 1, {**tags, "status": part.status.value})
    _time(metrics, "raif.parts.duration", part.submitted_at, part.ended_at, {**tags, "status": part.status.value})
    tokens = {
        "input": part.usage.input_tokens,
        "cached": part.usage.cached_tokens,
        "output": part.usage.output_tokens,
        "reasoning": part.usage.reasoning_tokens,
    }
    for kind, number in tokens.items():
        if number:
            metrics.count(f"raif.tokens.{kind}", number, tags)
    if part.cost.batch is not None:
        metrics.count("raif.cost.microdollars", round(part.cost.batch / _PICO_IN_MICRO), tags)


def batch_applied(metrics: Metrics, batch: Batch, counts: EntryCounts) -> None:
    """Count a batch that is through, once: how it ended, and what became of its rows."""
    tags = {"provider": batch.provider, "model": batch.model}
    metrics.count("raif.batches.ended", 1, {**tags, "status": batch.status.value})
    _time(metrics, "raif.batches.duration", batch.submitted_at, batch.ended_at, {**tags, "status": batch.status.value})
    if counts.completed:
        metrics.count("raif.rows.completed", counts.completed, tags)
    for reason, number in counts.reasons.items():
        metrics.count("raif.rows.failed", number, {**tags, "reason": reason})


def _time(metrics: Metrics, name: str, begun: datetime | None, ended: datetime | None, tags: Mapping[str, str]) -> None:
    if begun is not None and ended is not None:
        metrics.time(name, ended - begun, tags)


def poller_waits(metrics: Metrics, conn_id: str, parts: Sequence[int], unanswered: int) -> None:
    """Tell what one connection's poller waits for.

    :param parts: of each waiting batch, how many run at the provider.
    :param unanswered: batches about which the provider, or the store, gave no answer this time.
    """
    tags = {"conn_id": conn_id}
    metrics.gauge("raif.poller.batches", len(parts), tags)
    metrics.gauge("raif.poller.parts", sum(parts), tags)
    if unanswered:
        metrics.count("raif.poller.unanswered", unanswered, tags)
