"""Submit: record the intent, call the provider once, record its id; look up what a lost reply may have created."""

from __future__ import annotations

import logging

from airflow_raif.adapters.base import Lookup, SpooledPart
from airflow_raif.domain.batch import Batch, Part, PartState
from airflow_raif.domain.errors import (
    AmbiguousSubmitError,
    AuthenticationError,
    BatchNotFoundError,
    InvalidBatchError,
    MalformedResponseError,
    ProviderError,
    RejectedError,
    TransientProviderError,
    UnavailableError,
)
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.runtime import Runtime

log = logging.getLogger(__name__)

#: Lists may lag behind creates, so what a provider does not list is sent again no sooner than this after its intent.
LIST_LAG_SECONDS = 60


def submit_batch(runtime: Runtime, batch_id: str) -> Batch:
    """Send every part of a batch that has not been sent.

    A part whose intent was recorded by an earlier attempt is looked up at the provider first: one match is adopted,
    none is sent again.

    :raises InvalidBatchError: nothing of it is pending, or it was never spooled whole.
    :raises AmbiguousSubmitError: whether the provider has the part already cannot be told; it was not sent again.
    :raises UnavailableError: as before, but a later attempt may be able to tell.
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
    state = _resume(runtime, batch, part) if part.intent_at is not None else None
    if state is None:
        spooled = runtime.spooled_part(batch, part)
        was_uploaded_before = part.input_ref is not None
        if part.input_ref is None:
            part.input_ref = adapter.upload(runtime.transport, spooled)
            if part.input_ref is not None:
                store.record_upload(part.id, part.input_ref)
        try:
            state = _create(runtime, batch, part, spooled)
        except (RejectedError, BatchNotFoundError):
            store.record_upload(part.id, None)
            if not was_uploaded_before:
                raise
            # Providers delete uploads after a while (Gemini: 48 hours, https://ai.google.dev/gemini-api/docs/files).
            log.info("Part %s of batch %s was refused; uploading its requests anew", part.number, batch.batch_id)
            part.input_ref = part.intent_at = None
            _submit_part(runtime, batch, part)
            return
    store.record_submitted(part.id, state, runtime.clock())
    log.info(
        "Submitted part %s of batch %s as %s: %s requests, %s bytes",
        part.number, batch.batch_id, state.provider_batch_id, part.request_count, part.request_bytes,
    )  # fmt: skip


def _resume(runtime: Runtime, batch: Batch, part: Part) -> PartState | None:
    """Return what an earlier attempt created; if that is certainly nothing, clear its intent."""
    found = _look_up(runtime, batch, part)
    if found is None and part.intent_at is not None:
        if (left := LIST_LAG_SECONDS - (runtime.clock() - part.intent_at).total_seconds()) > 0:
            raise _not_listed(batch, part, "an earlier attempt got no reply to it", left)
        runtime.store.clear_intent(part.id, part.intent_at)
    return found


def _create(runtime: Runtime, batch: Batch, part: Part, spooled: SpooledPart) -> PartState:
    part.intent_at = runtime.clock()
    runtime.store.record_intent(part.id, part.intent_at)
    try:
        return runtime.adapter.create(runtime.transport, spooled, part.input_ref)
    except (AuthenticationError, RejectedError, BatchNotFoundError):
        runtime.store.clear_intent(part.id, part.intent_at)
        raise
    except (TransientProviderError, MalformedResponseError) as error:
        if isinstance(error, TransientProviderError) and not error.maybe_sent:
            runtime.store.clear_intent(part.id, part.intent_at)
            raise
        log.warning("No usable reply to creating part %s of batch %s; looking it up", part.number, batch.batch_id)
        if (found := _look_up(runtime, batch, part)) is None:
            raise _not_listed(batch, part, str(error), LIST_LAG_SECONDS) from error
        return found


def _look_up(runtime: Runtime, batch: Batch, part: Part) -> PartState | None:
    assert part.intent_at is not None  # noqa: S101 - the callers looked
    lookup = Lookup(
        runtime.spooled_part(batch, part),
        part.intent_at.timestamp(),
        part.input_ref,
        lambda: runtime.clock().timestamp(),
    )
    try:
        found = runtime.adapter.find(runtime.transport, lookup)
    except TransientProviderError as error:
        raise _unavailable(batch, part, f"looking it up failed: {error}", error.retry_after) from error
    except AmbiguousSubmitError as doubt:
        raise _ambiguous(batch, part, str(doubt)) from doubt
    except ProviderError as error:
        raise _ambiguous(batch, part, f"looking it up failed: {error}") from error
    taken = runtime.store.known_provider_ids([state.provider_batch_id for state in found])
    free = [state for state in found if state.provider_batch_id not in taken]
    if len(free) > 1:
        raise _ambiguous(batch, part, f"it may be any of {'; '.join(map(_described, free))}")
    if free:
        log.info("Adopted %s for part %s of batch %s", free[0].provider_batch_id, part.number, batch.batch_id)
        return free[0]
    return None


def _described(state: PartState) -> str:
    created = f"{state.created_at:%Y-%m-%d %H:%M:%S} UTC" if state.created_at else "at an unknown time"
    requests = (
        f"{state.counts.total} requests" if state.counts and state.counts.total else "an unknown number of requests"
    )
    return f"{state.provider_batch_id} (created {created}, {requests})"


def _lost(batch: Batch, part: Part, what: str, remedy: str) -> str:
    return (
        f"the reply to creating part {part.number} of batch {batch.batch_id} at {batch.provider} was lost"
        f" ({part.intent_at:%Y-%m-%d %H:%M:%S} UTC, {part.request_count} requests), and {what}. Nothing was sent again."
        f" {remedy}"
    )


def _unavailable(batch: Batch, part: Part, what: str, retry_after: float | None) -> UnavailableError:
    remedy = "Retry the task: it looks the part up first, and sends it again only if the provider does not have it."
    error = UnavailableError(_lost(batch, part, what, remedy), provider=batch.provider)
    error.retry_after = retry_after
    return error


def _not_listed(batch: Batch, part: Part, why: str, seconds: float) -> UnavailableError:
    what = f"the provider does not list it, which may change within {LIST_LAG_SECONDS} seconds of the call: {why}"
    return _unavailable(batch, part, what, seconds)


def _ambiguous(batch: Batch, part: Part, what: str) -> AmbiguousSubmitError:
    of = f"{batch.batch_id} {part.number}"
    remedy = (
        f"Decide which is true: 'airflow raif batches adopt {of} <provider batch id>' takes a batch of the provider as"
        f" this part, 'airflow raif batches resend {of}' has it sent again, and paid again if it was there. Then clear"
        " the task."
    )
    return AmbiguousSubmitError(_lost(batch, part, what, remedy))
