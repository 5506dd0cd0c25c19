"""What a person does with a batch, from a page or a command: the services, and then the batch's task in Airflow.

Needs a process that sees Airflow's database. Who may do it, and whether it was confirmed, is asked by the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airflow_raif.domain.next_step import NextStep, next_step_of
from airflow_raif.hooks.airflow_compat import ClearedTasks, clear_task
from airflow_raif.hooks.runtime import open_batch_runtime

if TYPE_CHECKING:
    from airflow_raif.domain.batch import Batch
    from airflow_raif.services.retry import RetryPlan
    from airflow_raif.services.runtime import Runtime

log = logging.getLogger(__name__)

OnRows = Callable[[int], object]


def nobody(_: int) -> None:
    """Where nobody looks at the progress."""


@dataclass(frozen=True)
class Done:
    """What was done by hand."""

    batch: Batch
    #: What a person should read: what was done, and what is to be done next. Plain text, and hostile.
    sentence: str
    #: False: it is not done yet, or somebody has to decide.
    is_through: bool = True
    #: Tasks that were cleared in Airflow, and so run again.
    tasks: list[str] = field(default_factory=list)


def cancel(batch_id: str) -> Done:
    """Ask the provider to stop a batch.

    :raises InvalidBatchError: it is over, or was never submitted.
    :raises RaifError: it could not be done; says why.
    """
    from airflow_raif.services.cancel import cancel_batch

    with _open(batch_id) as (runtime, batch):
        status = cancel_batch(runtime, batch_id)
        sentence = f"Batch {batch_id} is {status}."
        if not status.is_terminal:
            sentence = f"{batch.provider} was asked to stop batch {batch_id}, which is {status}; fetch it when it has."
        return Done(runtime.store.get_batch(batch_id), sentence)


def fetch(batch_id: str, *, on_rows: OnRows = nobody) -> Done:
    """Ask the provider for a batch's state, and fetch the results of what has ended.

    :param on_rows: told of how many rows are done with.
    :raises RaifError: it could not be done; says why.
    """
    from airflow_raif.services.fetch import fetch_now

    with _open(batch_id, on_rows) as (runtime, _):
        batch = fetch_now(runtime, batch_id)
    if batch.results_fetched_at is None:
        return Done(batch, f"{_state(batch)}; its results can be fetched when it has ended.", is_through=False)
    return Done(batch, f"{_state(batch)}.{_advice(batch)}")


def expire(batch_id: str, *, on_rows: OnRows = nobody) -> Done:
    """Give a batch up: what of it runs is canceled, what it finished is fetched.

    :raises RaifError: it could not be done; says why.
    """
    from airflow_raif.services.expire import expire_batch

    with _open(batch_id, on_rows) as (runtime, _):
        batch = expire_batch(runtime, batch_id, may_cancel=True)
    if not batch.status.is_terminal:
        how = "was told to stop" if batch.is_canceling or batch.is_cancel_requested else "was never submitted"
        return Done(
            batch,
            f"{_state(batch)}; it {how}. Fetch it when it has stopped, since what it finished is paid for.",
            is_through=False,
        )
    return Done(batch, f"{_state(batch)}.{_advice(batch)}")


def resume(batch_id: str, *, on_rows: OnRows = nobody) -> Done:
    """Do what a batch that got stuck needs, and have its task do the rest, unless that is at it.

    Creates whose reply was lost are looked up, a cancel that was not heard is made again, what has ended is fetched.
    What only a worker does (send parts, read input, apply results) its task does, which is cleared if it is over.

    :raises RaifError: it could not be done; says why.
    """
    from airflow_raif.services.take_up import take_up_batch

    with _open(batch_id, on_rows) as (runtime, _):
        taken = take_up_batch(runtime, batch_id)
    batch, done = taken.batch, " ".join([*taken.done, f"{_state(taken.batch)}."])
    if taken.doubt is not None:
        return Done(batch, f"{done} {taken.doubt}", is_through=False)
    step = next_step_of(batch)
    if not step.is_for_task or not _is_its_tasks(batch):
        return Done(batch, f"{done}{_advice(batch)}", is_through=step not in (NextStep.LOOK_UP, NextStep.STOP))
    assert batch.claim is not None  # noqa: S101 - it has a task
    tasks = clear_task(batch.claim, dry_run=True)
    if tasks.unfinished:
        return Done(batch, f"{done} Its task goes on by itself: {', '.join(tasks.unfinished)} is not over.")
    return Done(batch, f"{done} {_cleared(clear_task(batch.claim))}", tasks=tasks.names)


def plan_retry(
    batch_id: str,
    reasons: Collection[str] | None = None,
    *,
    truncated_max_tokens: int | None = None,
    max_cost: int | None = None,
) -> tuple[RetryPlan, ClearedTasks | None]:
    """Return what a retry of failed rows would send and cost, and which tasks would run again; nothing is changed.

    :param max_cost: see :func:`~airflow_raif.services.retry.retry_failed`.
    :return: no tasks: none made the batch.
    :raises InvalidBatchError: nothing can be retried; says why.
    :raises TaskMissingError: Airflow does not know its task any more.
    """
    from airflow_raif.services.retry import plan_retry

    with _open(batch_id) as (runtime, batch):
        plan = plan_retry(runtime, batch_id, reasons, truncated_max_tokens=truncated_max_tokens, max_cost=max_cost)
    return plan, None if batch.claim is None else clear_task(batch.claim, dry_run=True)


def retry(
    batch_id: str,
    reasons: Collection[str] | None = None,
    *,
    truncated_max_tokens: int | None = None,
    max_cost: int | None = None,
    on_rows: OnRows = nobody,
) -> Done:
    """Have failed rows of a batch go out again, by its task, which is cleared.

    See :func:`~airflow_raif.services.retry.retry_failed`.

    :raises InvalidBatchError: nothing can be retried; says why.
    :raises TaskMissingError: Airflow does not know its task any more, and nothing was changed.
    """
    from airflow_raif.services.retry import retry_failed

    with _open(batch_id, on_rows) as (runtime, batch):
        if batch.claim is not None:
            clear_task(batch.claim, dry_run=True)
        batch = retry_failed(runtime, batch_id, reasons, truncated_max_tokens=truncated_max_tokens, max_cost=max_cost)
    count = sum(part.request_count for part in batch.parts if part.is_unsent)
    rows = "1 row" if count == 1 else f"{count} rows"
    sentence = f"Round {batch.parts[-1].round} of batch {batch_id} has {rows}, which go out again."
    if batch.claim is None:
        return Done(batch, f"{sentence} No task made it: BatchHook.advance_batch sends them, in a task of your own.")
    try:
        tasks = clear_task(batch.claim)
    except Exception as error:
        log.exception("The task of batch %s could not be cleared", batch_id)
        why = f"Its task could not be cleared ({type(error).__name__}); clear {batch.claim.task_id} to send them."
        return Done(batch, f"{sentence} {why}", is_through=False)
    return Done(batch, f"{sentence} {_cleared(tasks)}", tasks=tasks.names)


@contextmanager
def _open(batch_id: str, on_rows: OnRows = nobody) -> Iterator[tuple[Runtime, Batch]]:
    """Open what work on a batch needs; whatever would be paid for is refused, since only workers send it."""
    with open_batch_runtime(batch_id, is_ending=lambda: True) as (runtime, batch):
        yield replace(runtime, on_rows=on_rows), batch


def _is_its_tasks(batch: Batch) -> bool:
    """Whether a clear of its task goes on with it; the task of a canceled batch makes a new one."""
    is_anew = batch.status.is_terminal and batch.was_canceled and not batch.is_being_delivered
    return batch.claim is not None and batch.claim_released_at is None and not is_anew


def _state(batch: Batch) -> str:
    fetched = sum(part.results_fetched_at is not None for part in batch.parts)
    return f"Batch {batch.batch_id} is {batch.status}, results of {fetched} of {len(batch.parts)} parts are here"


def _cleared(tasks: ClearedTasks) -> str:
    paused = "; its Dag is paused, unpause it" if tasks.is_paused else ""
    return f"Cleared in Airflow: {', '.join(tasks.names)}{paused}."


def _advice(batch: Batch) -> str:
    """Say what is to be done next, with a blank before it; nothing where there is nothing."""
    if not next_step_of(batch).is_for_task:
        return ""
    if not _is_its_tasks(batch):
        return " BatchHook.apply_batch_results writes them, in a task of your own."
    return " Its task goes on; if that is over, 'airflow raif batches resume' has it run again."
