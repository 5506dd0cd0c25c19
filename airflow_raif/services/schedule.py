"""When a waiting batch is asked about: with backoff, and together with others wherever that can be."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

#: A first poll comes within this part of the first interval; ticks of one poller are as far apart, and as much do
#: intervals differ from tick to tick.
SPREAD = 0.1
#: After this part of its interval a batch is asked about when others are. With a half or less, batches whose times
#: differ at first come together after a few ticks, and stay together.
RIPE = 0.5
#: No interval is shorter, so that one of 0 does not ask without a pause.
SHORTEST_SECONDS = 0.01


def spread(seconds: float) -> float:
    """Return a random part of what a first poll may be late by: triggers start by the hundred, in many processes."""
    return seconds * SPREAD * random.random()  # noqa: S311 - no secret


def pace() -> float:
    """Return by how much the intervals set at one tick are stretched, the same for all, which stay together."""
    return random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - no secret


@dataclass(slots=True)
class Schedule:
    """When one batch is asked about next.

    :param intervals: seconds between polls; the last one repeats.
    """

    intervals: Sequence[float]
    #: From here on it is asked about if others are, and from ``due_at`` on by itself.
    ripe_at: float
    due_at: float
    _polls: int = 0
    _failures: int = 0

    @classmethod
    def starting(cls, intervals: Sequence[float], now: float) -> Schedule:
        """Begin one whose first poll comes soon."""
        intervals = tuple(max(each, SHORTEST_SECONDS) for each in intervals)
        return cls(intervals, now, now + spread(intervals[0]))

    @property
    def rest(self) -> float:
        """Seconds between two ticks, at the least."""
        return self.intervals[0] * SPREAD

    def answered(self, now: float, stretch: float, *, backs_off: bool = True) -> None:
        """Set the next poll; one that came early does not move the schedule on.

        :param backs_off: whether the polls become rarer; otherwise the next comes after the first interval.
        """
        if not backs_off:
            self._polls = 0
        elif self._polls == 0 or now >= self.due_at:
            self._polls += 1
        self._failures = 0
        self._wait(now, self._interval * stretch)

    def failed(self, now: float, stretch: float) -> None:
        """Set the next attempt: soon at first, then less and less often."""
        self._failures += 1
        self._wait(now, min(self.rest * 2.0 ** min(self._failures, 20), self._interval) * stretch)

    @property
    def _interval(self) -> float:
        return self.intervals[min(max(self._polls, 1), len(self.intervals)) - 1]

    def _wait(self, now: float, seconds: float) -> None:
        self.ripe_at, self.due_at = now + seconds * RIPE, now + seconds
