"""The life of a batch's parts, drawn to scale: from submitted to applied, each stretch in percent of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from airflow_raif.domain.batch import Batch, Part

#: Marks under the scale, both ends included.
_TICKS = 5


@dataclass(frozen=True)
class Stretch:
    """Time between two moments of a part's life."""

    kind: str
    words: str
    start: float
    width: float
    seconds: float


@dataclass(frozen=True)
class Line:
    """A part and its stretches."""

    part: Part
    stretches: list[Stretch]


@dataclass(frozen=True)
class Timeline:
    """All parts on one scale."""

    lines: list[Line]
    ticks: list[datetime]

    @property
    def tick_format(self) -> str:
        """How the marks are written, as precisely as they lie apart."""
        span = self.ticks[-1] - self.ticks[0]
        if span < timedelta(minutes=10):
            return "%H:%M:%S"
        return "%H:%M" if span < timedelta(days=1) else "%m-%d %H:%M"


def timeline_of(batch: Batch, now: datetime) -> Timeline | None:
    """Return the timeline of a batch; ``None``: nothing of it was sent."""
    moments = [_moments(batch, part) for part in batch.parts]
    seen = [at for each in moments for _, _, at in each if at is not None]
    if not seen:
        return None
    is_over = batch.status.is_terminal and batch.results_fetched_at is not None
    begin, end = min(seen), max([*seen, *(() if is_over else (now,))])
    span = max((end - begin).total_seconds(), 1.0)
    lines = [
        Line(part, _stretches(each, None if _is_done(part) else now, begin, span))
        for part, each in zip(batch.parts, moments, strict=True)
    ]
    # Marks are written in whole seconds: of a shorter time only its ends are.
    marks = _TICKS if span >= _TICKS else 2
    step = timedelta(seconds=span / (marks - 1))
    return Timeline(lines, [begin + step * number for number in range(marks)])


def _is_done(part: Part) -> bool:
    return part.results_fetched_at is not None or (part.status.is_terminal and part.submitted_at is None)


def _moments(batch: Batch, part: Part) -> list[tuple[str, str, datetime | None]]:
    """Return what follows each moment, in words, and when it was."""
    applied_at = part.applied_at or (batch.applied_at if part.results_fetched_at else None)
    return [
        ("queued", "waiting at the provider", part.submitted_at or part.intent_at),
        ("running", "running", part.progressed_at),
        ("ended", "ended, not fetched", part.ended_at if part.submitted_at else None),
        ("fetched", "fetched, not applied", part.results_fetched_at if part.submitted_at else None),
        ("", "applied", applied_at if part.submitted_at else None),
    ]


def _stretches(
    moments: Sequence[tuple[str, str, datetime | None]], now: datetime | None, begin: datetime, span: float
) -> list[Stretch]:
    reached = [(kind, words, at) for kind, words, at in moments if at is not None]
    ends: list[datetime | None] = [*(at for _, _, at in reached[1:]), now]
    found = []
    for (kind, words, at), until in zip(reached, ends, strict=False):
        if until is None or not kind:
            continue
        seconds = max((until - at).total_seconds(), 0.0)
        start = 100 * (at - begin).total_seconds() / span
        width = min(max(100 * seconds / span, 0.3), 100 - start)
        found.append(Stretch(kind, words, round(start, 3), round(width, 3), seconds))
    return found
