"""Queries on raif_batch: a batch always comes with its parts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, Connection, func, insert, select, update

from airflow_raif.domain.batch import Batch, Claim, Part
from airflow_raif.domain.status import BatchStatus
from airflow_raif.store import entries
from airflow_raif.store.records import BatchMissingError, NewBatch, batch_of, chunks, part_of
from airflow_raif.store.tables import among
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import part as part_table


def add(connection: Connection, new: NewBatch) -> Batch:
    """Write a batch without rows."""
    claim = new.claim
    values = {
        "batch_id": new.batch_id, "provider": new.provider, "conn_id": new.conn_id, "model": new.model,
        "endpoint": new.endpoint, "status": BatchStatus.PENDING.value, "spool_uri": new.spool_uri,
        "output_schema": new.output_schema, "metadata": new.metadata, "created_at": new.created_at,
        "round_policy": msgspec.to_builtins(new.round_policy), "answer_scope": new.answer_scope,
        "budget": msgspec.to_builtins(new.budget),
        "dag_id": claim and claim.dag_id, "run_id": claim and claim.run_id, "task_id": claim and claim.task_id,
        "map_index": claim and claim.map_index,
    }  # fmt: skip
    connection.execute(insert(batch_table).values(values))
    return get(connection, new.batch_id)


def find(connection: Connection, *where: ColumnElement[bool]) -> list[Batch]:
    """Return the batches for which all of this holds, oldest first."""
    statement = select(batch_table).where(*where).order_by(batch_table.c.id)
    rows = connection.execute(statement).mappings().all()
    keys = select(batch_table.c.id).where(*where)
    statement = select(part_table).where(part_table.c.batch_key.in_(keys)).order_by(part_table.c.number)
    parts: dict[int, list[Part]] = {row["id"]: [] for row in rows}
    for each in connection.execute(statement).mappings():
        # A batch that another process made since the first query is not ours to return.
        if each["batch_key"] in parts:
            parts[each["batch_key"]].append(part_of(each))
    return [batch_of(row, parts[row["id"]]) for row in rows]


def get(connection: Connection, batch_id: str) -> Batch:
    """Return a batch.

    :raises BatchMissingError: there is none of this id.
    """
    found = find(connection, batch_table.c.batch_id == batch_id)
    if not found:
        raise BatchMissingError(
            f"the store knows no batch {batch_id!r}; was it made with another store? See [raif] sql_alchemy_conn"
        )
    return found[0]


def find_by_claim(connection: Connection, claim: Claim) -> Batch | None:
    """Return the batch that a task instance holds."""
    columns = batch_table.c
    found = find(
        connection,
        columns.dag_id == claim.dag_id,
        columns.run_id == claim.run_id,
        columns.task_id == claim.task_id,
        columns.map_index == claim.map_index,
        columns.claim_released_at.is_(None),
    )
    return found[0] if found else None


def mark_fetched(connection: Connection, batch: Batch, at: datetime) -> bool:
    """Sum up usage and cost, and stamp once that every result was fetched, if that is so; return whether it was."""
    unfetched = select(part_table.c.id).where(
        part_table.c.batch_key == batch.id, part_table.c.results_fetched_at.is_(None)
    )
    # Who fetches its last part meanwhile has to wait for this: the stamp is to see no part that the sums do not.
    connection.execute(select(batch_table.c.id).where(batch_table.c.id == batch.id).with_for_update())
    stamped = connection.execute(
        update(batch_table)
        .where(
            batch_table.c.id == batch.id,
            batch_table.c.spooled_at.is_not(None),
            batch_table.c.results_fetched_at.is_(None),
            ~unfetched.exists(),
        )
        .values(**entries.batch_sums(connection, batch.id), results_fetched_at=at)
    )
    return bool(stamped.rowcount)


def is_fetched_since(connection: Connection, batch: Batch) -> bool:
    """Whether no round was opened since a batch was read, all of whose results were fetched."""
    columns = batch_table.c
    where = (columns.id == batch.id, columns.results_fetched_at == batch.results_fetched_at)
    return connection.scalar(select(columns.id).where(*where)) is not None


def mark_applied(connection: Connection, batch: Batch, result_uri: str, at: datetime) -> bool:
    """Note where the results are, and when they came there first; False: they are not those any more."""
    columns = batch_table.c
    where = (columns.id == batch.id, columns.results_fetched_at == batch.results_fetched_at)
    values = {"result_uri": result_uri, "applied_at": func.coalesce(columns.applied_at, at)}
    return bool(connection.execute(update(batch_table).where(*where).values(values)).rowcount)


def statuses(connection: Connection, batch_ids: Sequence[str]) -> tuple[dict[str, BatchStatus], set[str]]:
    """Return the status of each batch, and those that were ever held back."""
    columns, found, queued = batch_table.c, dict[str, BatchStatus](), set[str]()
    for chunk in chunks(batch_ids):
        statement = select(columns.batch_id, columns.status, columns.queued_at).where(among(columns.batch_id, chunk))
        for batch_id, status, queued_at in connection.execute(statement):
            found[batch_id] = BatchStatus(status)
            if queued_at is not None:
                queued.add(batch_id)
    return found, queued
