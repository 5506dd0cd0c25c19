"""What batches cost: sums over their parts by day, Dag, model, provider or connection, made in the database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, datetime
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, case, func, or_, select, true, tuple_

from airflow_raif.domain.usage import Cost, Usage
from airflow_raif.store.records import USAGE_COLUMNS
from airflow_raif.store.tables import among
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import part as part_table


class CostGroup(StrEnum):
    """What costs may be added up by."""

    #: The day in UTC on which the batch was created.
    DAY = "day"
    DAG = "dag"
    MODEL = "model"
    PROVIDER = "provider"
    CONNECTION = "connection"


class CostFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which batches to add up; ``None``: all of them."""

    #: Created from here on, and before this.
    since: datetime | None = None
    until: datetime | None = None
    #: Of these Dags; and of these connections those that no Dag made. ``None``: whatever it is.
    dag_ids: Collection[str] | None = None
    conn_ids: Collection[str] | None = None
    model: str | None = None
    provider: str | None = None


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the batches of one group used and cost."""

    #: By :class:`CostGroup`, as asked for; a day as ``2026-11-30``, ``None``: a batch that no task made.
    group: dict[str, str | None]
    #: A batch of several models counts once, in the group of its first part.
    batch_count: int
    request_count: int
    usage: Usage
    #: At batch price and at list price; what no price is known for is not in it.
    cost: Cost
    #: Requests that were answered, and for whose model no price is known.
    unpriced_count: int


def costs(connection: Connection, by: Sequence[CostGroup], wanted: CostFilter) -> list[CostRow]:
    """Add up, group by group in their order."""
    keys = [_column(connection, each).label(each.value) for each in by]
    rows = connection.execute(_sums(keys, wanted).group_by(*keys).order_by(*keys))
    return [_row(by, row._asdict()) for row in rows if row.request_count is not None]


def costs_by_each(
    connection: Connection, groups: Sequence[CostGroup], wanted: CostFilter
) -> dict[CostGroup, list[CostRow]]:
    """Add up by each of several things, in one reading where the database can do that."""
    if connection.dialect.name != "postgresql":
        return {group: costs(connection, [group], wanted) for group in groups}
    keys = {group: _column(connection, group).label(group.value) for group in groups}
    # It has a bit for each key, the last one lowest, which is 0 for the key that a row is by.
    by = func.grouping(*(key.element for key in keys.values())).label("by")
    bit_of = {(1 << len(groups)) - 1 - (1 << place): group for place, group in enumerate(reversed(groups))}
    sets = func.grouping_sets(*(tuple_(key.element) for key in keys.values()))
    found: dict[CostGroup, list[CostRow]] = {group: [] for group in groups}
    for row in connection.execute(_sums([*keys.values(), by], wanted).group_by(sets)):
        found[bit_of[row.by]].append(_row([bit_of[row.by]], row._asdict()))
    for group, rows in found.items():
        rows.sort(key=lambda row: row.group[group.value] or "")
    return found


def _sums(keys: Sequence[Any], wanted: CostFilter) -> Select[Any]:
    part = part_table.c
    is_unpriced = part.batch_cost.is_(None) & part.input_tokens.is_not(None)
    sums = [func.sum(part[name]).label(name) for name in (*USAGE_COLUMNS, "batch_cost", "standard_cost")]
    return (
        select(
            *keys,
            *sums,
            # To count different batches would take as long again as all the rest.
            func.sum(case((part.number == 0, 1), else_=0)).label("batch_count"),
            func.sum(case((part.round == 0, part.request_count), else_=0)).label("request_count"),
            func.sum(case((is_unpriced, part.request_count), else_=0)).label("unpriced_count"),
            func.max(case((part.cost_is_estimated, 1), else_=0)).label("is_estimated"),
        )
        .join(batch_table, part.batch_key == batch_table.c.id)
        .where(*_where(wanted))
    )


def _column(connection: Connection, group: CostGroup) -> ColumnElement[Any]:
    if group is CostGroup.DAY:
        created_at = batch_table.c.created_at
        is_server = connection.dialect.name == "postgresql"
        return func.date(func.timezone("UTC", created_at) if is_server else created_at)
    if group is CostGroup.MODEL:
        return part_table.c.model
    names = {CostGroup.DAG: "dag_id", CostGroup.PROVIDER: "provider", CostGroup.CONNECTION: "conn_id"}
    return batch_table.c[names[group]]


def _where(wanted: CostFilter) -> list[ColumnElement[bool]]:
    batch, where = batch_table.c, list[ColumnElement[bool]]()
    if wanted.since is not None:
        where.append(batch.created_at >= wanted.since)
    if wanted.until is not None:
        where.append(batch.created_at < wanted.until)
    if wanted.dag_ids is not None or wanted.conn_ids is not None:
        of_dag = true() if wanted.dag_ids is None else among(batch.dag_id, list(wanted.dag_ids))
        of_none = true() if wanted.conn_ids is None else among(batch.conn_id, list(wanted.conn_ids))
        where.append(or_(batch.dag_id.is_not(None) & of_dag, batch.dag_id.is_(None) & of_none))
    if wanted.provider is not None:
        where.append(batch.provider == wanted.provider)
    if wanted.model is not None:
        where.append(part_table.c.model == wanted.model)
    return where


def _row(by: Sequence[CostGroup], row: dict[str, Any]) -> CostRow:
    # PostgreSQL sums BIGINT to a decimal, and a sum over nothing known is null.
    known = {name: None if row[name] is None else int(row[name]) for name in ("batch_cost", "standard_cost")}
    return CostRow(
        group={each.value: _text(row[each.value]) for each in by},
        batch_count=int(row["batch_count"]),
        request_count=int(row["request_count"]),
        usage=Usage(*(int(row[name] or 0) for name in USAGE_COLUMNS)),
        cost=Cost(known["batch_cost"], known["standard_cost"], bool(row["is_estimated"])),
        unpriced_count=int(row["unpriced_count"]),
    )


def _text(value: date | str | None) -> str | None:
    return value.isoformat() if isinstance(value, date) else value
