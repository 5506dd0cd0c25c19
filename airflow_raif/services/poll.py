"""Poll: ask the provider for the state of a batch's parts, once."""

from __future__ import annotations

import logging
from collections.abc import Collection

from airflow_raif.domain.batch import PartState
from airflow_raif.domain.errors import BatchNotFoundError, MalformedResponseError, ProviderError, RejectedError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.retain import is_gone
from airflow_raif.services.runtime import Runtime
from airflow_raif.store import WaitingPart

log = logging.getLogger(__name__)


def fetch_batch_status(runtime: Runtime, batch_id: str, numbers: Collection[int] | None = None) -> BatchStatus:
    """Update status, counts and bookkeeping of every part that is not terminal; return the batch's status.

    :param numbers: only of these parts.
    :raises ProviderError: the provider cannot be asked, or not about one part; what it said of others is noted.
    """
    states: dict[int, PartState] = {}
    failure: ProviderError | None = None
    for part in runtime.store.waiting_parts([batch_id]):
        if numbers is not None and part.number not in numbers:
            continue
        try:
            states[part.id] = _ask(runtime, part)
        except (RejectedError, BatchNotFoundError, MalformedResponseError) as error:
            failure = failure or error
        except ProviderError as error:
            # The others would fail in the same way.
            failure = error
            break
    if states:
        runtime.store.record_states(states, runtime.clock())
    if failure is not None:
        raise failure
    return runtime.store.get_batch(batch_id).status


def _ask(runtime: Runtime, part: WaitingPart) -> PartState:
    request = runtime.adapter.get_request(part.provider_batch_id)
    try:
        return runtime.adapter.parse_part(runtime.transport.send(request).content)
    except ProviderError as error:
        if not is_gone(runtime, part, error):
            raise
        log.warning("%s was asked for too late: %s", part.provider_batch_id, error)
        return PartState(
            provider_batch_id=part.provider_batch_id,
            status=BatchStatus.EXPIRED,
            raw_status="not known any more",
            error=str(error),
        )
