"""Settle: a person decides what became of a part whose create may or may not have happened."""

from __future__ import annotations

import logging

from airflow_raif.adapters.lookup import first_wire_id
from airflow_raif.domain.batch import Batch, Part, PartState
from airflow_raif.domain.errors import BatchNotFoundError, InvalidBatchError, RejectedError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.wire_id import index_of, wire_prefix
from airflow_raif.services.cancel import tell_to_stop
from airflow_raif.services.find import may_be_sent
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.share import numbers_of

log = logging.getLogger(__name__)


def adopt_part(runtime: Runtime, batch_id: str, number: int, provider_batch_id: str) -> Batch:
    """Take a batch of the provider as the part that its create made; a part that is to stop is canceled with that.

    :raises InvalidBatchError: the part needs none, or the provider's batch does not exist, is another part's already,
        or cannot be this part.
    :raises ProviderError: the provider cannot be asked; nothing is changed.
    """
    batch, part = _open_part(runtime, batch_id, number)
    if (holder := runtime.store.holder_of(provider_batch_id)) is not None:
        raise InvalidBatchError(f"{provider_batch_id} is part {holder[1]} of batch {holder[0]} already")
    state = _ask(runtime, provider_batch_id)
    if why := _why_not(runtime, batch, part, state):
        raise InvalidBatchError(f"{provider_batch_id} cannot be part {number} of batch {batch_id}: {why}")
    is_to_stop = runtime.store.record_submitted(part.id, state, runtime.clock())
    log.info("Adopted %s for part %s of batch %s, as told", provider_batch_id, number, batch_id)
    if is_to_stop and not state.status.is_terminal:
        tell_to_stop(runtime, part, provider_batch_id)
    return runtime.store.get_batch(batch_id)


def resend_part(runtime: Runtime, batch_id: str, number: int) -> Batch:
    """Take a part's create as one that made nothing, so that the next attempt sends it; one that is to stop never is.

    :raises InvalidBatchError: the part has an id at the provider, no create of it is in doubt, or it may be sent yet.
    """
    _, part = _open_part(runtime, batch_id, number)
    if part.intent_at is None:
        raise InvalidBatchError(
            f"part {number} of batch {batch_id} was never sent, or is known not to have been; the next attempt of its"
            " task sends it anyway"
        )
    if may_be_sent(runtime, part):
        raise InvalidBatchError(
            f"the create of part {number} of batch {batch_id} was begun at {part.intent_at:%H:%M:%S} UTC and may still"
            " be on its way; try again in some minutes"
        )
    runtime.store.clear_intent(part.id, part.intent_at)
    log.info("Part %s of batch %s is to be sent again, as told", number, batch_id)
    return runtime.store.get_batch(batch_id)


def _open_part(runtime: Runtime, batch_id: str, number: int) -> tuple[Batch, Part]:
    batch = runtime.store.get_batch(batch_id)
    part = next((each for each in batch.parts if each.number == number), None)
    if part is None:
        raise InvalidBatchError(f"batch {batch_id} has no part {number}, {numbers_of(batch.parts)}")
    if part.provider_batch_id is not None:
        raise InvalidBatchError(f"part {number} of batch {batch_id} is {part.provider_batch_id} already")
    if part.status is not BatchStatus.PENDING or part.is_synchronous:
        how = "goes through the synchronous API" if part.is_synchronous else f"is {part.status}"
        raise InvalidBatchError(f"part {number} of batch {batch_id} {how} and has no batch at the provider")
    return batch, part


def _ask(runtime: Runtime, provider_batch_id: str) -> PartState:
    adapter = runtime.adapter
    try:
        answer = runtime.transport.send(adapter.get_request(provider_batch_id))
    except (BatchNotFoundError, RejectedError) as error:
        raise InvalidBatchError(f"{adapter.name} does not know {provider_batch_id!r}: {error}") from error
    state = adapter.parse_part(answer.content)
    if state.provider_batch_id != provider_batch_id:
        raise InvalidBatchError(
            f"{adapter.name} tells of {state.provider_batch_id!r} when asked for {provider_batch_id!r}; give the id as"
            " it is there"
        )
    return state


def _why_not(runtime: Runtime, batch: Batch, part: Part, state: PartState) -> str | None:
    """Return why a batch at the provider is certainly not a part of ours."""
    tag = runtime.spooled_part(batch, part).tag
    if state.tag is not None and state.tag != tag:
        return f"it carries the mark {state.tag!r}, not {tag!r}"
    if state.tag is None and part.intent_at is None:
        return "nothing was ever sent for the part"
    if (total := state.counts.total if state.counts else 0) and total != part.request_count:
        return f"it has {total} requests, not {part.request_count}"
    if state.status.is_terminal and (wire_id := first_wire_id(runtime.adapter, runtime.transport, state)) is not None:
        index = index_of(wire_id, wire_prefix(batch.batch_id))
        if index is None or runtime.store.part_of_entry(batch, index) != part.number:
            return f"its results are of other requests, such as {wire_id!r}"
    return None
