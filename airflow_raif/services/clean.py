"""Clean: delete batches that were kept long enough, with their files and their rows in the store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

import msgspec

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import StoreError
from airflow_raif.services.runtime import utc_now
from airflow_raif.spool.files import Folder
from airflow_raif.store import OldBatches, Store

log = logging.getLogger(__name__)

#: Batches read at one time, and entries deleted in one transaction.
BATCH_CHUNK, ENTRY_CHUNK = 100, 20_000


class CleanReport(msgspec.Struct):
    """What was deleted, and what could not be."""

    batch_count: int = 0
    request_count: int = 0
    #: A sentence each.
    failures: list[str] = []


def clean_batches(
    store: Store,
    old: OldBatches,
    spool: Folder,
    results: Folder | None = None,
    *,
    on_batch: Callable[[], object] = lambda: None,
    clock: Callable[[], datetime] = utc_now,
) -> CleanReport:
    """Delete old batches; an error with one does not stop the others, and a later call goes on where this one stopped.

    A task that made one of them, and is cleared later, makes a new batch, which is paid anew.

    :param spool: the folder of all spools.
    :param results: the folder of all result folders, where result files are to be deleted, too; those that an operator
        was told to write elsewhere stay.
    :param on_batch: told of each batch that is done with.
    :raises StoreError: the store cannot be used.
    """
    report, after = CleanReport(), 0
    while chunk := store.old_batches(old, after, BATCH_CHUNK):
        after = chunk[-1].id
        for batch in chunk:
            try:
                if _delete(store, batch, spool, results, clock()):
                    report.batch_count += 1
                    report.request_count += batch.request_count
            except StoreError:
                raise
            except Exception as error:
                log.exception("Batch %s could not be deleted", batch.batch_id)
                report.failures.append(f"batch {batch.batch_id}: {type(error).__name__}: {error}")
            on_batch()
    return report


def _delete(store: Store, batch: Batch, spool: Folder, results: Folder | None, now: datetime) -> bool:
    """Delete one batch, what tells of it last; False: it was taken up again."""
    if not store.begin_deletion(batch, now):
        return False
    spool.child(batch.batch_id).delete()
    if results is not None:
        results.child(batch.batch_id).delete()
    while store.delete_entries(batch, ENTRY_CHUNK):
        pass
    store.finish_deletion(batch)
    return True
