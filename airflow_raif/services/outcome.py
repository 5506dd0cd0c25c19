"""Whether the way a batch ended fails the task that waited for it."""

from __future__ import annotations

import logging

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import CanceledBatchError, ExpiredBatchError, FailedBatchError, PartialBatchError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.runtime import Runtime

log = logging.getLogger(__name__)


def check_outcome(runtime: Runtime, batch: Batch, *, max_failed_fraction: float = 1.0) -> None:
    """Judge a fetched batch; results of what finished are applied before this is asked.

    :param max_failed_fraction: how many of the entries may fail, from 0 to 1; that all of them fail is never allowed.
    :raises BatchOutcomeError: the batch was canceled, also in part, or failed, or too many of its entries did.
    """
    counts = runtime.store.count_entries(batch)
    total = max(batch.request_count, 1)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.reasons.items()))
    account = f"{counts.completed} of {batch.request_count} entries completed" + (f", {reasons}" if reasons else "")
    why = f" ({batch.error})" if batch.error else ""
    if batch.was_canceled:
        raise CanceledBatchError(f"batch {batch.batch_id} was canceled: {account}")
    if counts.completed == 0:
        kind = ExpiredBatchError if batch.status is BatchStatus.EXPIRED else FailedBatchError
        raise kind(f"batch {batch.batch_id} {batch.status}: {account}{why}")
    if counts.failed / total > max_failed_fraction:
        raise PartialBatchError(
            f"batch {batch.batch_id}: {account}; more failed than max_failed_fraction={max_failed_fraction} allows{why}"
        )
    if counts.failed:
        log.warning("Batch %s: %s", batch.batch_id, account)
