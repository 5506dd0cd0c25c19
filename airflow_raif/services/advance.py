"""Advance: do whatever a batch needs next from a worker; the one step between two waits."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.errors import (
    AmbiguousSubmitError,
    BatchNotFoundError,
    InvalidBatchError,
    ProviderError,
    RejectedError,
)
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.fetch import fetch_ended_parts
from airflow_raif.services.rounds import has_round_left, may_have_round_left, open_round
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.share import Share, find_share
from airflow_raif.services.stragglers import send_stragglers
from airflow_raif.services.submit import submit_parts, submit_pending

log = logging.getLogger(__name__)


def advance_batch(runtime: Runtime, batch_id: str, *, may_repeat: bool = True, may_fetch: bool = True) -> Batch:
    """Submit what is pending; fetch what has ended; open a new round for what is worth repeating.

    :param may_repeat: whether a new round may be opened.
    :param may_fetch: False leaves results and rounds to :func:`advance_part` of each part.
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
        if not batch.status.is_terminal and may_fetch and batch.is_held_back:
            # Until its last part has had its turn, the provider may delete what the first ones finished.
            return fetch_ended_parts(runtime, batch_id)
        if not batch.status.is_terminal or not may_fetch:
            return batch
        batch = fetch_ended_parts(runtime, batch_id)
        if may_repeat and batch.results_fetched_at is not None:
            open_round(runtime, batch)
        # Another attempt may have opened it, too, also before the results were fetched.
        latest = runtime.store.get_batch(batch_id)
        if latest.results_fetched_at is not None:
            return latest


def advance_part(runtime: Runtime, batch_id: str, number: int, *, may_repeat: bool = True) -> Share:
    """Do for the rows of one part what :func:`advance_batch` does for all; other parts are left alone.

    Each part has rounds of its own, so that those who work on different parts need not wait for each other.

    Rows that take answers of others wait for all of these, so all parts are brought forward for them.

    :return: the part's rows: fetched if nothing is left to do, otherwise waiting at the provider in a round.
    :raises InvalidBatchError: the batch has no such part, or it has not ended.
    :raises ProviderError: the provider refused or failed; a later call goes on from there.
    """
    while True:
        share = find_share(runtime, batch_id, number)
        if share.part.is_shared:
            return _advance_shared(runtime, share, may_repeat)
        if not share.part.status.is_terminal:
            raise InvalidBatchError(
                f"part {number} of batch {batch_id} is {share.part.status} and has not ended; wait for the batch first"
            )
        if pending := [part for part in share.parts if part.status is BatchStatus.PENDING]:
            _submit_round(runtime, share.batch, pending)
            share = find_share(runtime, batch_id, number)
        if share.batch.is_held_back:
            _submit_of_others(runtime, share.batch)
            share = find_share(runtime, batch_id, number)
        if not all(part.status.is_terminal for part in share.parts):
            return share
        batch = fetch_ended_parts(runtime, batch_id, [part.number for part in share.parts])
        if not (may_repeat and has_round_left(runtime, batch, share)):
            return find_share(runtime, batch_id, number)
        # If it is not opened since others added parts to the batch meanwhile, it is tried again.
        is_open = open_round(runtime, batch, share)
        if not is_open and len(runtime.store.get_batch(batch_id).parts) == len(batch.parts):
            return find_share(runtime, batch_id, number)


def _advance_shared(runtime: Runtime, share: Share, may_repeat: bool) -> Share:
    batch_id, number = share.batch.batch_id, share.part.number
    if share.is_fetched and not (may_repeat and may_have_round_left(runtime, share.batch)):
        # Of many such parts one had all of the others brought forward.
        return share
    # Those who work on the parts beside this began with the first ones.
    for part in reversed(share.batch.first_parts):
        if not part.is_shared:
            advance_part(runtime, batch_id, part.number, may_repeat=may_repeat)
    fetch_ended_parts(runtime, batch_id, [number])
    return find_share(runtime, batch_id, number)


def _submit_round(runtime: Runtime, batch: Batch, pending: Sequence[Part]) -> None:
    try:
        for part in pending:
            if part.is_synchronous:
                send_stragglers(runtime, batch, part)
        submit_parts(runtime, batch, [part for part in pending if not part.is_synchronous])
    except (RejectedError, BatchNotFoundError) as error:
        _give_up_round(runtime, batch, error, [part.number for part in pending])


def _submit_of_others(runtime: Runtime, batch: Batch) -> None:
    """Send what of the whole batch has room: who is first in line may be dead, and all who wait are woken for it."""
    try:
        submit_pending(runtime, batch)
    except (ProviderError, AmbiguousSubmitError) as error:
        log.warning("Of batch %s not all can be sent, for which other tasks care: %s", batch.batch_id, error)


def _submit(runtime: Runtime, batch: Batch) -> None:
    """Submit pending parts; a round that the provider refuses ends as failed, since the rounds before it were paid."""
    try:
        submit_pending(runtime, batch)
    except (RejectedError, BatchNotFoundError) as error:
        batch = runtime.store.get_batch(batch.batch_id)
        if not all(part.round for part in batch.parts if part.status is BatchStatus.PENDING):
            raise
        _give_up_round(runtime, batch, error)


def _give_up_round(runtime: Runtime, batch: Batch, error: Exception, numbers: Collection[int] | None = None) -> None:
    log.warning("Round of batch %s cannot be submitted and is given up: %s", batch.batch_id, error)
    runtime.store.fail_unsent_round(batch, str(error), runtime.clock(), numbers)
