"""Which batches were kept long enough, and deleting them: rows of a batch go a chunk at a time."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, or_, select, update

from airflow_raif.domain.batch import Batch
from airflow_raif.store import batches, parts
from airflow_raif.store.sweeps import is_sent
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import entry as entry_table
from airflow_raif.store.tables import part as part_table

_batch = batch_table.c


class OldBatches(msgspec.Struct, frozen=True, kw_only=True):
    """Which batches are old: what was done with them last was before a time."""

    before: datetime
    #: Also those whose results were fetched and went nowhere, paid answers among them.
    unapplied: bool = False


class OldCounts(msgspec.Struct, frozen=True):
    """How much would be deleted, and how much is kept for good reason."""

    batch_count: int
    request_count: int
    #: Old batches that have results which were not applied, or may have some at the provider.
    kept_count: int


def _is_unsent(old: OldBatches) -> ColumnElement[bool]:
    """Whether nothing of it was ever sent, so that nothing was paid."""
    return (_batch.created_at < old.before) & ~is_sent


def _is_old(old: OldBatches) -> ColumnElement[bool]:
    is_fetched, is_applied = _batch.results_fetched_at.is_not(None), _batch.applied_at < old.before
    ends = [_is_unsent(old), is_fetched & is_applied]
    if old.unapplied:
        ends.append(is_fetched & _batch.applied_at.is_(None) & (_batch.results_fetched_at < old.before))
    return or_(*ends)


def count(connection: Connection, old: OldBatches) -> OldCounts:
    """Count old batches, and their requests."""
    totals = select(func.count(), func.coalesce(func.sum(_batch.request_count), 0))
    number, requests = connection.execute(totals.where(_is_old(old))).one()
    created = connection.scalar(select(func.count()).where(_batch.created_at < old.before, is_sent, ~_is_through(old)))
    return OldCounts(int(number), int(requests), int(created or 0))


def _is_through(old: OldBatches) -> ColumnElement[bool]:
    is_fetched = _batch.results_fetched_at.is_not(None)
    return is_fetched if old.unapplied else is_fetched & _batch.applied_at.is_not(None)


def page(connection: Connection, old: OldBatches, after: int, size: int) -> list[Batch]:
    """Return the next old batches by their keys."""
    keys = select(_batch.id).where(_is_old(old), _batch.id > after).order_by(_batch.id).limit(size)
    return batches.find(connection, _batch.id.in_(connection.scalars(keys).all()))


def begin(connection: Connection, batch: Batch, at: datetime) -> bool:
    """Note that a batch is about to be deleted; False: it was taken up again since it was read."""
    where = [_batch.id == batch.id, _batch.status == batch.status.value]
    for column, value in ((_batch.results_fetched_at, batch.results_fetched_at), (_batch.applied_at, batch.applied_at)):
        where.append(column.is_(None) if value is None else column == value)
    values = {"spool_deleted_at": func.coalesce(_batch.spool_deleted_at, at)}
    if batch.is_sent:
        return bool(connection.execute(update(batch_table).where(*where).values(values)).rowcount)
    parts.lock(connection, batch.id)
    # An attempt that reads its input on loses the batch, and one that is about to send a part does not find it.
    statement = update(batch_table).where(*where, ~is_sent).values(**values, spool_attempt=_batch.spool_attempt + 1)
    if not connection.execute(statement).rowcount:
        return False
    connection.execute(delete(part_table).where(part_table.c.batch_key == batch.id))
    return True


def delete_entries(connection: Connection, batch: Batch, size: int) -> int:
    """Delete some entries of a batch; return how many there were."""
    mine = entry_table.c.batch_key == batch.id
    first = connection.scalar(select(func.min(entry_table.c.idx)).where(mine))
    if first is None:
        return 0
    return connection.execute(delete(entry_table).where(mine, entry_table.c.idx < first + size)).rowcount


def finish(connection: Connection, batch: Batch) -> None:
    """Delete a batch, and its parts."""
    connection.execute(delete(part_table).where(part_table.c.batch_key == batch.id))
    connection.execute(delete(batch_table).where(_batch.id == batch.id))
