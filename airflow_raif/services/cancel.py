"""Cancel: ask the provider to stop a batch; what finished stays paid for and is fetched as usual."""

from __future__ import annotations

from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.runtime import Runtime


def cancel_batch(runtime: Runtime, batch_id: str) -> BatchStatus:
    """Ask for cancellation of every part that runs; return the status after it, which may be transitional.

    :raises InvalidBatchError: the batch is terminal, was never submitted, or its provider cannot cancel.
    """
    batch = runtime.store.get_batch(batch_id)
    running = [part for part in batch.parts if part.provider_batch_id and not part.status.is_terminal]
    if not running:
        state = f"is {batch.status}" if batch.status.is_terminal else "was never submitted"
        raise InvalidBatchError(f"batch {batch_id} {state} and cannot be canceled")
    if not runtime.adapter.can_cancel:
        raise InvalidBatchError(f"{batch.provider} cannot cancel a batch; it runs until it ends or expires")
    for part in running:
        runtime.transport.send(runtime.adapter.cancel_request(part.provider_batch_id or ""))
    return fetch_batch_status(runtime, batch_id)
