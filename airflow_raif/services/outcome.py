"""Whether the way a batch ended fails the task that waited for it."""

from __future__ import annotations

import logging

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import CanceledBatchError, ExpiredBatchError, FailedBatchError, PartialBatchError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.share import Share

log = logging.getLogger(__name__)


def has_answers_of_its_own(runtime: Runtime, batch: Batch, completed: int) -> bool:
    """Whether the provider answered any of what was sent; what was taken from earlier batches says nothing of that.

    A batch of which nothing had to be sent did well.

    :param completed: how many entries are completed.
    """
    if batch.has_shared_rows and not all(part.is_shared for part in batch.parts):
        completed -= runtime.store.count_shared(batch)[0]
    return completed > 0


def check_outcome(
    runtime: Runtime, batch: Batch, *, max_failed_fraction: float = 1.0, share: Share | None = None
) -> None:
    """Judge a fetched batch; results of what finished are applied before this is asked.

    :param max_failed_fraction: how many of the entries may fail, from 0 to 1; that all of them fail is never allowed.
    :param share: judge this part of it alone.
    :raises BatchOutcomeError: the batch was canceled, also in part, or failed, or too many of its entries did.
    """
    counts = runtime.store.count_entries(batch, share.rows if share else None)
    name, judged = f"batch {batch.batch_id}", share.part if share else batch
    was_canceled = batch.was_canceled
    if share is not None:
        name = f"part {share.part.number} of {name}"
        was_canceled = batch.was_canceled and (batch.is_cut_short or share.part.status is BatchStatus.CANCELED)
    total = judged.request_count
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.reasons.items()))
    account = f"{counts.completed} of {total} entries completed" + (f", {reasons}" if reasons else "")
    why = f" ({judged.error})" if judged.error else ""
    again = f"`airflow raif batches retry {batch.batch_id}` has failed rows sent again"
    if was_canceled:
        kept = "" if batch.is_cut_short else f"{again}, and keeps the others; "
        raise CanceledBatchError(f"{name} was canceled: {account}. {kept}a clear of its task alone starts a new one")
    has_answers = has_answers_of_its_own(runtime, batch, counts.completed) if share is None else counts.completed > 0
    if not has_answers:
        kind = ExpiredBatchError if judged.status is BatchStatus.EXPIRED else FailedBatchError
        if share is None and not (batch.usage.input_tokens or batch.usage.output_tokens):
            again = "Nothing of it was billed: a retry of its task starts a new one"
        raise kind(f"{name} {judged.status}: {account}{why}{_most_frequent_error(runtime, batch)}. {again}")
    if counts.failed / max(total, 1) > max_failed_fraction:
        raise PartialBatchError(
            f"{name}: {account}; more failed than max_failed_fraction={max_failed_fraction} allows{why}"
            f"{_most_frequent_error(runtime, batch)}. {again}"
        )
    if counts.failed:
        log.warning("%s: %s", name.capitalize(), account)


def _most_frequent_error(runtime: Runtime, batch: Batch) -> str:
    """Return what most failed entries have for an error, as the rest of a sentence."""
    for group in runtime.store.failures_of(batch).groups:
        if group.message and group.message != batch.error:
            return f"; the most frequent error is: {group.message:.300}"
    return ""
