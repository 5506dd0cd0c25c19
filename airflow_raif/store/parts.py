"""What a provider says of parts, written down: never backwards, and with what follows for their batches."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from airflow_raif.domain.batch import Batch, Part, PartState
from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.domain.status import BatchStatus, can_move, combine
from airflow_raif.store.records import NewPart, kept_text, part_of
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import part as part_table


def add(connection: Connection, batch_key: int, new: NewPart) -> Part:
    """Write a new part."""
    values = msgspec.structs.asdict(new) | {"batch_key": batch_key, "refs": {}, "status": BatchStatus.PENDING.value}
    return part_of(connection.execute(insert(part_table).values(values).returning(part_table)).mappings().one())


def reopen(connection: Connection, batch: Batch) -> bool:
    """Let a batch whose results were all fetched run again; only a round moves a status backwards.

    :return: False: it was reopened, got a part or lost its spool since ``batch`` was read.
    """
    parts = select(func.count()).where(part_table.c.batch_key == batch.id).scalar_subquery()
    statement = (
        update(batch_table)
        .where(
            batch_table.c.id == batch.id,
            batch_table.c.results_fetched_at.is_not(None),
            batch_table.c.spool_deleted_at.is_(None),
            parts == len(batch.parts),
        )
        .values(
            status=BatchStatus.IN_PROGRESS.value,
            results_fetched_at=None,
            applied_at=None,
            ended_at=None,
            files_deleted_at=None,
        )
    )
    return bool(connection.execute(statement).rowcount)


def submitted(connection: Connection, part_id: int, state: PartState, at: datetime) -> None:
    """Write a part's id at the provider, once, and what it said along with it."""
    status = state.status if state.status is not BatchStatus.PENDING else BatchStatus.SUBMITTED
    values = _said(state, at) | {
        "provider_batch_id": state.provider_batch_id,
        "status": status.value,
        "submitted_at": at,
        "ended_at": at if status.is_terminal else None,
    }
    where = (part_table.c.id == part_id, part_table.c.provider_batch_id.is_(None))
    if not connection.execute(update(part_table).where(*where).values(**values)).rowcount:
        known = connection.scalar(select(part_table.c.provider_batch_id).where(part_table.c.id == part_id))
        if known == state.provider_batch_id:
            # A task and a sweep that looked up the same lost create found the same.
            return
        raise InvalidBatchError(
            f"part {part_id} was submitted by another process; {state.provider_batch_id} was created as well and is not"
            " used: cancel it at the provider"
        )
    key = connection.scalar(select(part_table.c.batch_key).where(part_table.c.id == part_id))
    connection.execute(
        update(batch_table).where(batch_table.c.id == key, batch_table.c.submitted_at.is_(None)).values(submitted_at=at)
    )
    _update_batches(connection, {key}, at)


def record_states(connection: Connection, states: Mapping[int, PartState], at: datetime) -> list[str]:
    """Write the states of parts that are not terminal; return the batches that are terminal now."""
    rows = connection.execute(
        select(part_table.c.id, part_table.c.batch_key, part_table.c.status)
        .where(part_table.c.id.in_(states))
        .order_by(part_table.c.id)
        .with_for_update()
    ).all()
    for row in rows:
        state = states[row.id]
        current = BatchStatus(row.status)
        if current.is_terminal:
            continue
        values = _said(state, at)
        if can_move(current, state.status):
            values["status"] = state.status.value
            if state.status.is_terminal:
                values["ended_at"] = at
        connection.execute(update(part_table).where(part_table.c.id == row.id).values(**values))
    return _update_batches(connection, {row.batch_key for row in rows}, at)


def _said(state: PartState, at: datetime) -> dict[str, Any]:
    """Return what a state says; what it is silent about stays as it is."""
    values: dict[str, Any] = {"raw_status": state.raw_status, "polled_at": at}
    if state.counts is not None:
        values["counts"] = msgspec.to_builtins(state.counts)
    if state.refs:
        values["refs"] = state.refs
    if state.error:
        values["error"] = kept_text(state.error)
    if state.error_code:
        values["error_code"] = state.error_code[:100]
    if state.expires_at is not None:
        values["expires_at"] = state.expires_at
    return values


def _update_batches(connection: Connection, keys: set[Any], at: datetime) -> list[str]:
    rows = connection.execute(
        select(part_table.c.batch_key, part_table.c.status, part_table.c.error).where(part_table.c.batch_key.in_(keys))
    ).all()
    terminal: list[str] = []
    for key in keys:
        mine = [row for row in rows if row.batch_key == key]
        status = combine(BatchStatus(row.status) for row in mine)
        values: dict[str, Any] = {"status": status.value}
        if status.is_terminal:
            values |= {"ended_at": at, "error": next((row.error for row in mine if row.error), None)}
        where = (batch_table.c.id == key, batch_table.c.ended_at.is_(None))
        connection.execute(update(batch_table).where(*where).values(**values))
        if status.is_terminal:
            terminal += connection.scalars(select(batch_table.c.batch_id).where(batch_table.c.id == key))
    return terminal
