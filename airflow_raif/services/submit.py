"""Submit: record the intent, call the provider once, record its id; look up what a lost reply may have created."""

from __future__ import annotations

import logging

from airflow_raif.adapters.base import Lookup
from airflow_raif.domain.batch import Batch, Part, PartState
from airflow_raif.domain.errors import (
    AmbiguousSubmitError,
    AuthenticationError,
    BatchNotFoundError,
    InvalidBatchError,
    RejectedError,
    TransientProviderError,
)
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.runtime import Runtime

log = logging.getLogger(__name__)


def submit_batch(runtime: Runtime, batch_id: str) -> Batch:
    """Send every part of a batch that has not been sent.

    A part whose intent was recorded by an earlier attempt is looked up at the provider first: one match is adopted,
    none is sent again.

    :raises InvalidBatchError: nothing of it is pending, or it was never spooled whole.
    :raises AmbiguousSubmitError: several batches at the provider may be this part; nothing was sent.
    :raises ProviderError: the provider refused or failed; what was sent before stays submitted.
    """
    batch = runtime.store.get_batch(batch_id)
    if batch.spooled_at is None:
        raise InvalidBatchError(f"batch {batch_id} was never created whole; create it anew")
    pending = [part for part in batch.parts if part.status is BatchStatus.PENDING and not part.is_synchronous]
    if not pending:
        raise InvalidBatchError(f"batch {batch_id} is {batch.status} and has nothing left to submit")
    for part in pending:
        _submit_part(runtime, batch, part)
    return runtime.store.get_batch(batch_id)


def _submit_part(runtime: Runtime, batch: Batch, part: Part) -> None:
    store, adapter = runtime.store, runtime.adapter
    if part.intent_at is not None:
        if (found := _look_up(runtime, batch, part)) is not None:
            store.record_submitted(part.id, found, runtime.clock())
            return
        store.clear_intent(part.id)
    spooled = runtime.spooled_part(batch, part)
    was_uploaded_before = part.input_ref is not None
    if part.input_ref is None:
        part.input_ref = adapter.upload(runtime.transport, spooled)
        if part.input_ref is not None:
            store.record_upload(part.id, part.input_ref)
    part.intent_at = runtime.clock()
    store.record_intent(part.id, part.intent_at)
    try:
        state = adapter.create(runtime.transport, spooled, part.input_ref)
    except AuthenticationError:
        store.clear_intent(part.id)
        raise
    except (RejectedError, BatchNotFoundError):
        store.clear_intent(part.id)
        store.record_upload(part.id, None)
        if not was_uploaded_before:
            raise
        # Providers delete uploads after a while (Gemini: 48 hours, https://ai.google.dev/gemini-api/docs/files).
        log.info("Part %s of batch %s was refused; uploading its requests anew", part.number, batch.batch_id)
        part.input_ref = part.intent_at = None
        _submit_part(runtime, batch, part)
        return
    except TransientProviderError as error:
        if not error.maybe_sent:
            store.clear_intent(part.id)
            raise
        log.warning("The reply to creating part %s of batch %s was lost; looking it up", part.number, batch.batch_id)
        if (found := _look_up(runtime, batch, part)) is None:
            # Left with its intent: lists may lag, so the next attempt looks once more before it sends again.
            raise
        state = found
    store.record_submitted(part.id, state, runtime.clock())
    log.info(
        "Submitted part %s of batch %s as %s: %s requests, %s bytes",
        part.number, batch.batch_id, state.provider_batch_id, part.request_count, part.request_bytes,
    )  # fmt: skip


def _look_up(runtime: Runtime, batch: Batch, part: Part) -> PartState | None:
    assert part.intent_at is not None  # noqa: S101 - the callers looked
    lookup = Lookup(runtime.spooled_part(batch, part), part.intent_at.timestamp(), part.input_ref)
    found = runtime.adapter.find(runtime.transport, lookup)
    taken = runtime.store.known_provider_ids([state.provider_batch_id for state in found])
    free = [state for state in found if state.provider_batch_id not in taken]
    if len(free) > 1:
        names = ", ".join(state.provider_batch_id for state in free)
        raise AmbiguousSubmitError(
            f"part {part.number} of batch {batch.batch_id} may be any of {names} at {batch.provider}: they were created"
            f" after {part.intent_at:%Y-%m-%d %H:%M:%S} UTC with {part.request_count} requests each. Nothing more was"
            " sent. Cancel those that are not wanted at the provider, then retry the task."
        )
    if free:
        log.info("Adopted %s for part %s of batch %s", free[0].provider_batch_id, part.number, batch.batch_id)
        return free[0]
    return None
