"""The part of the store that is about entries: one row per request, all in bulk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy.exc import IntegrityError

from airflow_raif.domain.batch import Batch, EntryOutcome, Part
from airflow_raif.domain.rounds import Selection
from airflow_raif.domain.usage import Cost, Usage
from airflow_raif.store import answers, entries, spooling
from airflow_raif.store.database import Database
from airflow_raif.store.records import EntryCounts, EntryRow, EntryTally, KnownAnswer, PartRows, Repeat, money_of


class EntryStore(Database):
    """Entries of the batches in one database."""

    def add_entries(
        self, batch: Batch, rows: Sequence[entries.NewEntry], shared: Sequence[entries.SharedEntry] = ()
    ) -> None:
        """Write pending entries, and those that take answers of others.

        :raises DuplicateCustomIdError: a custom_id is in the batch twice; nothing of the chunk is written.
        :raises AttemptLostError: the batch is not this attempt's any more.
        """
        entries.check_chunk([*rows, *shared])
        try:
            with self._transaction() as connection:
                spooling.check(connection, batch)
                entries.add(connection, batch.id, rows)
                entries.add_shared(connection, batch.id, shared)
        except Exception as error:
            cause = error.__cause__
            if not isinstance(cause, IntegrityError):
                raise
            with self._transaction() as connection:
                raise entries.find_duplicate(connection, batch.id, [*rows, *shared], cause) from error

    def record_outcomes(self, batch: Batch, outcomes: Sequence[EntryOutcome]) -> int:
        """Write outcomes of entries that have none, or a worse one; return how many had none."""
        with self._transaction() as connection:
            return entries.record(connection, batch.id, outcomes)

    def fail_without_result(self, batch: Batch, part: Part, reason: str, message: str, *, is_repeatable: bool) -> int:
        """Fail every entry of a part that has no result; return how many there were."""
        with self._transaction() as connection:
            return entries.fail_pending(connection, batch.id, part, reason, message, is_repeatable=is_repeatable)

    def iter_repeatable(
        self, batch: Batch, wanted: Selection, rows: PartRows | None = None, *, size: int = 2000
    ) -> Iterator[Repeat]:
        """Yield the failed entries that are to go out again, in input order."""
        start = 0
        while True:
            with self._transaction() as connection:
                page = entries.repeatable(connection, batch.id, wanted, start, size, rows)
            yield from page
            if len(page) < size:
                return
            start = page[-1].index + 1

    def count_entries(self, batch: Batch, rows: PartRows | None = None) -> EntryCounts:
        """Count the entries of a batch, or of some rows of it, by status and reason."""
        with self._transaction() as connection:
            return entries.count(connection, batch.id, rows)

    def tally_entries(self, batch: Batch) -> list[EntryTally]:
        """Add the entries of a batch up by part, status and reason."""
        with self._transaction() as connection:
            return entries.tally(connection, batch.id)

    def count_shared(self, batch: Batch) -> tuple[int, int]:
        """Count the entries that took answers of earlier batches, and those that are the same as others."""
        with self._transaction() as connection:
            return answers.count(connection, batch.id)

    def sum_entries(self, batch: Batch, rows: PartRows) -> tuple[Usage, Cost]:
        """Sum usage and cost of the results that rows have."""
        with self._transaction() as connection:
            return money_of(entries.row_sums(connection, batch.id, rows))

    def end_of_rows(self, batch: Batch, start: int, model: str, count: int) -> int:
        """Return the index after so many rows of a model, from an index on."""
        with self._transaction() as connection:
            return entries.end_of_rows(connection, batch.id, start, model, count)

    def part_numbers(self, batch: Batch, start: int, size: int) -> dict[int, int]:
        """Return the numbers of the parts of the rows from an index on, so many at the most, as far as known."""
        with self._transaction() as connection:
            return entries.part_numbers(connection, batch.id, start, size)

    def hand_on_outcomes(self, batch: Batch, part: Part) -> int:
        """Give every row that is the same as one of a part what became of that one; return how many there are."""
        with self._transaction() as connection:
            return answers.hand_on(connection, batch.id, part)

    def keep_answers(self, batch: Batch, scope: bytes, part: Part, at: datetime) -> None:
        """Note the answers that came with a part for later batches."""
        with self._transaction() as connection:
            answers.keep(connection, batch.id, scope, part, at)

    def find_answers(self, scope: bytes, hashes: Sequence[bytes], answered_after: datetime) -> dict[bytes, KnownAnswer]:
        """Return the answers that earlier batches got since a time, by the hashes of their requests."""
        with self._transaction() as connection:
            return answers.find(connection, scope, hashes, answered_after)

    def parts_of_rows(self, batch: Batch, rows: PartRows) -> set[int]:
        """Return the numbers of the parts that hold these rows now."""
        with self._transaction() as connection:
            return entries.parts_of(connection, batch.id, rows)

    def iter_ids_since(
        self, batch: Batch, first_part: int, rows: PartRows | None = None, *, size: int = 2000
    ) -> Iterator[str]:
        """Yield the ids of the rows that are in a part from this number on, or the same as one that is, in input order.

        :param rows: only of these.
        """
        start = 0
        while True:
            with self._transaction() as connection:
                page = entries.since(connection, batch.id, first_part, start, size, rows)
            yield from (custom_id for _, custom_id in page)
            if len(page) < size:
                return
            start = page[-1][0] + 1

    def iter_entries(self, batch: Batch, rows: PartRows | None = None, *, size: int = 2000) -> Iterator[list[EntryRow]]:
        """Yield the entries of a batch, or of some rows of it, in input order.

        They come page by page, each page in a transaction of its own.
        """
        start = 0
        while True:
            with self._transaction() as connection:
                page = entries.page(connection, batch.id, start, size, rows)
            if not page:
                return
            yield page
            start = page[-1].index + 1
