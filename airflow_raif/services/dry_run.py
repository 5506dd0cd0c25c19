"""Dry run: what a batch of some rows would be, and what it would cost, without sending or keeping anything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import msgspec

from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.domain.batch import Batch, Claim
from airflow_raif.domain.money import Budget, Estimate, dollars
from airflow_raif.domain.request import RequestDefaults
from airflow_raif.domain.sharing import Sharing
from airflow_raif.services.create import create_batch
from airflow_raif.services.estimate import account_of, estimate_batch
from airflow_raif.services.manifest import money_shown
from airflow_raif.services.runtime import Runtime
from airflow_raif.spool.files import Folder, requests_file
from airflow_raif.store import Store

#: Requests that are shown, and characters of each.
SHOWN = 3
SHOWN_LENGTH = 2000


class DryRun(msgspec.Struct, frozen=True):
    """A batch as it would be."""

    batch: Batch
    estimate: Estimate
    #: Rows that would take answers of earlier batches, and those that are the same as others.
    reused: int
    duplicates: int
    #: The first requests, as they would be sent but for the batch's id in theirs.
    first_requests: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-able: counts, parts, tokens, and USD as decimal text; no row of it."""
        parts = [part for part in self.batch.parts if not part.is_shared]
        return {
            "rows": self.batch.request_count,
            "requests": self.estimate.requests,
            "reused": self.reused,
            "duplicates": self.duplicates,
            "parts": [
                {"model": part.model, "request_count": part.request_count, "request_bytes": part.request_bytes}
                for part in parts
            ],
            **money_shown(self.estimate.usage, self.estimate.cost),
            "tokens_from": self.estimate.source,
        }

    def lines(self) -> list[str]:
        """Return it as people read it, with the first requests."""
        parts = sum(not part.is_shared for part in self.batch.parts)
        rows = (
            f"{self.batch.request_count:,} rows: {self.estimate.requests:,} requests in {parts} parts,"
            f" {self.reused:,} answers taken again, {self.duplicates:,} rows the same as others"
        )
        list_price = dollars(self.estimate.cost.standard)
        return [
            rows,
            f"It would cost about {account_of(self.estimate)}; {list_price} without the batch discount",
            *(f"Request {number}: {_shown(text)}" for number, text in enumerate(self.first_requests)),
        ]


def dry_run(
    runtime: Runtime,
    rows: Iterable[Any],
    *,
    defaults: RequestDefaults,
    claim: Claim | None = None,
    sharing: Sharing | None = None,
    budget: Budget | None = None,
) -> DryRun:
    """Read every row and make the batch in a place that is gone afterwards; no provider is called.

    :raises InvalidBatchError: the batch is empty, or a row cannot be sent.
    """
    with tempfile.TemporaryDirectory(prefix="raif-") as place:
        store = Store.open(f"sqlite:///{place}/raif.db", embedded=True)
        try:
            spool = Folder(fsspec.filesystem("file"), str(Path(place, "spool")), f"file://{place}/spool")
            scratch = replace(runtime, store=store, spool=spool)
            batch = create_batch(
                scratch, rows, defaults=defaults, claim=claim, sharing=sharing, budget=budget, known=runtime
            )
            reused, duplicates = store.count_shared(batch) if batch.has_shared_rows else (0, 0)
            estimate = estimate_batch(runtime, batch, scratch.folder(batch.batch_id))
            return DryRun(batch, estimate, reused, duplicates, _first_requests(scratch, batch))
        finally:
            store.close()


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}... ({len(text):,} characters)"


def _first_requests(runtime: Runtime, batch: Batch) -> list[str]:
    folder, found = runtime.folder(batch.batch_id), list[str]()
    for part in batch.parts:
        if not part.is_shared and len(found) < SHOWN:
            lines = split_lines(folder.blocks(requests_file(part.number))())
            found += [line.decode() for _, line in islice(lines, SHOWN - len(found))]
    return found
