"""How far a batch is, and how long it may still take: said as what it is, a guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from airflow_raif.domain.batch import Batch
from airflow_raif.store import ListedBatch

#: Share of the rows from which on the pace tells more than what is usual.
_ENOUGH = 0.05


@dataclass(frozen=True)
class Progress:
    """Rows by outcome, and an estimate."""

    total: int
    completed: int
    failed: int
    #: Rows that are done by the provider's own counters, and whose results were not fetched.
    told: int
    #: Seconds until the end, if anything tells; negative: it takes longer than is usual.
    seconds_left: float | None = None
    #: Whether that is by its own pace; otherwise by what is usual for its provider and model.
    is_by_pace: bool = False

    @property
    def done(self) -> int:
        """Rows that are done, as far as is known."""
        return min(self.completed + self.failed + self.told, self.total)

    @property
    def bar(self) -> list[tuple[str, str, int, float, float]]:
        """Return kind, words, rows, start and width in percent of each stretch of the bar."""
        kinds = (
            ("completed", "completed", self.completed), ("failed", "failed", self.failed),
            ("told", "done at the provider", self.told), ("pending", "pending", self.total - self.done),
        )  # fmt: skip
        found, start = [], 0.0
        for kind, words, rows in kinds:
            if rows > 0 and self.total:
                # So that a few of many are seen.
                width = max(100 * rows / self.total, 0.5)
                found.append((kind, words, rows, round(start, 2), round(min(width, 100 - start), 2)))
                start += width
        return found


def progress_of(batch: ListedBatch | Batch, usual: Mapping[tuple[str, str], float], now: datetime) -> Progress:
    """Return a batch's progress.

    :param usual: seconds that batches of a provider and model take.
    """
    if isinstance(batch, Batch):
        left = [part for part in batch.parts if part.results_fetched_at is None]
        told = sum(part.counts.completed + part.counts.failed for part in left if part.counts)
        spooled = sum(part.request_count for part in batch.first_parts)
    else:
        told, spooled = batch.told_count, batch.spooled_count
    total = max(batch.request_count, spooled, batch.completed_count + batch.failed_count + told)
    found = Progress(total, batch.completed_count, batch.failed_count, told)
    if batch.status.is_terminal or batch.submitted_at is None or not total:
        return found
    elapsed, share = (now - batch.submitted_at).total_seconds(), found.done / total
    if share >= 1:
        return found
    if share >= _ENOUGH:
        seconds, is_by_pace = elapsed * (1 - share) / share, True
    elif (batch.provider, batch.model) in usual:
        seconds, is_by_pace = usual[batch.provider, batch.model] - elapsed, False
    else:
        return found
    return Progress(total, found.completed, found.failed, told, seconds, is_by_pace)
