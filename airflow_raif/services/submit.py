"""Submit: record the intent, call the provider once, record its id; look up what a lost reply may have created."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from airflow_raif.adapters.base import Request, Response, SpooledPart, Transport
from airflow_raif.domain.batch import Batch, Part, PartState
from airflow_raif.domain.errors import (
    AuthenticationError,
    BatchNotFoundError,
    InvalidBatchError,
    MalformedResponseError,
    RateLimitedError,
    RejectedError,
    TransientProviderError,
    UnavailableError,
)
from airflow_raif.domain.queue import Refusal
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.cancel import stop_part, tell_to_stop
from airflow_raif.services.divide import divide_parts, is_to_be_divided
from airflow_raif.services.estimate import reserve_cost
from airflow_raif.services.find import find_part, look_up, may_be_sent, not_listed
from airflow_raif.services.metrics import part_submitted
from airflow_raif.services.runtime import Runtime

log = logging.getLogger(__name__)

#: The most of a create's body that is sent before it is asked again whether it still may.
BLOCK_BYTES = 64 * 1024


def submit_batch(runtime: Runtime, batch_id: str) -> Batch:
    """Send every part of a batch that has not been sent and that the provider's queue has room for, first come first.

    What is held back stays pending, and so does what the provider refuses for now: whoever waits for the batch sends it
    later. A part whose intent was recorded by an earlier attempt is looked up at the provider first: one match is
    adopted, none is sent again. What is canceled meanwhile is not sent, or told to stop.

    :raises InvalidBatchError: nothing of it is pending, or it was never spooled whole.
    :raises BudgetExceededError: it would cost more than it may; nothing of it was sent.
    :raises AmbiguousSubmitError: whether the provider has the part already cannot be told; it was not sent again.
    :raises UnavailableError: as before, but a later attempt may be able to tell.
    :raises ProviderError: the provider refused or failed; what was sent before stays submitted.
    """
    batch = runtime.store.get_batch(batch_id)
    if batch.spooled_at is None:
        raise InvalidBatchError(f"batch {batch_id} was never created whole; create it anew")
    if batch.parts and all(part.is_shared for part in batch.parts):
        return batch
    if not any(map(_is_pending, batch.parts)):
        raise InvalidBatchError(f"batch {batch_id} is {batch.status} and has nothing left to submit")
    return submit_pending(runtime, batch)


def submit_pending(runtime: Runtime, batch: Batch) -> Batch:
    """Send every part that has not been sent and has room, if there is any; as :func:`submit_batch`."""
    if batch.reserved_at is None:
        batch = reserve_cost(runtime, batch)
    while True:
        batch = divide_parts(runtime, batch)
        held = submit_parts(runtime, batch, list(filter(_is_pending, batch.parts)))
        batch = runtime.store.get_batch(batch.batch_id)
        if not any(map(is_to_be_divided, batch.parts)):
            break
    if held:
        log.info("Batch %s: %s parts wait for room in the queue of %s", batch.batch_id, len(held), batch.provider)
    return batch


def _is_pending(part: Part) -> bool:
    return part.status is BatchStatus.PENDING and not part.is_synchronous


def submit_parts(runtime: Runtime, batch: Batch, parts: Iterable[Part]) -> list[Part]:
    """Send parts in their order; return those that are held back. Raises as :func:`submit_batch`."""
    held: list[Part] = []
    full: set[str] = set()
    for part in parts:
        queue = runtime.adapter.quota(part.model).model
        is_behind = queue in full and part.intent_at is None
        if is_behind or not _submit_part(runtime, batch, part):
            full.add(queue)
            held.append(part)
    return held


def _submit_part(runtime: Runtime, batch: Batch, part: Part) -> bool:
    """Send one part, or adopt what an earlier attempt made of it; False: it is held back."""
    if part.is_cancel_requested:
        stop_part(runtime, batch, part)
        return True
    try:
        return _send_part(runtime, batch, part)
    except UnavailableError:
        now = runtime.store.get_batch(batch.batch_id).parts
        if not any(each.id == part.id and each.status is BatchStatus.CANCELED for each in now):
            raise
        log.info("Part %s of batch %s was canceled before it was sent", part.number, batch.batch_id)
        return True


def _send_part(runtime: Runtime, batch: Batch, part: Part) -> bool:
    store, adapter = runtime.store, runtime.adapter
    state = _resume(runtime, batch, part) if part.intent_at is not None else None
    if state is None:
        # Asked before the upload too, since what waits for days would be lost there.
        if not store.may_send(part.id, adapter.quota(part.model), runtime.clock()):
            return False
        spooled = runtime.spooled_part(batch, part)
        was_uploaded_before = part.input_ref is not None
        if part.input_ref is None:
            part.input_ref = adapter.upload(runtime.transport, spooled)
            if part.input_ref is not None:
                store.record_upload(part.id, part.input_ref)
        try:
            state = _create(runtime, batch, part, spooled)
        except (RejectedError, BatchNotFoundError, AuthenticationError) as error:
            # Gemini forbids files that are not there.
            if isinstance(error, AuthenticationError) and not (error.status == 403 and was_uploaded_before):
                raise
            store.record_upload(part.id, None)
            if not was_uploaded_before:
                raise
            # Providers delete uploads after a while (Gemini: 48 hours, https://ai.google.dev/gemini-api/docs/files).
            log.info("Part %s of batch %s was refused; uploading its requests anew", part.number, batch.batch_id)
            part.input_ref = part.intent_at = None
            return _send_part(runtime, batch, part)
    if state is None:
        return False
    _record(runtime, batch, part, state)
    log.info(
        "Submitted part %s of batch %s as %s: %s requests, %s bytes",
        part.number, batch.batch_id, state.provider_batch_id, part.request_count, part.request_bytes,
    )  # fmt: skip
    return True


def _record(runtime: Runtime, batch: Batch, part: Part, state: PartState) -> None:
    """Note a part's id; a part that somebody canceled meanwhile is told to stop."""
    at = runtime.clock()
    is_to_stop = runtime.store.record_submitted(part.id, state, at)
    part_submitted(runtime.metrics, batch, part, is_first=batch.submitted_at is None)
    batch.submitted_at = batch.submitted_at or at
    if is_to_stop and not state.status.is_terminal:
        log.info("Part %s of batch %s was canceled while it was being submitted", part.number, batch.batch_id)
        tell_to_stop(runtime, part, state.provider_batch_id)


