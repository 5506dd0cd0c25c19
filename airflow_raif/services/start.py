"""Start: create and submit a batch, or take up what an earlier attempt of the same task left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_raif.domain.batch import Batch, Claim, Part
from airflow_raif.domain.errors import InputChangedError, TransientProviderError
from airflow_raif.domain.money import Budget
from airflow_raif.domain.request import RequestDefaults
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.sharing import Sharing
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.create import continue_batch, create_batch
from airflow_raif.services.estimate import is_limited, reserve_cost
from airflow_raif.services.fingerprint import fingerprint_rows
from airflow_raif.services.resume import OnInputChange, give_up, resume_batch
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.spooler import OnPart
from airflow_raif.services.submit import submit_parts, submit_pending
from airflow_raif.store import AttemptLostError

log = logging.getLogger(__name__)


def start_batch(
    runtime: Runtime,
    rows: Callable[[], Iterable[Any]],
    *,
    defaults: RequestDefaults,
    claim: Claim,
    metadata: Mapping[str, Any] | None = None,
    round_policy: RoundPolicy | None = None,
    sharing: Sharing | None = None,
    budget: Budget | None = None,
    on_input_change: OnInputChange = "refuse",
    on_batch: Callable[[Batch], object] = lambda _: None,
) -> Batch:
    """Return the claim's batch, every part of it submitted that the provider's queue has room for.

    A batch that one part holds is read whole before it is submitted; of a larger one each part is submitted as soon as
    it is whole. If such an attempt breaks off, the next one reads the input again and goes on after those parts. If it
    is canceled meanwhile, what was submitted is returned.

    :param sharing: which rows take answers of others.
    :param budget: what it may cost; if that is limited nothing is submitted before all of the input was read.
    :param rows: opens the input; called twice when an earlier attempt's batch has to be compared with it.
    :param on_batch: told of the batch before anything of it is submitted.
    :raises InvalidBatchError: the input is empty, wrong, or not the one that the claim's batch was made of.
    :raises BudgetExceededError: it would cost more; nothing of it was submitted.
    :raises BatchStoppingError: the claim's batch was told to stop and has not; call again once it has.
    """
    batch = resume_batch(
        runtime,
        claim,
        lambda: fingerprint_rows(runtime, rows(), defaults=defaults),
        on_input_change=on_input_change,
    )
    if batch is not None:
        on_batch(batch)
    budget = budget or Budget()
    sender: OnPart = (lambda *_: None) if is_limited(runtime, budget) else _Sender(runtime)
    try:
        if batch is not None and batch.spooled_at is None:
            try:
                batch = continue_batch(runtime, batch, rows(), defaults=defaults, sharing=sharing, on_part=sender)
            except InputChangedError:
                if on_input_change == "refuse":
                    raise
                give_up(runtime, batch)
                batch = None
        if batch is None:
            batch = create_batch(
                runtime,
                rows(),
                defaults=defaults,
                claim=claim,
                metadata=metadata,
                round_policy=round_policy,
                sharing=sharing,
                budget=budget,
                on_batch=on_batch,
                on_part=sender,
            )
    except AttemptLostError:
        batch = runtime.store.find_by_claim(claim)
        if batch is None or not batch.is_cut_short:
            raise
        log.info("Batch %s was canceled while its input was read", batch.batch_id)
    # Rounds are for whoever waits.
    if any(part.status is BatchStatus.PENDING and not part.round for part in batch.parts):
        if batch.budget != budget and not batch.is_sent:
            batch = runtime.store.set_budget(batch, budget)
        batch = reserve_cost(runtime, batch)
        batch = submit_pending(runtime, batch)
    return batch


@dataclass
class _Sender:
    """Submits parts while the input is still read; if the provider does not answer, the others wait for its end.

    Parts that are held back come first with the next part that is whole.
    """

    runtime: Runtime
    is_away: bool = False
    _held: list[Part] = field(default_factory=list)

    def __call__(self, batch: Batch, part: Part) -> None:
        if self.is_away or part.status is not BatchStatus.PENDING:
            return
        try:
            self._held = submit_parts(self.runtime, batch, [*self._held, part])
        except TransientProviderError as error:
            self.is_away = True
            log.warning("Batch %s is read to its end before the next try to submit it: %s", batch.batch_id, error)
