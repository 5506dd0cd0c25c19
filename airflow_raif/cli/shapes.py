"""How commands show a batch: the JSON that scripts read, documented in docs/reference/commands.md, and texts."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.next_step import next_step_of
from airflow_raif.domain.usage import usd
from airflow_raif.store import Store


def summary(batch: Batch) -> dict[str, Any]:
    """Return a batch as a list has it."""
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
        "cost": decimal(batch.cost.batch),
        "created_at": iso(batch.created_at),
        "submitted_at": iso(batch.submitted_at),
        "ended_at": iso(batch.ended_at),
        "results_fetched_at": iso(batch.results_fetched_at),
        "applied_at": iso(batch.applied_at),
        "next_step": next_step_of(batch).value,
        "result_uri": batch.result_uri,
        "error": batch.error,
    }


def details(store: Store, batch: Batch) -> dict[str, Any]:
    """Return a batch with its parts, and its entries counted."""
    return summary(batch) | {
        "counts": msgspec.to_builtins(store.count_entries(batch)),
        "usage": msgspec.to_builtins(batch.usage),
        "standard_cost": decimal(batch.cost.standard),
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
                "intent_at": iso(part.intent_at),
                "submitted_at": iso(part.submitted_at),
                "ended_at": iso(part.ended_at),
                "error": part.error,
            }
            for part in batch.parts
        ],
    }


def task_name(batch: Batch) -> str | None:
    """Return the task that made a batch, on one line."""
    if (claim := batch.claim) is None:
        return None
    mapped = f" [{claim.map_index}]" if claim.map_index >= 0 else ""
    return f"{claim.dag_id} {claim.run_id} {claim.task_id}{mapped}"


def decimal(pico: int | None) -> str | None:
    """Return picodollars as US dollars, exactly, without an exponent."""
    amount = usd(pico)
    return None if amount is None else format(amount, "f")


def rounded(pico: int | None) -> str | None:
    """Return picodollars as US dollars for a person: cents, and less than one with two digits that tell something."""
    if pico is None:
        return None
    if pico == 0 or pico >= 10**11:
        return f"{pico / 1e12:,.2f}"
    return format(Decimal(f"{pico / 1e12:.2g}"), "f")


def minute(at: datetime | None) -> str | None:
    """Return a time for a table."""
    return None if at is None else f"{at:%Y-%m-%d %H:%M:%S}"


def iso(at: datetime | None) -> str | None:
    """Return a time for a script."""
    return None if at is None else at.isoformat()
