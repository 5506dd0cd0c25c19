"""A batch on its way into the spool: one attempt at a time may go on with it, and none after it was given up."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, func, select, update

from airflow_raif.domain.batch import Batch
from airflow_raif.store import batches, parts
from airflow_raif.store.records import AttemptLostError
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import entry as entry_table
from airflow_raif.store.tables import part as part_table

_batch = batch_table.c


def take_up(connection: Connection, batch: Batch) -> None:
    """Let the caller alone go on with a batch; entries whose part was not written are forgotten.

    :raises AttemptLostError: another attempt was faster.
    """
    check(connection, batch)
    connection.execute(update(batch_table).where(_batch.id == batch.id).values(spool_attempt=batch.spool_attempt + 1))
    _forget_loose_entries(connection, batch.id)


def check(connection: Connection, batch: Batch) -> None:
    """See to it that the batch is still the attempt's own, and stays so until the transaction ends.

    :raises AttemptLostError: it is not.
    """
    statement = select(_batch.id).where(
        _batch.id == batch.id,
        _batch.spool_attempt == batch.spool_attempt,
        _batch.spooled_at.is_(None),
    )
    if connection.scalar(statement.with_for_update()) is None:
        raise AttemptLostError(
            f"batch {batch.batch_id} was canceled, or another attempt of its task goes on with it; this attempt stops"
        )


def finish(connection: Connection, batch: Batch, fingerprint: str, request_count: int, at: datetime) -> None:
    """Note that every row is in the spool, and what that means for the batch's status."""
    check(connection, batch)
    values = {"fingerprint": fingerprint, "request_count": request_count, "spooled_at": at}
    connection.execute(update(batch_table).where(_batch.id == batch.id).values(**values))
    parts.update_batches(connection, {batch.id}, at)


def give_up(connection: Connection, batch_id: str, at: datetime) -> None:
    """Make a batch whole as it is, without what was not read or not written, unless it is whole."""
    key = _hold(connection, batch_id)
    if key is None:
        return
    _forget_loose_entries(connection, key)
    count = connection.scalar(select(func.count()).where(entry_table.c.batch_key == key))
    connection.execute(
        update(batch_table)
        .where(_batch.id == key)
        .values(request_count=count, spooled_at=at, spool_attempt=_batch.spool_attempt + 1)
    )
    parts.update_batches(connection, {key}, at)


def discard(connection: Connection, batch_id: str) -> bool:
    """Delete a batch that is not whole and of which nothing was sent; return whether there was one."""
    key = _hold(connection, batch_id)
    if key is None or batches.get(connection, batch_id).is_sent:
        return False
    for table in (entry_table, part_table):
        connection.execute(delete(table).where(table.c.batch_key == key))
    connection.execute(delete(batch_table).where(_batch.id == key))
    return True


def _hold(connection: Connection, batch_id: str) -> int | None:
    """Keep a batch that is not whole, and its parts, from everybody else until the transaction ends; return its key.

    Nobody adds a part or begins to send one meanwhile. Parts come first, as everywhere.
    """
    mine = select(_batch.id).where(_batch.batch_id == batch_id, _batch.spooled_at.is_(None))
    held = select(part_table.c.id).where(part_table.c.batch_key.in_(mine)).order_by(part_table.c.id)
    connection.execute(held.with_for_update())
    return connection.scalar(mine.with_for_update())


def _forget_loose_entries(connection: Connection, batch_key: int) -> None:
    written = select(part_table.c.number).where(part_table.c.batch_key == batch_key)
    connection.execute(
        delete(entry_table).where(
            entry_table.c.batch_key == batch_key, entry_table.c.part_number.not_in(written.scalar_subquery())
        )
    )
