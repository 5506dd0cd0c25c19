"""Take up: do for a batch that got stuck, by hand, all that can be done without sending a request."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.errors import AmbiguousSubmitError, InvalidBatchError, UnavailableError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.fetch import fetch_now
from airflow_raif.services.find import find_part, in_doubt
from airflow_raif.services.runtime import Runtime

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TakenUp:
    """What came of it."""

    batch: Batch
    #: What was done, a sentence each.
    done: list[str]
    #: Why a create whose reply was lost is still in doubt, and what decides it; ``None``: none is.
    doubt: AmbiguousSubmitError | UnavailableError | None


def take_up_batch(runtime: Runtime, batch_id: str) -> TakenUp:
    """Look up creates whose reply was lost, make a cancel again that was not heard, poll, and fetch what has ended.

    What is left after that is the provider's, or the batch's task's: see
    :func:`~airflow_raif.domain.next_step.next_step_of`.

    :raises ProviderError: the provider cannot be asked; a later call goes on.
    """
    batch = runtime.store.get_batch(batch_id)
    done: list[str] = []
    doubt: AmbiguousSubmitError | UnavailableError | None = None
    try:
        if batch.is_cancel_requested:
            done.append(f"The provider was told to stop it again: it is {cancel_batch(runtime, batch_id)}.")
    except InvalidBatchError as error:
        log.info("Nothing to cancel: %s", error)
    except AmbiguousSubmitError as error:
        doubt = error
    for part in filter(_is_lost, runtime.store.get_batch(batch_id).parts):
        try:
            done.append(_look_up(runtime, batch, part))
        except (AmbiguousSubmitError, UnavailableError) as error:
            doubt = doubt or error
    before = runtime.store.get_batch(batch_id)
    batch = fetch_now(runtime, batch_id)
    if (count := _fetched(batch) - _fetched(before)) > 0:
        done.append(f"The results of {count} part{'s' if count > 1 else ''} were fetched.")
    return TakenUp(batch, done, doubt)


def _is_lost(part: Part) -> bool:
    """Whether a create of it was about to be sent, and nothing was heard of it; who is to stop was looked for."""
    is_open = part.intent_at is not None and part.provider_batch_id is None and part.status is BatchStatus.PENDING
    return is_open and not part.is_synchronous and not part.is_cancel_requested


def _look_up(runtime: Runtime, batch: Batch, part: Part) -> str:
    """Adopt what a lost create made; a part of which it made nothing may be sent again, by the batch's task."""
    found = find_part(runtime, batch, part)
    if found is None:
        assert part.intent_at is not None  # noqa: S101 - that makes it lost
        runtime.store.clear_intent(part.id, part.intent_at)
        return f"The create of part {part.number}, whose reply was lost, made nothing."
    if not runtime.adapter.has_tag and not found.status.is_terminal:
        # Only time and size speak for it: a task that is submitting just now may be about to note it as its own.
        raise in_doubt(runtime, batch, part, found)
    runtime.store.record_submitted(part.id, found, runtime.clock())
    return f"The create of part {part.number}, whose reply was lost, made {found.provider_batch_id}; it was adopted."


def _fetched(batch: Batch) -> int:
    return sum(part.results_fetched_at is not None for part in batch.parts)
