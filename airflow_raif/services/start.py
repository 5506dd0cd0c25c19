"""Start: create and submit a batch, or take up what an earlier attempt of the same task left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from airflow_raif.domain.batch import Batch, Claim
from airflow_raif.domain.request import RequestDefaults
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.create import create_batch, fingerprint_rows
from airflow_raif.services.resume import OnInputChange, resume_batch
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.submit import submit_batch


def start_batch(
    runtime: Runtime,
    rows: Callable[[], Iterable[Any]],
    *,
    defaults: RequestDefaults,
    claim: Claim,
    metadata: Mapping[str, Any] | None = None,
    round_policy: RoundPolicy | None = None,
    on_input_change: OnInputChange = "refuse",
) -> Batch:
    """Return the claim's batch, every part of it submitted.

    :param rows: opens the input; called twice when an earlier attempt's batch has to be compared with it.
    :raises InvalidBatchError: the input is empty, wrong, or not the one that the claim's batch was made of.
    """
    batch = resume_batch(
        runtime,
        claim,
        lambda: fingerprint_rows(runtime, rows(), defaults=defaults),
        on_input_change=on_input_change,
    )
    if batch is None:
        batch = create_batch(
            runtime, rows(), defaults=defaults, claim=claim, metadata=metadata, round_policy=round_policy
        )
    # Rounds are for whoever waits.
    if any(part.status is BatchStatus.PENDING and not part.round for part in batch.parts):
        batch = submit_batch(runtime, batch.batch_id)
    return batch
