"""``airflow raif batches``: look at batches, and decide about them by hand."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from airflow_raif.cli.shown import ask, fail, write_fields, write_json, write_line, write_table
from airflow_raif.domain.errors import RaifError
from airflow_raif.domain.usage import usd

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_raif.domain.batch import Batch, Part
    from airflow_raif.store import Store


def _command(run: Callable[[Any], None]) -> Callable[[Any], None]:
    """Let a command see the connections of Airflow's database, and end with 1 and a sentence at our own errors."""

    @wraps(run)
    def command(args: Any) -> None:
        # It tells of its plugins as it is imported, and Airflow before 3.3 writes that where the answer goes.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
        try:
            run(args)
        except RaifError as error:
            fail(str(error))

    return command


@_command
def list_batches(args: Any) -> None:
    """List batches, newest first."""
    from airflow_raif.adapters.registry import canonical
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
        write_json([_summary(batch) for batch in found])
        return
    write_table(
        ("batch", "status", "provider", "model", "task", "requests", "parts", "created (UTC)", "cost (USD)"),
        [
            (
                batch.batch_id, batch.status, batch.provider, batch.model, _task(batch), batch.request_count,
                len(batch.parts), _time(batch.created_at), _decimal(batch.cost.batch),
            )
            for batch in found
        ],
    )  # fmt: skip


@_command
def show(args: Any) -> None:
    """Show a batch and its parts."""
    from airflow_raif.hooks.store import find_store

    store = find_store()
    _write_batch(args, store, store.get_batch(args.batch))


@_command
def adopt(args: Any) -> None:
    """Take a batch of the provider as a part whose create lost its reply."""
    from airflow_raif.hooks.runtime import open_batch_runtime
    from airflow_raif.services.settle import adopt_part

    with open_batch_runtime(args.batch) as (runtime, _):
        batch = adopt_part(runtime, args.batch, args.part, args.provider_batch_id)
        how = "and was told to stop" if batch.parts[args.part].is_canceling else "now. Clear the task to go on"
        _tell(args, runtime.store, batch, f"Part {args.part} is {args.provider_batch_id} {how}.")


@_command
def resend(args: Any) -> None:
    """Have a part sent again whose create lost its reply."""
    from airflow_raif.hooks.runtime import open_batch_runtime
    from airflow_raif.services.settle import resend_part

    with open_batch_runtime(args.batch) as (runtime, batch):
        if not args.yes:
            again = "taken as never sent" if batch.is_cancel_requested else "sent again"
            risk = "it runs on unseen" if batch.is_cancel_requested else "it is paid twice"
            ask(f"Have part {args.part} of batch {args.batch} {again}? If {batch.provider} has it already, {risk}.")
        part = resend_part(runtime, args.batch, args.part).parts[args.part]
        how = "is canceled" if part.status.is_terminal else "is sent by the next attempt. Clear the task to go on"
        _tell(args, runtime.store, runtime.store.get_batch(args.batch), f"Part {args.part} {how}.")


@_command
def cancel(args: Any) -> None:
    """Ask the provider to stop a batch."""
    from airflow_raif.hooks.runtime import open_batch_runtime
    from airflow_raif.services.cancel import cancel_batch

    with open_batch_runtime(args.batch) as (runtime, batch):
        if not args.yes:
            ask(f"Cancel batch {args.batch} of {batch.request_count} requests ({batch.status})? What is done is paid.")
        status = cancel_batch(runtime, args.batch)
        how = f"Batch {args.batch} is {status}."
        if not status.is_terminal:
            how = f"{batch.provider} was asked to stop batch {args.batch}, which is {status}; fetch it when it has."
        _tell(args, runtime.store, runtime.store.get_batch(args.batch), how)


@_command
def fetch(args: Any) -> None:
    """Ask the provider for a batch's state, and fetch its results if it has ended."""
    from airflow_raif.hooks.runtime import open_batch_runtime
    from airflow_raif.services.fetch import fetch_batch_results
    from airflow_raif.services.poll import fetch_batch_status

    with open_batch_runtime(args.batch) as (runtime, _):
        status = fetch_batch_status(runtime, args.batch)
        if not status.is_terminal:
            fail(f"Batch {args.batch} is {status}; its results can be fetched when it has ended.")
        _write_batch(args, runtime.store, fetch_batch_results(runtime, args.batch))


