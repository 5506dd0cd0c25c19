"""The part of the store that pages read; nothing of it keeps others from writing."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.status import BatchStatus
from airflow_raif.store import batches, costs, entry_listing, listing
from airflow_raif.store.costs import CostFilter, CostGroup, CostRow
from airflow_raif.store.database import Database
from airflow_raif.store.entry_listing import EntriesWanted, Failures, ListedEntry
from airflow_raif.store.listing import BatchPage, BatchTally, PageWanted, Visible, Wanted


class MonitorStore(Database):
    """Lists of batches and entries."""

    def read_batch(self, batch_id: str) -> Batch:
        """Return a batch with its parts.

        :raises BatchMissingError: there is none of this id.
        """
        with self._reading() as connection:
            return batches.get(connection, batch_id)

    def list_batches(self, visible: Visible, wanted: Wanted, at: PageWanted) -> BatchPage:
        """Return a page of the batches that are wanted."""
        with self._reading() as connection:
            return listing.page(connection, visible, wanted, at)

    def count_batches(self, visible: Visible, wanted: Wanted) -> dict[BatchStatus, int]:
        """Count the batches that are wanted by status, whatever status is wanted."""
        with self._reading() as connection:
            return listing.count_by_status(connection, visible, wanted)

    def tally_batches(self, visible: Visible) -> list[BatchTally]:
        """Add all batches and their rows up by provider and status."""
        with self._reading() as connection:
            return listing.tally(connection, visible)

    def sum_costs_by_each(self, groups: Sequence[CostGroup], wanted: CostFilter) -> dict[CostGroup, list[CostRow]]:
        """Add up what batches used and cost by each of several things; a batch counts where its first part is."""
        with self._reading() as connection:
            return costs.costs_by_each(connection, groups, wanted)

    def owners(self) -> tuple[set[str], set[str]]:
        """Return the Dags that have batches, and the connections of batches that no Dag made."""
        with self._reading() as connection:
            return listing.owners(connection)

    def usual_seconds(self) -> dict[tuple[str, str], float]:
        """Return how long batches of a provider and model took of late, from being submitted to their end."""
        with self._reading() as connection:
            return listing.usual_seconds(connection)

    def list_entries(self, batch: Batch, wanted: EntriesWanted) -> tuple[list[ListedEntry], bool, bool]:
        """Return entries in input order, and whether there are more before and after them."""
        with self._reading() as connection:
            return entry_listing.page(connection, batch.id, wanted)

    def find_entry(self, batch: Batch, index: int) -> ListedEntry | None:
        """Return an entry; ``None``: the batch has none at this position."""
        with self._reading() as connection:
            return entry_listing.one(connection, batch.id, index)

    def failures_of(self, batch: Batch) -> Failures:
        """Count the failed entries of a batch by reason, and by reason and message."""
        with self._reading() as connection:
            return entry_listing.failures(connection, batch.id)
