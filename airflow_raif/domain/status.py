"""Statuses of batches, parts and entries, and the rules that connect them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class BatchStatus(StrEnum):
    """Status of a batch or of one of its parts."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    IN_PROGRESS = "in_progress"
    ENDED = "ended"
    CANCELED = "canceled"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """Whether the provider will not change it any more."""
        return self in TERMINAL


TERMINAL = frozenset({BatchStatus.ENDED, BatchStatus.CANCELED, BatchStatus.EXPIRED, BatchStatus.FAILED})
#: How far along each status is; a status never moves to a lower rank.
RANK = {
    BatchStatus.PENDING: 0,
    BatchStatus.SUBMITTED: 1,
    BatchStatus.IN_PROGRESS: 2,
    BatchStatus.ENDED: 3,
    BatchStatus.CANCELED: 3,
    BatchStatus.EXPIRED: 3,
    BatchStatus.FAILED: 3,
}


class EntryStatus(StrEnum):
    """Status of one entry."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"


class FailureReason(StrEnum):
    """Why an entry failed."""

    ERRORED = "errored"
    CANCELED = "canceled"
    EXPIRED = "expired"
    MISSING = "missing"
    INVALID_OUTPUT = "invalid_output"
    TRUNCATED = "truncated"
    REFUSED = "refused"


#: What an entry without any result is called, by the status its part ended with.
REASON_WITHOUT_RESULT = {
    BatchStatus.ENDED: FailureReason.MISSING,
    BatchStatus.CANCELED: FailureReason.CANCELED,
    BatchStatus.EXPIRED: FailureReason.EXPIRED,
    BatchStatus.FAILED: FailureReason.ERRORED,
}


def can_move(current: BatchStatus, new: BatchStatus) -> bool:
    """Whether a status may change: never backwards, and never out of a terminal status."""
    return current not in TERMINAL and RANK[new] >= RANK[current]


def combine(parts: Iterable[BatchStatus]) -> BatchStatus:
    """Derive a batch's status from its parts: terminal only when every part is.

    Parts that ended differently make an ``ended`` batch if any of them ended, otherwise the first of
    expired, canceled, failed.
    """
    seen = set(parts)
    if not seen:
        return BatchStatus.PENDING
    if seen <= TERMINAL:
        order = (BatchStatus.ENDED, BatchStatus.EXPIRED, BatchStatus.CANCELED, BatchStatus.FAILED)
        return next(status for status in order if status in seen)
    if seen == {BatchStatus.PENDING}:
        return BatchStatus.PENDING
    if seen <= {BatchStatus.PENDING, BatchStatus.SUBMITTED}:
        return BatchStatus.SUBMITTED
    return BatchStatus.IN_PROGRESS
