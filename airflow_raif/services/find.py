"""Find: look at the provider for what a create whose reply was lost may have made."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

from airflow_raif.adapters.base import Lookup
from airflow_raif.domain.batch import Batch, Part, PartState
from airflow_raif.domain.errors import AmbiguousSubmitError, ProviderError, TransientProviderError, UnavailableError
from airflow_raif.services.runtime import Runtime
from airflow_raif.store import OpenCreate

log = logging.getLogger(__name__)

#: A create leaves its worker within this of its intent, and the time that its requests take at this rate, or not at
#: all: also an attempt that slept, or that another took for dead, never sends what was sent again since.
CREATE_SECONDS = 60
CREATE_BYTES_PER_SECOND = 128 * 1024
#: Lists may lag behind creates for as long again. What a provider does not list is sent again no sooner than this
#: after its intent.
LIST_LAG_SECONDS = 2 * CREATE_SECONDS
#: The most that may lie between an intent and its batch at the provider: the largest create, and clocks that disagree.
CREATE_WINDOW = timedelta(hours=2)


def may_be_sent(runtime: Runtime, part: Part) -> bool:
    """Whether a create may still leave, so that no other attempt can take it for lost before it is listed."""
    return _seconds_left(runtime, part) > LIST_LAG_SECONDS - CREATE_SECONDS


def _seconds_left(runtime: Runtime, part: Part | OpenCreate) -> float:
    """Return how long a create may yet be on its way or without its reply, and then not be listed."""
    assert part.intent_at is not None  # noqa: S101 - the callers looked
    # Requests that were uploaded before do not travel with the create.
    seconds = 0.0 if part.input_ref is not None else part.request_bytes / CREATE_BYTES_PER_SECOND
    return LIST_LAG_SECONDS + seconds - (runtime.clock() - part.intent_at).total_seconds()


def find_part(runtime: Runtime, batch: Batch, part: Part) -> PartState | None:
    """Return what an earlier attempt created for a part whose intent it recorded; ``None``: certainly nothing.

    :raises AmbiguousSubmitError: that cannot be told; the message names the candidates and what to run.
    :raises UnavailableError: as before, but a later look may be able to tell.
    """
    if (found := look_up(runtime, batch, part)) is not None:
        return found
    if _seconds_left(runtime, part) > 0:
        raise not_listed(runtime, batch, part, "an earlier attempt got no reply to it")
    return None


def look_up(runtime: Runtime, batch: Batch, part: Part) -> PartState | None:
    """Return the one batch at the provider that is the part; ``None``: the provider lists none now.

    :raises AmbiguousSubmitError: it lists several, or cannot be asked.
    :raises UnavailableError: it does not answer now, or the one may be another part's as well.
    """
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
    # In this order: a create that gets its reply meanwhile is seen as one of both.
    creates = [] if runtime.adapter.has_tag else runtime.store.open_creates(batch.provider, part.request_count)
    taken = runtime.store.known_provider_ids([state.provider_batch_id for state in found])
    # What the provider refused to queue is nobody's: it was, or will be, sent again.
    free = [state for state in found if state.provider_batch_id not in taken and state.refusal is None]
    if len(free) > 1:
        what = f"it may be any of {'; '.join(map(_described, free))}"
        # Where nothing marks them, each that gets its reply to another attempt is one less.
        if (seconds := max((_seconds_left(runtime, create) for create in creates), default=0.0)) > 0:
            raise _unavailable(batch, part, what, seconds)
        raise _ambiguous(batch, part, what)
    if free and not free[0].status.is_terminal and (rivals := _rivals(free[0], batch, part, creates)):
        what = f"{_described(free[0])} may be it, or that of {' or '.join(rivals)}, which has no reply either"
        raise _unavailable(batch, part, what, None)
    if free:
        log.info("Found %s for part %s of batch %s", free[0].provider_batch_id, part.number, batch.batch_id)
        return free[0]
    return None


def _rivals(state: PartState, batch: Batch, part: Part, creates: Sequence[OpenCreate]) -> list[str]:
    """Return our other parts that a batch without a mark, which runs, may be as well."""
    return [
        f"part {create.number} of batch {create.batch_id}"
        for create in creates
        if (create.batch_id, create.number) != (batch.batch_id, part.number)
        and (state.created_at is None or abs(state.created_at - create.intent_at) < CREATE_WINDOW)
    ]


def not_listed(runtime: Runtime, batch: Batch, part: Part, why: str) -> UnavailableError:
    """Return the error of a part that the provider does not list, though it may soon."""
    seconds = max(_seconds_left(runtime, part), 0.0)
    what = f"the provider does not list it, which may change within the next {seconds:.0f} seconds: {why}"
    return _unavailable(batch, part, what, seconds)


def in_doubt(runtime: Runtime, batch: Batch, part: Part, found: PartState) -> AmbiguousSubmitError | UnavailableError:
    """Return the error of a batch at the provider that is likely a part, but not surely enough to cancel it."""
    what = f"only time and size tell that it is {_described(found)}"
    if (seconds := _seconds_left(runtime, part)) > 0:
        # The attempt that sent it may get its reply yet, and cancels it then.
        return _unavailable(batch, part, what, seconds)
    return _ambiguous(batch, part, what)


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


def _ambiguous(batch: Batch, part: Part, what: str) -> AmbiguousSubmitError:
    of = f"{batch.batch_id} {part.number}"
    adopted, resent = "", "has it sent again, and paid again if it was there"
    if part.is_cancel_requested:
        adopted, resent = " and cancels it", "takes it as never sent"
    remedy = (
        f"Decide which is true: 'airflow raif batches adopt {of} <provider batch id>' takes a batch of the provider as"
        f" this part{adopted}, 'airflow raif batches resend {of}' {resent}. Then clear the task."
    )
    return AmbiguousSubmitError(_lost(batch, part, what, remedy))
