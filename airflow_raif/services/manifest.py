"""The small account of a batch that travels through XCom and is shown to users; never rows."""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.usage import usd
from airflow_raif.services.runtime import Runtime


def manifest_of(runtime: Runtime, batch: Batch) -> dict[str, Any]:
    """Return a batch's manifest, JSON-able: ids, parts, counts, usage, cost (USD as decimal text) and result URI."""
    counts = runtime.store.count_entries(batch)
    return {
        "batch_id": batch.batch_id,
        "provider": batch.provider,
        "conn_id": batch.conn_id,
        "model": batch.model,
        "endpoint": batch.endpoint,
        "status": batch.status.value,
        "request_count": batch.request_count,
        "parts": [
            {
                "number": part.number,
                "provider_batch_id": part.provider_batch_id,
                "status": part.status.value,
                "request_count": part.request_count,
            }
            for part in batch.parts
        ],
        "counts": {
            "pending": counts.pending,
            "completed": counts.completed,
            "failed": counts.failed,
            "reasons": dict(counts.reasons),
        },
        "usage": msgspec.to_builtins(batch.usage),
        "cost": {
            "batch": _text(usd(batch.cost.batch)),
            "standard": _text(usd(batch.cost.standard)),
            "is_estimated": batch.cost.is_estimated,
        },
        "result_uri": batch.result_uri,
        "error": batch.error,
        "submitted_at": _iso(batch.submitted_at),
        "ended_at": _iso(batch.ended_at),
    }


def _text(amount: Any) -> str | None:
    return None if amount is None else format(amount, "f")


def _iso(at: Any) -> str | None:
    return None if at is None else str(at.isoformat())
