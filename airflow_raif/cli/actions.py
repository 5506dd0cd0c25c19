"""``airflow raif batches cancel``, ``fetch``, ``retry`` and so on: decide about a batch by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_raif.cli.batches import write_batch
from airflow_raif.cli.command import acting_command
from airflow_raif.cli.shown import ask, counted, fail, progress, write_json, write_line

if TYPE_CHECKING:
    from airflow_raif.domain.batch import Batch, Part
    from airflow_raif.hooks.by_hand import Done
    from airflow_raif.services.retry import RetryPlan


@acting_command
def adopt(args: Any) -> None:
    """Take a batch of the provider as a part whose create lost its reply."""
    from airflow_raif.hooks.by_hand import Done
    from airflow_raif.hooks.runtime import open_batch_runtime
    from airflow_raif.services.settle import adopt_part

    with open_batch_runtime(args.batch) as (runtime, _):
        batch = adopt_part(runtime, args.batch, args.part, args.provider_batch_id)
    how = "and was told to stop" if _part(batch, args.part).is_canceling else "now. Clear the task to go on"
    _tell(args, Done(batch, f"Part {args.part} is {args.provider_batch_id} {how}."))


@acting_command
def resend(args: Any) -> None:
    """Have a part sent again whose create lost its reply."""
    from airflow_raif.hooks.by_hand import Done
    from airflow_raif.hooks.runtime import open_batch_runtime
    from airflow_raif.services.settle import resend_part

    with open_batch_runtime(args.batch) as (runtime, batch):
        if not args.yes:
            again = "taken as never sent" if batch.is_cancel_requested else "sent again"
            risk = "it runs on unseen" if batch.is_cancel_requested else "it is paid twice"
            ask(f"Have part {args.part} of batch {args.batch} {again}? If {batch.provider} has it already, {risk}.")
        batch = resend_part(runtime, args.batch, args.part)
    part = _part(batch, args.part)
    how = "is canceled" if part.status.is_terminal else "is sent by the next attempt. Clear the task to go on"
    _tell(args, Done(batch, f"Part {args.part} {how}."))


@acting_command
def cancel(args: Any) -> None:
    """Ask the provider to stop a batch."""
    from airflow_raif.hooks import by_hand
    from airflow_raif.hooks.store import find_store

    batch = find_store().get_batch(args.batch)
    if not args.yes:
        ask(f"Cancel batch {args.batch} of {batch.request_count} requests ({batch.status})? What is done is paid.")
    _tell(args, by_hand.cancel(args.batch))


@acting_command
def expire(args: Any) -> None:
    """Give a batch up: cancel what of it runs, fetch what it finished."""
    from airflow_raif.hooks import by_hand
    from airflow_raif.hooks.store import find_store

    batch = find_store().get_batch(args.batch)
    if not (args.yes or batch.status.is_terminal):
        ask(
            f"Give up batch {args.batch} of {batch.request_count} requests ({batch.status})? What runs is canceled,"
            " what is done is paid and fetched."
        )
    with progress("Fetching results", _unfetched(args.batch)) as on_rows:
        done = by_hand.expire(args.batch, on_rows=on_rows)
    _tell(args, done)


@acting_command
def fetch(args: Any) -> None:
    """Ask the provider for a batch's state, and fetch its results if it has ended."""
    from airflow_raif.hooks import by_hand
    from airflow_raif.hooks.store import find_store

    with progress("Fetching results", _unfetched(args.batch)) as on_rows:
        done = by_hand.fetch(args.batch, on_rows=on_rows)
    if not done.is_through:
        fail(done.sentence)
    write_batch(args, find_store(), done.batch)


@acting_command
def resume(args: Any) -> None:
    """Do what a batch that got stuck needs, and have its task run again for the rest."""
    from airflow_raif.hooks import by_hand

    with progress("Fetching results", _unfetched(args.batch)) as on_rows:
        done = by_hand.resume(args.batch, on_rows=on_rows)
    _tell(args, done)


@acting_command
def retry(args: Any) -> None:
    """Have failed rows of a batch go out again; its task, which is cleared in Airflow, sends them."""
    from airflow_raif.hooks import by_hand

    limits = {"truncated_max_tokens": args.max_tokens, "max_cost": args.max_cost}
    plan, tasks = by_hand.plan_retry(args.batch, args.reason, **limits)
    if args.dry_run:
        _write_plan(args, plan, tasks.names if tasks else [])
        return
    if not args.yes:
        cleared = f" Cleared in Airflow: {', '.join(tasks.names)}." if tasks else ""
        ask(f"Have {_described(plan)} of batch {args.batch} go out again?{cleared}")
    with progress("Writing requests", plan.entry_count) as on_rows:
        done = by_hand.retry(args.batch, args.reason, on_rows=on_rows, **limits)
    _tell(args, done)


def _unfetched(batch_id: str) -> int:
    """Return how many rows of a batch wait for their results."""
    from airflow_raif.hooks.store import find_store

    parts = find_store().get_batch(batch_id).parts
    return sum(part.request_count for part in parts if part.results_fetched_at is None)


def _described(plan: RetryPlan) -> str:
    from airflow_raif.cli.shapes import rounded

    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(plan.counts.items()))
    if plan.cost.batch is None:
        money = "no price of their model is known"
    elif plan.covers_answers:
        money = f"about {rounded(plan.cost.batch)} USD"
    else:
        money = f"about {rounded(plan.cost.batch)} USD, and what the answers cost, since there is none to go by"
    return f"{counted(plan.entry_count, 'failed row')} ({reasons}; {money})"


def _write_plan(args: Any, plan: RetryPlan, tasks: list[str]) -> None:
    from airflow_raif.cli.shapes import decimal

    if args.output == "json":
        write_json(
            {
                "entry_count": plan.entry_count,
                "counts": plan.counts,
                "cost": decimal(plan.cost.batch),
                "standard_cost": decimal(plan.cost.standard),
                "covers_answers": plan.covers_answers,
                "tasks": tasks,
            }
        )
        return
    cleared = f"; cleared in Airflow: {', '.join(tasks)}" if tasks else ""
    write_line(f"Would go out again: {_described(plan)}{cleared}.")


def _part(batch: Batch, number: int) -> Part:
    """Return a part by its number: while an input is read, one before it may not be there."""
    return next(part for part in batch.parts if part.number == number)


def _tell(args: Any, done: Done) -> None:
    """Write what was done; end with 1 if that is not all."""
    from airflow_raif.cli.shapes import details
    from airflow_raif.hooks.store import find_store

    if args.output == "json":
        write_json(details(find_store(), done.batch) | {"message": done.sentence, "cleared_tasks": done.tasks})
    if not done.is_through:
        fail(done.sentence)
    if args.output != "json":
        write_line(done.sentence)
