"""Resume: find the batch of a task instance again, so that a retry or a clear never pays twice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from airflow_raif.domain.batch import Batch, Claim
from airflow_raif.domain.errors import BatchStoppingError, InputChangedError, InvalidBatchError, TransientProviderError
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.fetch import fetch_ended_parts
from airflow_raif.services.outcome import has_answers_of_its_own
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.rounds import has_round_left
from airflow_raif.services.runtime import Runtime

#: What to do when the input is not what the running batch was made of.
OnInputChange = Literal["refuse", "resubmit"]

log = logging.getLogger(__name__)


def resume_batch(
    runtime: Runtime,
    claim: Claim,
    fingerprint: Callable[[], str] | None = None,
    *,
    on_input_change: OnInputChange = "refuse",
) -> Batch | None:
    """Return the batch that a claim holds and that is still worth waiting for or applying; ``None``: make a new one.

    A batch that was never spooled whole is discarded if nothing of it was submitted, and returned otherwise, to be
    continued. One that was canceled, or ended for good without anything billed, is left as it is, its results fetched,
    and gives up the claim.

    :param fingerprint: computes the fingerprint of the input as it is now.
    :param on_input_change: ``refuse``, or ``resubmit``: cancel the batch if it runs, and make a new one.
    :raises InputChangedError: the input is not what the batch was made of, and that is to be refused.
    :raises BatchStoppingError: a batch that is replaced has not stopped, or the provider does not answer about it.
    :raises AmbiguousSubmitError: what is to stop cannot be told at the provider.
    :raises ProviderError: the provider refuses, or does not answer about a batch that is not replaced.
    """
    while True:
        batch = _find(runtime, claim)
        if batch is None or batch.spooled_at is None:
            return batch
        if batch.is_cancel_requested or batch.is_canceling:
            batch = _stop(runtime, batch)
        if not batch.status.is_terminal:
            break
        batch = _fetch(runtime, batch)
        if not _is_over_for_good(runtime, batch):
            break
        if runtime.store.release_claim(batch, runtime.clock()):
            log.info("Batch %s %s; starting a new one", batch.batch_id, batch.status)
            return None
    if batch.is_being_delivered:
        log.info(
            "Batch %s is being delivered; its input is not compared, since that may have changed it", batch.batch_id
        )
    elif fingerprint is not None and batch.fingerprint != fingerprint():
        if on_input_change == "resubmit" or not batch.is_sent:
            # What was never sent, as for its budget, is not paid twice.
            give_up(runtime, batch)
            return None
        raise InputChangedError(
            f"the input changed since batch {batch.batch_id} ({batch.status}, connection {batch.conn_id}) was created"
            " for this task"
        )
    log.info("Resuming batch %s (%s)", batch.batch_id, batch.status)
    return batch


def _find(runtime: Runtime, claim: Claim) -> Batch | None:
    """Return the batch of a claim; one that was not spooled whole and of which nothing was sent is discarded."""
    while (batch := runtime.store.find_by_claim(claim)) is not None and batch.spooled_at is None and not batch.is_sent:
        if runtime.store.discard_batch(batch.batch_id):
            log.info("Discarded batch %s, which was never created whole", batch.batch_id)
            runtime.folder(batch.batch_id).delete()
    return batch


def give_up(runtime: Runtime, batch: Batch) -> None:
    """Release the claim of a batch that was made of another input, once it has stopped and its results are fetched.

    :raises BatchStoppingError: it has not stopped yet; it is told to.
    """
    log.warning("The input changed since batch %s was created (%s); it is replaced", batch.batch_id, batch.status)
    while True:
        if not batch.status.is_terminal:
            # Also what was never sent: an older attempt may be about to.
            batch = runtime.store.request_cancel(batch, runtime.clock())
            batch = _fetch(runtime, batch if batch.status.is_terminal else _stop(runtime, batch))
        if batch.status.is_terminal and runtime.store.release_claim(batch, runtime.clock()):
            return
        batch = runtime.store.get_batch(batch.batch_id)


def _stop(runtime: Runtime, batch: Batch) -> Batch:
    """Return a batch that is to stop, once it has; a cancel that was not heard is made again.

    :raises BatchStoppingError: it has not, or the provider does not answer.
    """
    try:
        if batch.is_cancel_requested:
            cancel_batch(runtime, batch.batch_id)
        else:
            fetch_batch_status(runtime, batch.batch_id)
    except InvalidBatchError as error:
        log.info("Nothing to cancel: %s", error)
    except TransientProviderError as error:
        raise BatchStoppingError(batch.batch_id, error) from error
    batch = runtime.store.get_batch(batch.batch_id)
    if not batch.status.is_terminal:
        raise BatchStoppingError(batch.batch_id)
    return batch


def _fetch(runtime: Runtime, batch: Batch) -> Batch:
    """Fetch the results of a terminal batch; it runs again if another attempt opened a round meanwhile.

    :raises BatchStoppingError: the provider does not answer, and the batch was canceled.
    """
    try:
        return batch if batch.results_fetched_at is not None else fetch_ended_parts(runtime, batch.batch_id)
    except TransientProviderError as error:
        if batch.was_canceled:
            raise BatchStoppingError(batch.batch_id, error) from error
        raise


def _is_over_for_good(runtime: Runtime, batch: Batch) -> bool:
    """Whether nothing of a fetched batch is worth waiting for or applying."""
    if not batch.status.is_terminal:
        # Another attempt opened a round meanwhile.
        return False
    if batch.is_being_delivered:
        # What was canceled brought paid answers, too; where they go they go first.
        return False
    return batch.was_canceled or not (has_round_left(runtime, batch) or _is_paid(runtime, batch))


def _is_paid(runtime: Runtime, batch: Batch) -> bool:
    if batch.usage.input_tokens or batch.usage.output_tokens:
        return True
    return has_answers_of_its_own(runtime, batch, runtime.store.count_entries(batch).completed)
