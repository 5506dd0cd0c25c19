"""Poll: ask the provider for the state of a batch's parts, once."""

from __future__ import annotations

from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.runtime import Runtime


def fetch_batch_status(runtime: Runtime, batch_id: str) -> BatchStatus:
    """Update status, counts and bookkeeping of every part that is not terminal; return the batch's status.

    :raises ProviderError: the provider cannot be asked; nothing is changed.
    """
    states = {
        part.id: runtime.adapter.parse_part(
            runtime.transport.send(runtime.adapter.get_request(part.provider_batch_id or "")).content
        )
        for _, part in runtime.store.waiting_parts([batch_id])
    }
    if states:
        runtime.store.record_states(states, runtime.clock())
    return runtime.store.get_batch(batch_id).status
