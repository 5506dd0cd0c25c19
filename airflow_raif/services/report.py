"""The report of a sweep: counts, and one line per thing that was done or should be looked at."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

#: A report that travels keeps so many lines of a kind; the log has all.
MAX_LINES = 100


@dataclass
class SweepReport:
    """What a pass did, and what somebody should look at."""

    counts: Counter[str] = field(default_factory=Counter)
    done: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: Whether open batches needed something and nothing of it could be done.
    is_futile: bool = False

    def tell(self, kind: str, line: str) -> None:
        """Count and report what was done."""
        log.info("%s", line)
        self.counts[kind] += 1
        self.done.append(line)

    def warn(self, kind: str, line: str, count: int = 1) -> None:
        """Count and report what should be looked at."""
        log.warning("%s", line)
        self.counts[kind] += count
        self.warnings.append(line)

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-able and small."""
        return {"counts": dict(self.counts), "done": _first(self.done), "warnings": _first(self.warnings)}


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - MAX_LINES
    return lines if more <= 0 else [*lines[:MAX_LINES], f"... and {more} more, see the log"]
