"""Advance: do whatever a batch needs next from a worker; the one step between two waits."""

from __future__ import annotations

import logging

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import BatchNotFoundError, RejectedError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.fetch import fetch_ended_parts
from airflow_raif.services.rounds import open_round
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.stragglers import send_stragglers
from airflow_raif.services.submit import submit_pending

log = logging.getLogger(__name__)


def advance_batch(runtime: Runtime, batch_id: str, *, may_repeat: bool = True) -> Batch:
    """Submit what is pending; fetch what has ended; open a new round for what is worth repeating.

    :param may_repeat: whether a new round may be opened.
    :return: the batch: terminal and fetched if nothing is left to do, otherwise waiting at the provider.
    :raises AmbiguousSubmitError: several batches at the provider may be one of its parts.
    :raises ProviderError: the provider refused or failed; a later call goes on from there.
    """
    while True:
        batch = runtime.store.get_batch(batch_id)
        if batch.spooled_at is None:
            # Only who reads its input goes on with it.
            return batch
        pending = [part for part in batch.parts if part.status is BatchStatus.PENDING]
        for part in pending:
            if part.is_synchronous:
                send_stragglers(runtime, batch, part)
        if not all(part.is_synchronous for part in pending):
            _submit(runtime, batch)
        batch = runtime.store.get_batch(batch_id) if pending else batch
        if not batch.status.is_terminal:
            return batch
        batch = fetch_ended_parts(runtime, batch_id)
        if may_repeat and batch.results_fetched_at is not None:
            open_round(runtime, batch)
        # Another attempt may have opened it, too, also before the results were fetched.
        latest = runtime.store.get_batch(batch_id)
        if latest.results_fetched_at is not None:
            return latest


def _submit(runtime: Runtime, batch: Batch) -> None:
    """Submit pending parts; a round that the provider refuses ends as failed, since the rounds before it were paid."""
    try:
        submit_pending(runtime, batch)
    except (RejectedError, BatchNotFoundError) as error:
        batch = runtime.store.get_batch(batch.batch_id)
        if not all(part.round for part in batch.parts if part.status is BatchStatus.PENDING):
            raise
        log.warning("Round of batch %s cannot be submitted and is given up: %s", batch.batch_id, error)
        runtime.store.fail_unsent_round(batch, str(error), runtime.clock())