def _tell(args: Any, store: Store, batch: Batch, sentence: str) -> None:
    if args.output == "json":
        write_json(_details(store, batch))
    else:
        write_line(sentence)


def _write_batch(args: Any, store: Store, batch: Batch) -> None:
    details = _details(store, batch)
    if args.output == "json":
        write_json(details)
        return
    counts = details["counts"]
    write_fields(
        {
            "batch": batch.batch_id,
            "status": batch.status,
            "provider": f"{batch.provider} ({batch.conn_id})",
            "model": f"{batch.model} at {batch.endpoint}",
            "task": _task(batch),
            "requests": f"{batch.request_count}: {counts['completed']} completed, {counts['pending']} pending,"
            f" {counts['failed']} failed",
            "failed": ", ".join(f"{count} {reason}" for reason, count in counts["reasons"].items()) or None,
            "tokens": f"{batch.usage.input_tokens} in, {batch.usage.output_tokens} out",
            "cost": _cost(batch),
            "created": _time(batch.created_at),
            "submitted": _time(batch.submitted_at),
            "ended": _time(batch.ended_at),
            "fetched": _time(batch.results_fetched_at),
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
                _time(part.submitted_at), part.error,
            )
            for part in batch.parts
        ],
    )  # fmt: skip


def _summary(batch: Batch) -> dict[str, Any]:
    claim = batch.claim
    return {
        "batch_id": batch.batch_id,
        "status": batch.status.value,
        "provider": batch.provider,
        "conn_id": batch.conn_id,
        "model": batch.model,
        "endpoint": batch.endpoint,
        "dag_id": claim and claim.dag_id,
        "run_id": claim and claim.run_id,
        "task_id": claim and claim.task_id,
        "map_index": claim and claim.map_index,
        "request_count": batch.request_count,
        "part_count": len(batch.parts),
        "cost": _decimal(batch.cost.batch),
        "created_at": _iso(batch.created_at),
        "submitted_at": _iso(batch.submitted_at),
        "ended_at": _iso(batch.ended_at),
        "results_fetched_at": _iso(batch.results_fetched_at),
        "result_uri": batch.result_uri,
        "error": batch.error,
    }


def _details(store: Store, batch: Batch) -> dict[str, Any]:
    import msgspec

    return _summary(batch) | {
        "counts": msgspec.to_builtins(store.count_entries(batch)),
        "usage": msgspec.to_builtins(batch.usage),
        "standard_cost": _decimal(batch.cost.standard),
        "cost_is_estimated": batch.cost.is_estimated,
        "metadata": batch.metadata,
        "spool_uri": batch.spool_uri,
        "parts": [
            {
                "number": part.number,
                "round": part.round,
                "status": part.status.value,
                "raw_status": part.raw_status,
                "provider_batch_id": part.provider_batch_id,
                "model": part.model,
                "request_count": part.request_count,
                "is_synchronous": part.is_synchronous,
                "intent_at": _iso(part.intent_at),
                "submitted_at": _iso(part.submitted_at),
                "ended_at": _iso(part.ended_at),
                "error": part.error,
            }
            for part in batch.parts
        ],
    }


def _task(batch: Batch) -> str | None:
    if (claim := batch.claim) is None:
        return None
    mapped = f" [{claim.map_index}]" if claim.map_index >= 0 else ""
    return f"{claim.dag_id} {claim.run_id} {claim.task_id}{mapped}"


def _id_or_doubt(batch: Batch, part: Part) -> str | None:
    if batch.is_held_back and part.is_unsent:
        return "held back: the queue is full"
    if part.provider_batch_id is None and part.intent_at is not None and not part.is_synchronous:
        return f"unknown: a create was sent at {_time(part.intent_at)}"
    return part.provider_batch_id


def _cost(batch: Batch) -> str | None:
    if batch.cost.batch is None:
        return None
    guess = ", estimated" if batch.cost.is_estimated else ""
    return f"{_decimal(batch.cost.batch)} USD ({_decimal(batch.cost.standard)} USD through the synchronous API{guess})"


def _decimal(pico: int | None) -> str | None:
    amount = usd(pico)
    return None if amount is None else format(amount, "f")


def _time(at: datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%d %H:%M:%S}"


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
