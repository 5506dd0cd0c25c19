"""``airflow raif batches list`` and ``show``: look at batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_raif.cli.command import command
from airflow_raif.cli.shown import write_fields, write_json, write_table

if TYPE_CHECKING:
    from airflow_raif.domain.batch import Batch, Part
    from airflow_raif.store import Store


@command
def list_batches(args: Any) -> None:
    """List batches, newest first."""
    from airflow_raif.adapters.registry import canonical
    from airflow_raif.cli.shapes import decimal, minute, summary, task_name
    from airflow_raif.domain.status import BatchStatus
    from airflow_raif.hooks.store import find_store
    from airflow_raif.store import BatchFilter

    wanted = BatchFilter(
        status=BatchStatus(args.status) if args.status else None,
        provider=canonical(args.provider) if args.provider else None,
        dag_id=args.dag_id,
    )
    found = find_store().newest_batches(wanted, args.limit)
    if args.output == "json":
        write_json([summary(batch) for batch in found])
        return
    write_table(
        ("batch", "status", "provider", "model", "task", "requests", "parts", "created (UTC)", "cost (USD)"),
        [
            (
                batch.batch_id, batch.status, batch.provider, batch.model, task_name(batch), batch.request_count,
                len(batch.parts), minute(batch.created_at), decimal(batch.cost.batch),
            )
            for batch in found
        ],
        ("requests", "parts", "cost (USD)"),
        ids=("batch",),
    )  # fmt: skip


@command
def show(args: Any) -> None:
    """Show a batch and its parts."""
    from airflow_raif.hooks.store import find_store

    store = find_store()
    write_batch(args, store, store.get_batch(args.batch))


def write_batch(args: Any, store: Store, batch: Batch) -> None:
    """Write a batch and its parts, as a table or as JSON."""
    from airflow_raif.cli.shapes import details, minute, task_name

    shape = details(store, batch)
    if args.output == "json":
        write_json(shape)
        return
    counts = shape["counts"]
    write_fields(
        {
            "batch": batch.batch_id,
            "status": batch.status,
            "next step": _NEXT_STEPS[shape["next_step"]],
            "provider": f"{batch.provider} ({batch.conn_id})",
            "model": f"{batch.model} at {batch.endpoint}",
            "task": task_name(batch),
            "requests": f"{batch.request_count}: {counts['completed']} completed, {counts['pending']} pending,"
            f" {counts['failed']} failed",
            "failed": ", ".join(f"{count} {reason}" for reason, count in counts["reasons"].items()) or None,
            "tokens": f"{batch.usage.input_tokens} in, {batch.usage.output_tokens} out",
            "cost": _cost(batch),
            "created": minute(batch.created_at),
            "submitted": minute(batch.submitted_at),
            "ended": minute(batch.ended_at),
            "fetched": minute(batch.results_fetched_at),
            "applied": minute(batch.applied_at),
            "results": batch.result_uri,
            "spool": batch.spool_uri,
            "error": batch.error,
        }
    )
    write_table(
        ("part", "round", "status", "at the provider", "id at the provider", "requests", "submitted (UTC)", "error"),
        [
            (
                part.number, part.round, part.status, part.raw_status, _id_or_doubt(batch, part), part.request_count,
                minute(part.submitted_at), part.error,
            )
            for part in batch.parts
        ],
        ("part", "round", "requests"),
        ids=("id at the provider",),
    )  # fmt: skip
    failed = store.failures_of(batch).groups if batch.failed_count else []
    if failed:
        groups = [(group.reason, group.message, group.count) for group in failed]
        write_table(("reason", "message", "rows"), groups, ("rows",))


_NEXT_STEPS = {
    "none": None,
    "wait": "the provider works on it",
    "look_up": "a create got no reply: 'resume' looks for what it made, 'adopt' or 'resend' decide",
    "stop": "a cancel was not heard: 'resume' makes it again",
    "fetch": "it has ended: 'fetch' brings its results in, and so does its task",
    "read": "its task has to read its input to the end: 'resume' has it run again, if it is over",
    "send": "its task has to send parts of it: 'resume' has it run again, if it is over",
    "apply": "its task has to apply its results: 'resume' has it run again, if it is over",
}


def _id_or_doubt(batch: Batch, part: Part) -> str | None:
    from airflow_raif.cli.shapes import minute

    if batch.is_held_back and part.is_unsent:
        return "held back: the queue is full"
    if part.provider_batch_id is None and part.intent_at is not None and not part.is_synchronous:
        return f"unknown: a create was sent at {minute(part.intent_at)}"
    return part.provider_batch_id


def _cost(batch: Batch) -> str | None:
    from airflow_raif.cli.shapes import decimal

    if batch.cost.batch is None:
        return None
    guess = ", estimated" if batch.cost.is_estimated else ""
    return f"{decimal(batch.cost.batch)} USD ({decimal(batch.cost.standard)} USD through the synchronous API{guess})"
