"""Cancel: ask the provider to stop a batch; what finished stays paid for and is fetched as usual."""

from __future__ import annotations

from airflow_raif.domain.batch import PartState
from airflow_raif.domain.errors import InvalidBatchError, ProviderError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.runtime import Runtime


def cancel_batch(runtime: Runtime, batch_id: str) -> BatchStatus:
    """Ask for cancellation of every part that runs; return the status after it, which may be transitional.

    Parts that were never sent, or are held back, are canceled here; one that ended meanwhile is no error.

    :raises InvalidBatchError: the batch is terminal, was never submitted, or its provider cannot cancel.
    :raises ProviderError: a part still runs and could not be canceled; the others were asked to stop.
    """
    batch = runtime.store.get_batch(batch_id)
    is_known = batch.queued_at is not None or any(part.provider_batch_id for part in batch.parts)
    if batch.status.is_terminal or not is_known:
        state = f"is {batch.status}" if batch.status.is_terminal else "was never submitted"
        raise InvalidBatchError(f"batch {batch_id} {state} and cannot be canceled")
    if not runtime.adapter.can_cancel:
        raise InvalidBatchError(f"{batch.provider} cannot cancel a batch; it runs until it ends or expires")
    runtime.store.ask_cancel(batch_id, runtime.clock())
    # What was not read of its input is not wanted any more.
    runtime.store.give_up_spooling(batch_id, runtime.clock())
    unsent = [part for part in batch.parts if part.status is BatchStatus.PENDING and part.intent_at is None]
    never = PartState(provider_batch_id="", status=BatchStatus.CANCELED, raw_status="never submitted")
    runtime.store.record_states({part.id: never for part in unsent}, runtime.clock())
    failures: dict[int, ProviderError] = {}
    for part in batch.parts:
        if part.provider_batch_id is None or part.status.is_terminal:
            continue
        try:
            runtime.transport.send(runtime.adapter.cancel_request(part.provider_batch_id))
        except ProviderError as error:
            failures[part.id] = error
    status = fetch_batch_status(runtime, batch_id)
    for part in runtime.store.get_batch(batch_id).parts:
        if part.id in failures and not part.status.is_terminal:
            raise failures[part.id]
    return status
