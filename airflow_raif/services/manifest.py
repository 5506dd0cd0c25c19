"""The small account of a batch that travels through XCom and is shown to users; never rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.usage import Cost, Usage, usd
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.share import Share

#: What every manifest of a whole batch has.
MANIFEST_KEYS = (
    "batch_id", "provider", "conn_id", "endpoint", "model", "status", "request_count", "parts", "counts", "reused",
    "duplicates", "usage", "cost", "estimated_cost", "result_uri", "error", "submitted_at", "ended_at",
)  # fmt: skip


def manifest_of(runtime: Runtime, batch: Batch) -> dict[str, Any]:
    """Return a batch's manifest, JSON-able: ids, parts, counts, usage, cost (USD as decimal text) and result URI."""
    return {
        **identity_of(batch),
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
        "counts": msgspec.to_builtins(runtime.store.count_entries(batch)),
        **_shared(runtime, batch),
        **money_shown(batch.usage, batch.cost),
        "estimated_cost": _text(usd(batch.estimated_cost)),
        "result_uri": batch.result_uri,
        "error": batch.error,
        "submitted_at": _iso(batch.submitted_at),
        "ended_at": _iso(batch.ended_at),
    }


def identity_of(batch: Batch) -> dict[str, Any]:
    """Return what is known of a batch from its beginning: the head of its manifest."""
    return {**_who(batch), "model": batch.model}


def part_manifest_of(runtime: Runtime, share: Share) -> dict[str, Any]:
    """Return the manifest of one part's rows; a repeated answer that was billed counts in the batch's alone."""
    batch, part = share.batch, share.part
    return {
        **_who(batch),
        "part": part.number,
        "first_row": share.rows.start,
        "model": part.model,
        "status": part.status.value,
        "request_count": part.request_count,
        "counts": msgspec.to_builtins(runtime.store.count_entries(batch, share.rows)),
        **money_shown(*runtime.store.sum_entries(batch, share.rows)),
        "result_uri": part.result_uri,
        "error": part.error,
    }


def in_words(manifest: Mapping[str, Any]) -> str:
    """Return rows, tokens and cost of a manifest in words, none of which is a provider's or a model's."""
    counts, usage, cost = manifest["counts"], manifest["usage"], manifest["cost"]
    rows = f"{counts['completed']:,} of {manifest['request_count']:,} rows completed"
    reasons = "".join(f", {count:,} {reason}" for reason, count in sorted(counts["reasons"].items()))
    tokens = f"{usage['input_tokens']:,} tokens in, {usage['output_tokens']:,} out"
    if cost["batch"] is None:
        price = "cost unknown"
    else:
        price = f"{'about ' if cost['is_estimated'] else ''}${cost['batch']} (${cost['standard']} without batches)"
    return f"{rows}{reasons}; {tokens}; {price}"


def _who(batch: Batch) -> dict[str, Any]:
    return {
        "batch_id": batch.batch_id,
        "provider": batch.provider,
        "conn_id": batch.conn_id,
        "endpoint": batch.endpoint,
    }


def _shared(runtime: Runtime, batch: Batch) -> dict[str, int]:
    """Count the rows that took answers of earlier batches, and those that are the same as others of their batch."""
    reused, duplicates = runtime.store.count_shared(batch) if batch.has_shared_rows else (0, 0)
    return {"reused": reused, "duplicates": duplicates}


def money_shown(usage: Usage, cost: Cost) -> dict[str, Any]:
    """Return tokens, and cost in USD as decimal text."""
    return {
        "usage": msgspec.to_builtins(usage),
        "cost": {
            "batch": _text(usd(cost.batch)),
            "standard": _text(usd(cost.standard)),
            "is_estimated": cost.is_estimated,
        },
    }


def _text(amount: Any) -> str | None:
    return None if amount is None else format(amount, "f")


def _iso(at: Any) -> str | None:
    return None if at is None else str(at.isoformat())
