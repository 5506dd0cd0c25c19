"""The part of the store that sweeps and cleaning ask: what is not done, and what was kept long enough."""

from __future__ import annotations

from datetime import datetime

from airflow_raif.domain.batch import Batch
from airflow_raif.store import cleaning, sweeps
from airflow_raif.store.database import Database


class UpkeepStore(Database):
    """Upkeep of the batches in one database."""

    def check_write(self) -> None:
        """See that the tables can be written; nothing stays written.

        :raises StoreError: they cannot.
        """
        with self._transaction() as connection:
            sweeps.check_write(connection)

    def open_batches(self) -> list[Batch]:
        """Return the batches of which something was sent, or may have been, and whose results were not all fetched."""
        with self._transaction() as connection:
            return sweeps.open_batches(connection)

    def batches_with_files(self, applied_before: datetime) -> list[Batch]:
        """Return the batches that were fetched and applied before a time and may have files at the provider."""
        with self._transaction() as connection:
            return sweeps.with_files(connection, applied_before)

    def batches_with_spool(self, applied_before: datetime, now: datetime) -> list[Batch]:
        """Return the batches that were fetched and applied before a time and may have spool files."""
        with self._transaction() as connection:
            return sweeps.with_spool(connection, applied_before, now)

    def half_created_batches(self, created_before: datetime) -> list[Batch]:
        """Return the batches that were begun before a time and never spooled whole."""
        with self._transaction() as connection:
            return sweeps.half_created(connection, created_before)

    def mark_files_deleted(self, batch_id: str, at: datetime) -> None:
        """Note that a batch has no files at the provider any more."""
        with self._transaction() as connection:
            sweeps.mark_files_deleted(connection, batch_id, at)

    def mark_spool_deleted(self, batch: Batch, at: datetime) -> bool:
        """Note that a batch's spool is about to be deleted; False: the batch was taken up again since it was read."""
        with self._transaction() as connection:
            return sweeps.mark_spool_deleted(connection, batch, at)

    def count_old(self, old: cleaning.OldBatches) -> cleaning.OldCounts:
        """Count the batches that were kept long enough, and those that are kept on though they are old."""
        with self._transaction() as connection:
            return cleaning.count(connection, old)

    def old_batches(self, old: cleaning.OldBatches, after: int, size: int) -> list[Batch]:
        """Return the next batches that were kept long enough, by their keys."""
        with self._transaction() as connection:
            return cleaning.page(connection, old, after, size)

    def begin_deletion(self, batch: Batch, at: datetime) -> bool:
        """Note that a batch is about to be deleted; False: it was taken up again since it was read."""
        with self._transaction() as connection:
            return cleaning.begin(connection, batch, at)

    def delete_entries(self, batch: Batch, size: int) -> int:
        """Delete some entries of a batch; return how many there were."""
        with self._transaction() as connection:
            return cleaning.delete_entries(connection, batch, size)

    def finish_deletion(self, batch: Batch) -> None:
        """Delete a batch without entries, and its parts."""
        with self._transaction() as connection:
            cleaning.finish(connection, batch)
