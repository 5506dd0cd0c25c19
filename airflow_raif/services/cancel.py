"""Cancel: ask the provider to stop a batch; what finished stays paid for and is fetched as usual."""

from __future__ import annotations

import logging

from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.errors import AmbiguousSubmitError, InvalidBatchError, ProviderError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.find import find_part, in_doubt
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.stragglers import send_stragglers

log = logging.getLogger(__name__)

#: With which providers answer to the cancel of a batch that has ended: Anthropic and Gemini, OpenAI.
_REFUSALS = (400, 409)


def cancel_batch(runtime: Runtime, batch_id: str) -> BatchStatus:
    """Ask for cancellation of every part that is not terminal; return the status after it, which may be transitional.

    What was never sent is canceled here, and can be sent by nobody any more. A part whose create may be on its way is
    looked for. Until it is found, or known not to exist, it is marked: whoever reads the create's reply, or looks for
    it next, cancels it. A part that ended meanwhile is no error.

    :raises InvalidBatchError: the batch is terminal, was never submitted, or its provider cannot cancel.
    :raises AmbiguousSubmitError: which batch at the provider a part is cannot be told; the others were asked to stop.
    :raises ProviderError: a part may run and could not be canceled; the others were asked to stop. Call it again.
    """
    batch = runtime.store.get_batch(batch_id)
    if batch.status.is_terminal or not (batch.is_sent or batch.is_held_back or batch.is_cancel_requested):
        state = f"is {batch.status}" if batch.status.is_terminal else "was never submitted"
        raise InvalidBatchError(f"batch {batch_id} {state} and cannot be canceled")
    if not runtime.adapter.can_cancel:
        raise InvalidBatchError(f"{batch.provider} cannot cancel a batch; it runs until it ends or expires")
    failures: dict[int, ProviderError | AmbiguousSubmitError] = {}
    for part in runtime.store.request_cancel(batch, runtime.clock()).parts:
        if part.is_cancel_requested:
            try:
                stop_part(runtime, batch, part)
            except (ProviderError, AmbiguousSubmitError) as error:
                failures[part.id] = error
    status = fetch_batch_status(runtime, batch_id)
    for part in runtime.store.get_batch(batch_id).parts:
        if part.id in failures and part.is_cancel_requested:
            raise failures[part.id]
    return status


def stop_part(runtime: Runtime, batch: Batch, part: Part) -> None:
    """Cancel a part that is marked to stop.

    :raises AmbiguousSubmitError: which batch at the provider it is cannot be told.
    :raises UnavailableError: as before, but a later call may be able to tell.
    :raises ProviderError: it may run, and could not be canceled; it stays marked.
    """
    provider_batch_id = part.provider_batch_id
    if part.is_synchronous:
        send_stragglers(runtime, batch, part)
        return
    if provider_batch_id is None:
        found = find_part(runtime, batch, part)
        if found is None:
            assert part.intent_at is not None  # noqa: S101 - otherwise it is canceled already
            runtime.store.clear_intent(part.id, part.intent_at)
            return
        if not (runtime.adapter.has_tag or found.status.is_terminal):
            raise in_doubt(runtime, batch, part, found)
        runtime.store.record_submitted(part.id, found, runtime.clock())
        if found.status.is_terminal:
            return
        provider_batch_id = found.provider_batch_id
    tell_to_stop(runtime, part, provider_batch_id)


def tell_to_stop(runtime: Runtime, part: Part, provider_batch_id: str) -> None:
    """Ask the provider to cancel a part; that it has ended meanwhile is noted and no error.

    :raises ProviderError: it may run, and could not be canceled; it stays marked.
    """
    try:
        runtime.transport.send(runtime.adapter.cancel_request(provider_batch_id))
    except ProviderError as error:
        if error.status not in _REFUSALS:
            raise
        answer = runtime.transport.send(runtime.adapter.get_request(provider_batch_id))
        state = runtime.adapter.parse_part(answer.content)
        if not state.status.is_terminal:
            raise
        runtime.store.record_states({part.id: state}, runtime.clock())