def _resume(runtime: Runtime, batch: Batch, part: Part) -> PartState | None:
    """Return what an earlier attempt created; if that is certainly nothing, clear its intent."""
    found = find_part(runtime, batch, part)
    if found is None and part.intent_at is not None:
        runtime.store.clear_intent(part.id, part.intent_at)
    return found


def _create(runtime: Runtime, batch: Batch, part: Part, spooled: SpooledPart) -> PartState | None:
    """Create the part at the provider; ``None``: its queue has no room."""
    runtime.check_going_on()
    quota = runtime.adapter.quota(part.model)
    part.intent_at = runtime.clock()
    is_noted = runtime.store.record_intent(part.id, part.intent_at, quota)
    if is_noted is None:
        part.intent_at = None
        return None
    if not is_noted:
        raise UnavailableError(
            f"part {part.number} of batch {batch.batch_id} was submitted, or is being submitted, by another attempt of"
            " the task; retry it: it goes on with what the other made",
            provider=batch.provider,
        )
    in_time = _InTime(runtime.transport, lambda: _check_time(runtime, batch, part))
    try:
        return runtime.adapter.create(in_time, spooled, part.input_ref)
    except RateLimitedError as error:
        refusal = Refusal(str(error), is_certain=False, retry_after=error.retry_after)
        runtime.store.refuse_create(part.id, part.intent_at, quota, refusal, runtime.clock())
        part.intent_at = None
        log.warning("Part %s of batch %s is held back: %s", part.number, batch.batch_id, error)
        return None
    except (AuthenticationError, RejectedError, BatchNotFoundError):
        runtime.store.clear_intent(part.id, part.intent_at)
        raise
    except (TransientProviderError, MalformedResponseError) as error:
        if isinstance(error, TransientProviderError) and not error.maybe_sent:
            runtime.store.clear_intent(part.id, part.intent_at)
            raise
        log.warning("No usable reply to creating part %s of batch %s; looking it up", part.number, batch.batch_id)
        if (found := look_up(runtime, batch, part)) is None:
            raise not_listed(runtime, batch, part, str(error)) from error
        return found


def _check_time(runtime: Runtime, batch: Batch, part: Part) -> None:
    """Raise if a create was on its way for so long that another attempt may have taken it for lost."""
    if may_be_sent(runtime, part):
        return
    late = UnavailableError(
        f"part {part.number} of batch {batch.batch_id} could not be sent to {batch.provider} in time after"
        f" {part.intent_at:%Y-%m-%d %H:%M:%S} UTC; the call was broken off, so nothing was made. Retry the task",
        provider=batch.provider,
    )
    # A create without the end of its body makes nothing.
    late.maybe_sent = False
    raise late


@dataclass(frozen=True)
class _InTime:
    """A transport whose calls break off once they come too late, also in the middle of their body."""

    transport: Transport
    check: Callable[[], None]

    def send(self, request: Request, *, retry: bool = True) -> Response:
        """Send, as long as it is in time."""
        content = request.content or b""
        if callable(content):
            blocks, length = content, request.content_length
        else:
            blocks, length = lambda: _pieces(content), len(content)
        in_time = replace(request, content=lambda: self._checked(blocks()), content_length=length)
        return self.transport.send(in_time, retry=retry)

    def stream(self, request: Request) -> AbstractContextManager[Iterator[bytes]]:
        """Open an answer."""
        return self.transport.stream(request)

    def _checked(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        for block in blocks:
            for piece in _pieces(block):
                self.check()
                yield piece


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), BLOCK_BYTES):
        yield content[start : start + BLOCK_BYTES]
