"""What commands and pages ask of the store: lists of batches, and whose something is."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import Connection, func, select

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.status import BatchStatus
from airflow_raif.store import batches
from airflow_raif.store.records import OpenCreate
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import entry as entry_table
from airflow_raif.store.tables import part as part_table


class BatchFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which batches to list; ``None``: all of them."""

    status: BatchStatus | None = None
    provider: str | None = None
    dag_id: str | None = None


def newest(connection: Connection, wanted: BatchFilter, limit: int) -> list[Batch]:
    """Return the batches that are wanted, newest first."""
    statement = select(batch_table.c.id).order_by(batch_table.c.id.desc()).limit(limit)
    for name, value in msgspec.structs.asdict(wanted).items():
        if value is not None:
            statement = statement.where(batch_table.c[name] == str(value))
    keys = connection.scalars(statement).all()
    return batches.find(connection, batch_table.c.id.in_(keys))[::-1]


def providers_by_connection(connection: Connection, since: datetime) -> dict[str, str]:
    """Return the connections that batches were made with since a time, and a provider of each."""
    columns = (batch_table.c.conn_id, func.max(batch_table.c.provider).label("provider"))
    statement = select(*columns).where(batch_table.c.created_at >= since).group_by(batch_table.c.conn_id)
    return {row.conn_id: row.provider for row in connection.execute(statement)}


def holder(connection: Connection, provider_batch_id: str) -> tuple[str, int] | None:
    """Return batch id and number of the part that has an id at the provider."""
    row = connection.execute(
        select(batch_table.c.batch_id, part_table.c.number)
        .join(part_table, part_table.c.batch_key == batch_table.c.id)
        .where(part_table.c.provider_batch_id == provider_batch_id)
    ).first()
    return None if row is None else (row.batch_id, row.number)


def part_number(connection: Connection, batch_key: int, index: int) -> int | None:
    """Return the number of the part that an entry is in; ``None``: the batch has no such entry."""
    where = (entry_table.c.batch_key == batch_key, entry_table.c.idx == index)
    return connection.scalar(select(entry_table.c.part_number).where(*where))


def open_creates(connection: Connection, provider: str, request_count: int) -> list[OpenCreate]:
    """Return the parts of a size whose create has no reply yet."""
    names = ("number", "intent_at", "input_ref", "request_bytes")
    statement = (
        select(batch_table.c.batch_id, *(part_table.c[name] for name in names))
        .join(part_table, part_table.c.batch_key == batch_table.c.id)
        .where(
            batch_table.c.provider == provider,
            part_table.c.request_count == request_count,
            part_table.c.status == BatchStatus.PENDING.value,
            part_table.c.intent_at.is_not(None),
            part_table.c.provider_batch_id.is_(None),
            ~part_table.c.is_synchronous,
        )
        .order_by(part_table.c.id)
    )
    return [OpenCreate(*row) for row in connection.execute(statement)]
