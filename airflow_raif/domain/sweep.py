"""What a sweep may do, and what a batch needs of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.status import BatchStatus

#: Task states after which nobody comes back for a batch unless a user clears the task. A task that only submits has
#: succeeded while its batch runs.
ABANDONED_STATES = frozenset(("failed", "skipped", "upstream_failed", "removed"))


class SweepRules(msgspec.Struct, kw_only=True, frozen=True):
    """What one pass may do; what cannot be taken back is off by default."""

    #: Nobody is at work on what was not touched for so long; a live task polls every 30 minutes by default.
    grace: timedelta = timedelta(hours=2)
    #: A batch's time, from its submission; ``None``: until the provider ends it.
    max_age: timedelta | None = None
    #: Whether batches whose time is up are canceled.
    cancel_expired: bool = False
    #: How long before the provider may delete results one is warned of it.
    warn_before: timedelta = timedelta(days=7)
    #: How long after a batch was applied its files at the provider, and its spool, are deleted; ``None``: never.
    delete_files_after: timedelta | None = None
    delete_spools_after: timedelta | None = None


class Need(StrEnum):
    """What an open batch needs."""

    #: A create got no reply, and no attempt of the task looked for what it made.
    ADOPT = "adopt"
    #: Its time is up.
    EXPIRE = "expire"
    #: It runs, and nobody polls it.
    RESUME = "resume"
    #: Something of it ended, and nobody fetched it.
    FETCH = "fetch"


def needs_of(batch: Batch, rules: SweepRules, now: datetime) -> list[Need]:
    """Return what a batch needs that nobody is at."""
    left_since = now - rules.grace
    needs = []
    if lost_parts(batch, rules, now):
        needs.append(Need.ADOPT)
    if _is_late(batch, rules, now):
        needs.append(Need.EXPIRE)
    elif any(asked_at < left_since for part in _running(batch) if (asked_at := part.polled_at or part.submitted_at)):
        needs.append(Need.RESUME)
    if any(ended_at < left_since for ended_at in _unfetched_ends(batch)):
        needs.append(Need.FETCH)
    return needs


def lost_parts(batch: Batch, rules: SweepRules, now: datetime) -> list[Part]:
    """Return the parts whose create was about to be sent, and of which nothing was heard since."""
    intended = (part for part in _pending(batch) if not part.is_synchronous)
    return [part for part in intended if part.intent_at and part.intent_at < now - rules.grace]


def unsent_parts(batch: Batch, rules: SweepRules, now: datetime) -> list[Part]:
    """Return what of a batch that was sent in part is still to be sent, if nothing of it happens any more."""
    if batch.submitted_at is None or any(True for _ in _running(batch)) or _touched_at(batch) > now - rules.grace:
        return []
    return [part for part in _pending(batch) if part.intent_at is None or part.is_synchronous]


def is_half_read(batch: Batch, rules: SweepRules, now: datetime) -> bool:
    """Whether the input of a batch that was sent in part was not read to its end, and nobody seems to read on."""
    sent = [part.intent_at for part in batch.parts if part.intent_at]
    return batch.spooled_at is None and bool(sent) and max(sent) < now - rules.grace


def _pending(batch: Batch) -> Iterator[Part]:
    return (part for part in batch.parts if part.status is BatchStatus.PENDING and part.provider_batch_id is None)


def _running(batch: Batch) -> Iterator[Part]:
    return (part for part in batch.parts if part.provider_batch_id and not part.status.is_terminal)


def _is_late(batch: Batch, rules: SweepRules, now: datetime) -> bool:
    if rules.max_age is None or batch.submitted_at is None or batch.status.is_terminal:
        return False
    return now - batch.submitted_at > rules.max_age


def _unfetched_ends(batch: Batch) -> Iterator[datetime]:
    """Yield when what ended did; a batch whose parts were all fetched may lack the stamp of its own."""
    if batch.status.is_terminal and batch.ended_at:
        yield batch.ended_at
    for part in batch.parts:
        if part.ended_at and part.results_fetched_at is None:
            yield part.ended_at


def _touched_at(batch: Batch) -> datetime:
    """Return when something of a batch was last done."""
    times = [
        at
        for part in batch.parts
        for at in (part.intent_at, part.submitted_at, part.polled_at, part.ended_at, part.results_fetched_at)
        if at is not None
    ]
    return max([*times, batch.queued_at or batch.created_at])
