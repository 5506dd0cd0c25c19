"""The metadata tables: schema, queries, migrations. Knows no provider and no Airflow."""

from airflow_raif.store.browse import BatchFilter
from airflow_raif.store.cleaning import OldBatches, OldCounts
from airflow_raif.store.costs import CostFilter, CostGroup, CostRow
from airflow_raif.store.entries import NewEntry, SharedEntry
from airflow_raif.store.entry_listing import EntriesWanted, FailureGroup, Failures, ListedEntry
from airflow_raif.store.listing import BatchPage, BatchTally, Cursor, ListedBatch, PageWanted, Visible, Wanted
from airflow_raif.store.records import (
    AttemptLostError,
    BatchMissingError,
    ClaimTakenError,
    EntryCounts,
    EntryRow,
    EntryTally,
    KnownAnswer,
    NewBatch,
    NewPart,
    OpenCreate,
    PartRows,
    Repeat,
    WaitingPart,
)
from airflow_raif.store.store import Store

__all__ = [
    "AttemptLostError",
    "BatchFilter",
    "BatchMissingError",
    "BatchPage",
    "BatchTally",
    "ClaimTakenError",
    "CostFilter",
    "CostGroup",
    "CostRow",
    "Cursor",
    "EntriesWanted",
    "EntryCounts",
    "EntryRow",
    "EntryTally",
    "FailureGroup",
    "Failures",
    "KnownAnswer",
    "ListedBatch",
    "ListedEntry",
    "NewBatch",
    "NewEntry",
    "NewPart",
    "OldBatches",
    "OldCounts",
    "OpenCreate",
    "PageWanted",
    "PartRows",
    "Repeat",
    "SharedEntry",
    "Store",
    "Visible",
    "WaitingPart",
    "Wanted",
]
