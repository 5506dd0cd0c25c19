"""What a sweep asks of the store: batches that are not done, and what of old ones may be deleted."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import Connection, insert, or_, select, update

from airflow_raif.domain.batch import Batch
from airflow_raif.store import answers, batches
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import part as part_table
from airflow_raif.store.tables import queue as queue_table

_batch = batch_table.c
#: How long a deletion that was noted is done again, since a worker may have died in the middle of it.
_DELETED_AGAIN = timedelta(days=1)
#: Whether something of a batch is at the provider, or may be.
is_sent = (
    select(part_table.c.id)
    .where(
        part_table.c.batch_key == _batch.id,
        or_(part_table.c.provider_batch_id.is_not(None), part_table.c.intent_at.is_not(None)),
    )
    .exists()
)


def check_write(connection: Connection) -> None:
    """Write a row and take it back."""
    with connection.begin_nested() as written:
        connection.execute(insert(queue_table).values(conn_id=uuid4().hex, model="", refusals=0))
        written.rollback()


def open_batches(connection: Connection) -> list[Batch]:
    """Return the batches of which something was sent, or may have been, and whose results were not all fetched."""
    return batches.find(connection, _batch.results_fetched_at.is_(None), is_sent)


def with_files(connection: Connection, applied_before: datetime) -> list[Batch]:
    """Return the batches that were fetched and applied before a time and may have files at the provider."""
    return batches.find(
        connection,
        _batch.results_fetched_at.is_not(None),
        _batch.applied_at < applied_before,
        _batch.files_deleted_at.is_(None),
    )


def with_spool(connection: Connection, applied_before: datetime, now: datetime) -> list[Batch]:
    """Return the batches that were fetched and applied before a time and may have spool files."""
    return batches.find(
        connection,
        _batch.results_fetched_at.is_not(None),
        _batch.applied_at < applied_before,
        or_(_batch.spool_deleted_at.is_(None), _batch.spool_deleted_at > now - _DELETED_AGAIN),
    )


def half_created(connection: Connection, created_before: datetime) -> list[Batch]:
    """Return the batches that were begun before a time and never spooled whole, and of which nothing was sent."""
    return batches.find(connection, _batch.spooled_at.is_(None), _batch.created_at < created_before, ~is_sent)


def mark_files_deleted(connection: Connection, batch_id: str, at: datetime) -> None:
    """Note that a batch has no files at the provider any more."""
    connection.execute(update(batch_table).where(_batch.batch_id == batch_id).values(files_deleted_at=at))


def mark_spool_deleted(connection: Connection, batch: Batch, at: datetime) -> bool:
    """Note that a batch's spool is about to be deleted; False: the batch was taken up again since it was read."""
    connection.execute(
        update(batch_table)
        .where(
            _batch.id == batch.id,
            _batch.results_fetched_at.is_not(None),
            _batch.applied_at == batch.applied_at,
            _batch.spool_deleted_at.is_(None),
        )
        .values(spool_deleted_at=at)
    )
    is_deleted = connection.scalar(select(_batch.spool_deleted_at).where(_batch.id == batch.id)) is not None
    if is_deleted:
        answers.forget(connection, batch.id)
    return is_deleted
