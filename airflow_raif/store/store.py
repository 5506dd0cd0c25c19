"""The store: every method is one transaction, and none of them calls a provider."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from airflow_raif.domain.batch import Batch, Claim, Part, PartState
from airflow_raif.domain.money import Budget, History
from airflow_raif.domain.queue import Quota, Refusal
from airflow_raif.domain.status import BatchStatus
from airflow_raif.store import answers, batches, browse, budgets, costs, entries, parts, queue, spooling
from airflow_raif.store.entry_store import EntryStore
from airflow_raif.store.monitor import MonitorStore
from airflow_raif.store.records import (
    ClaimTakenError,
    NewBatch,
    NewPart,
    OpenCreate,
    PartRows,
    WaitingPart,
)
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import part as part_table
from airflow_raif.store.upkeep import UpkeepStore


class Store(EntryStore, MonitorStore, UpkeepStore):
    """The metadata tables of one database."""

    # Batches

    def create_batch(self, new: NewBatch) -> Batch:
        """Write a batch without rows.

        :raises ClaimTakenError: its task instance holds a batch already.
        """
        claim = new.claim
        try:
            with self._transaction() as connection:
                return batches.add(connection, new)
        except Exception as error:
            held = self.find_by_claim(claim) if claim and isinstance(error.__cause__, IntegrityError) else None
            if held is None:
                raise
            raise ClaimTakenError(
                f"{claim} holds batch {held.batch_id} already; another attempt of the task is at work",
                batch_id=held.batch_id,
            ) from error

    def get_batch(self, batch_id: str) -> Batch:
        """Return a batch with its parts.

        :raises BatchMissingError: there is none of this id.
        """
        with self._reading() as connection:
            return batches.get(connection, batch_id)

    def find_by_claim(self, claim: Claim) -> Batch | None:
        """Return the batch that a task instance holds."""
        with self._reading() as connection:
            return batches.find_by_claim(connection, claim)

    def release_claim(self, batch: Batch, at: datetime) -> bool:
        """Let the task instance make a new batch; this one stays, and still tells whose it was.

        :return: False: another attempt opened a round of it since it was read, so it is worth waiting for.
        """
        columns = batch_table.c
        where = (columns.id == batch.id, columns.results_fetched_at == batch.results_fetched_at)
        with self._transaction() as connection:
            values = {"claim_released_at": func.coalesce(columns.claim_released_at, at)}
            return bool(connection.execute(update(batch_table).where(*where).values(values)).rowcount)

    def discard_batch(self, batch_id: str) -> bool:
        """Delete a batch that is not whole and of which nothing was sent; return whether there was one."""
        with self._transaction() as connection:
            return spooling.discard(connection, batch_id)

    def take_up_spooling(self, batch: Batch) -> Batch:
        """Let this attempt alone go on with a batch that is not whole.

        :raises AttemptLostError: another attempt was faster.
        """
        with self._transaction() as connection:
            spooling.take_up(connection, batch)
            return batches.get(connection, batch.batch_id)

    def finish_spooling(self, batch: Batch, *, fingerprint: str, request_count: int, at: datetime) -> None:
        """Note that every row of the batch is in the spool.

        :raises AttemptLostError: the batch is not this attempt's any more.
        """
        with self._transaction() as connection:
            spooling.finish(connection, batch, fingerprint, request_count, at)
            parts.count_outcomes(connection, batch.id)

    def set_budget(self, batch: Batch, budget: Budget) -> Batch:
        """Note what a batch may cost now."""
        self._update_batch(batch.batch_id, budget=msgspec.to_builtins(budget))
        return self.get_batch(batch.batch_id)

    def reserve_cost(self, batch: Batch, cost: int, day_limit: int | None, at: datetime) -> int | None:
        """Reserve what a batch will probably cost, in picodollars, of its connection's budget of the day.

        :return: what others took of it, if too little is left, and nothing was reserved; otherwise ``None``.
        """
        with self._transaction() as connection:
            return budgets.reserve(connection, batch, cost, day_limit, at)

    def cost_history(self, batch: Batch, claim: Claim, model: str) -> History | None:
        """Return what the last batch of a task took for a model, on the same connection."""
        with self._transaction() as connection:
            return budgets.history(connection, batch, claim, model)

    def mark_fetched(self, batch: Batch, at: datetime) -> Batch:
        """Sum up usage and cost, and stamp once that every result was fetched, if that is so.

        Then no row waits for the answer of another any more, and answers that it took from earlier batches are found in
        this one.
        """
        with self._transaction() as connection:
            is_stamped = batches.mark_fetched(connection, batch, at)
            fetched = batches.get(connection, batch.batch_id)
            if not (is_stamped and fetched.has_shared_rows):
                return fetched
            answers.hand_on_rest(connection, batch.id)
            parts.count_outcomes(connection, batch.id)
            for part in fetched.parts:
                if part.is_shared and fetched.answer_scope is not None:
                    answers.renew(connection, batch.id, fetched.answer_scope, part)
            return batches.get(connection, batch.batch_id)

    def note_result(self, batch: Batch, result_uri: str) -> None:
        """Note where the results of a batch are that was not applied: they are being delivered."""
        columns = batch_table.c
        where = (
            columns.id == batch.id,
            columns.applied_at.is_(None),
            columns.results_fetched_at == batch.results_fetched_at,
        )
        with self._transaction() as connection:
            connection.execute(update(batch_table).where(*where).values(result_uri=result_uri))

    def mark_applied(self, batch: Batch, result_uri: str, at: datetime) -> bool:
        """Note where the results are, and when they came there first.

        :return: False: a round was opened since the batch was read, so they are not all, and nothing was noted.
        """
        with self._transaction() as connection:
            return batches.mark_applied(connection, batch, result_uri, at)

    def statuses(self, batch_ids: Sequence[str]) -> dict[str, BatchStatus]:
        """Return the status of each batch."""
        with self._transaction() as connection:
            return batches.statuses(connection, batch_ids)[0]

    def statuses_and_queued(self, batch_ids: Sequence[str]) -> tuple[dict[str, BatchStatus], set[str]]:
        """Return the status of each batch, and those that were ever held back for the provider's queue."""
        with self._transaction() as connection:
            return batches.statuses(connection, batch_ids)

    # Commands and pages

    def newest_batches(self, wanted: browse.BatchFilter, limit: int) -> list[Batch]:
        """Return the batches that are wanted, newest first."""
        with self._transaction() as connection:
            return browse.newest(connection, wanted, limit)

    def sum_costs(self, by: Sequence[costs.CostGroup], wanted: costs.CostFilter) -> list[costs.CostRow]:
        """Add up what batches used and cost, by groups in their order; all in one row if there are none."""
        with self._reading() as connection:
            return costs.costs(connection, by, wanted)

    def providers_by_connection(self, since: datetime) -> dict[str, str]:
        """Return the connections that batches were made with since a time, and a provider of each."""
        with self._transaction() as connection:
            return browse.providers_by_connection(connection, since)

    def holder_of(self, provider_batch_id: str) -> tuple[str, int] | None:
        """Return batch id and number of the part that has an id at the provider."""
        with self._transaction() as connection:
            return browse.holder(connection, provider_batch_id)

    def part_of_entry(self, batch: Batch, index: int) -> int | None:
        """Return the number of the part that an entry is in; ``None``: the batch has no such entry."""
        with self._transaction() as connection:
            return browse.part_number(connection, batch.id, index)

    # Parts

    def add_part(self, batch: Batch, new: NewPart) -> Part:
        """Write a part whose entries were written before.

        :raises AttemptLostError: the batch is not this attempt's any more.
        """
        with self._transaction() as connection:
            spooling.check(connection, batch)
            return parts.add(connection, batch.id, new)

    def open_round(
        self,
        batch: Batch,
        new: Sequence[NewPart],
        moved: Iterable[Sequence[entries.Moved]],
        part: Part | None = None,
    ) -> bool:
        """Write the parts of a round and make its entries pending in them, all or nothing.

        :param moved: the entries, in chunks.
        :param part: the round is of the rows of this part alone.
        :return: False: another process opened it, or added other parts, and nothing was written.
        """
        with self._transaction() as connection:
            parts.lock(connection, batch.id)
            if not parts.reopen(connection, batch, part):
                return False
            for each in new:
                parts.add(connection, batch.id, each)
            for chunk in moved:
                entries.move(connection, batch.id, chunk)
            if batch.has_shared_rows:
                answers.take_back(connection, batch.id)
            parts.count_outcomes(connection, batch.id)
            return True

    def record_upload(self, part_id: int, input_ref: str | None) -> None:
        """Note where a part's requests were uploaded to; ``None``: forget it."""
        with self._transaction() as connection:
            connection.execute(update(part_table).where(part_table.c.id == part_id).values(input_ref=input_ref))

    def record_intent(self, part_id: int, at: datetime, quota: Quota | None = None) -> bool | None:
        """Note that a create is about to be sent, and take the room in the provider's queue that it needs.

        :return: False: somebody else noted it first, or the part was submitted or canceled; ``None``: there is no room,
            or others are before it.
        """
        with self._transaction() as connection:
            if quota is not None and not queue.may_send(connection, part_id, quota, at):
                return None
            statement = update(part_table).where(
                part_table.c.id == part_id,
                part_table.c.status == BatchStatus.PENDING.value,
                part_table.c.intent_at.is_(None),
                part_table.c.provider_batch_id.is_(None),
            )
            return bool(connection.execute(statement.values(intent_at=at)).rowcount)

    def clear_intent(self, part_id: int, at: datetime) -> None:
        """Note that the create whose intent was recorded at this time is known to have made nothing.

        A part that is to stop is canceled with that.
        """
        with self._transaction() as connection:
            parts.clear_intent(connection, part_id, at)

    def note_call(self, part: Part, number: int, at: datetime) -> bool:
        """Note that a synchronous part's call is about to be made, in their order.

        :return: False: it was noted before, or the part is to stop.
        """
        with self._transaction() as connection:
            return parts.count_calls(connection, part, number, number + 1, at)

    def forget_call(self, part: Part, number: int) -> None:
        """Note that the last call is known to have done nothing."""
        with self._transaction() as connection:
            parts.count_calls(connection, part, number + 1, number, None)

    def record_submitted(self, part_id: int, state: PartState, at: datetime) -> bool:
        """Note the id that the provider gave a part.

        :return: whether the part is to stop: a cancel was asked for before its id was known.
        :raises InvalidBatchError: the part has another id already, or was canceled.
        """
        with self._transaction() as connection:
            return parts.submitted(connection, part_id, state, at)

    def request_cancel(self, batch: Batch, at: datetime) -> Batch:
        """Cancel what of a batch was never sent, and note on what was that it is to stop.

        What was not read of its input is not wanted any more: the batch is whole as it is.
        """
        with self._transaction() as connection:
            parts.lock(connection, batch.id)
            spooling.give_up(connection, batch.batch_id, at)
            parts.request_cancel(connection, batch, at)
            return batches.get(connection, batch.batch_id)

    def fail_unsent_round(self, batch: Batch, error: str, at: datetime, numbers: Collection[int] | None = None) -> None:
        """Note that the provider refuses what of a batch's round, or of these parts of it, was not sent yet."""
        with self._transaction() as connection:
            parts.fail_unsent_round(connection, batch, error, at, numbers)

    def mark_part_applied(
        self,
        batch: Batch,
        part: Part,
        rows: PartRows,
        numbers: Collection[int],
        result_uri: str,
        at: datetime,
        ends_batch: bool = True,
    ) -> bool:
        """Note where the results of a part's rows are; the batch is applied with the last of its parts, once.

        :param numbers: the parts that held the rows when they were read.
        :param ends_batch: False: with the last of its parts the batch is not applied, but being delivered.
        :return: False: a round was opened since, so they are not all, and nothing was noted.
        """
        with self._transaction() as connection:
            parts.lock(connection, batch.id)
            # Whoever opens a round, or applies another part, waits for this.
            connection.execute(select(batch_table.c.id).where(batch_table.c.id == batch.id).with_for_update())
            if entries.parts_of(connection, batch.id, rows) != set(numbers):
                return False
            if part.is_shared and not batches.is_fetched_since(connection, batch):
                # What its rows took may have gone out again.
                return False
            folder_uri = result_uri.rpartition("/")[0]
            parts.mark_applied(connection, batch, part, result_uri, folder_uri, at, ends_batch)
            return True

    def record_states(self, states: Mapping[int, PartState], at: datetime) -> list[str]:
        """Note what the provider says of many parts, and what follows for their batches.

        :return: the batches among them that are terminal now.
        """
        with self._transaction() as connection:
            return parts.record_states(connection, states, at)

    def waiting_parts(self, batch_ids: Sequence[str]) -> list[WaitingPart]:
        """Return the parts of these batches that run at the provider."""
        with self._transaction() as connection:
            return parts.waiting(connection, batch_ids)

    def open_creates(self, provider: str, request_count: int) -> list[OpenCreate]:
        """Return the parts of a size whose create has no reply yet."""
        with self._transaction() as connection:
            return browse.open_creates(connection, provider, request_count)

    def known_provider_ids(self, provider_batch_ids: Collection[str]) -> set[str]:
        """Return those of the ids that a part has already."""
        column = part_table.c.provider_batch_id
        with self._transaction() as connection:
            return set(connection.scalars(select(column).where(column.in_(provider_batch_ids))))

    def mark_part_fetched(self, batch: Batch, part: Part, at: datetime) -> None:
        """Stamp once that a part's results are in, and sum up their usage and cost."""
        with self._transaction() as connection:
            connection.execute(
                update(part_table)
                .where(part_table.c.id == part.id, part_table.c.results_fetched_at.is_(None))
                .values(**entries.part_sums(connection, batch.id, part), results_fetched_at=at)
            )
            parts.count_outcomes(connection, batch.id)

    # Queues

    def may_send(self, part_id: int, quota: Quota, at: datetime) -> bool:
        """Whether there is room for a pending part and nobody before it; otherwise its batch is in line from now on."""
        with self._transaction() as connection:
            return queue.may_send(connection, part_id, quota, at)

    def ready_batches(
        self, batch_ids: Sequence[str], quota_of: Callable[[str], Quota], at: datetime
    ) -> dict[str, bool]:
        """Return the batches that have parts to send, and whether one of them may be sent now; keep their places."""
        with self._transaction() as connection:
            return queue.ready(connection, batch_ids, quota_of, at)

    def refuse_create(self, part_id: int, intent_at: datetime, quota: Quota, refusal: Refusal, at: datetime) -> None:
        """Note that the provider refused, for now, the create whose intent was recorded at this time."""
        with self._transaction() as connection:
            keys = queue.refuse_create(connection, part_id, intent_at, quota, refusal, at)
            # A part that is to stop, or never fits, has ended with that.
            parts.update_batches(connection, keys, at)

    def divide_part(
        self, batch: Batch, part: Part, new: Sequence[NewPart], moved: Iterable[Sequence[entries.Moved]], at: datetime
    ) -> bool:
        """Let smaller parts take the place of one that is too large; False: it is not there to be divided any more."""
        with self._transaction() as connection:
            parts.lock(connection, batch.id)
            if not parts.retire(connection, batch, part, at):
                return False
            for each in new:
                parts.add(connection, batch.id, each)
            for chunk in moved:
                entries.divide(connection, batch.id, part.number, chunk)
            return True

    def _update_batch(self, batch_id: str, **values: object) -> None:
        with self._transaction() as connection:
            connection.execute(update(batch_table).where(batch_table.c.batch_id == batch_id).values(**values))
