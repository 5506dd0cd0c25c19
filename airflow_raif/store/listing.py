"""Lists of batches as pages show them: who may see which, filters, search, order and pages, all in SQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    false,
    func,
    or_,
    select,
    true,
    tuple_,
)

from airflow_raif.domain.status import TERMINAL, BatchStatus
from airflow_raif.store.tables import among
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import part as part_table

_batch, _part = batch_table.c, part_table.c
Order = Literal["created", "cost", "rows", "failed"]
_ORDERS: dict[str, ColumnElement[Any]] = {
    "created": _batch.id,
    "cost": func.coalesce(_batch.batch_cost, -1),
    "rows": _batch.request_count,
    "failed": _batch.failed_count,
}
#: Ended batches that tell how long others take.
_SAMPLE = 500


class Visible(msgspec.Struct, frozen=True):
    """Which batches somebody may see: those of Dags, and of connections those that no Dag made; ``None``: all."""

    dag_ids: frozenset[str] | None = frozenset()
    conn_ids: frozenset[str] | None = frozenset()


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which batches to list; what is empty or ``None`` narrows nothing."""

    statuses: tuple[BatchStatus, ...] = ()
    provider: str | None = None
    model: str | None = None
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    #: Only batches with failed rows.
    has_failures: bool = False
    #: Found in the names of Dag, run, task and model, in the error, and as an id or its beginning.
    text: str | None = None


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a page of a list ends or begins: what a batch is ordered by, and its key."""

    value: int
    key: int


class PageWanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which page of a list, in which order."""

    order: Order = "created"
    is_ascending: bool = False
    #: The page after, or before, this place; neither: the first.
    after: Cursor | None = None
    before: Cursor | None = None
    size: int = 50


class ListedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as a list shows it."""

    id: int
    batch_id: str
    status: BatchStatus
    provider: str
    conn_id: str
    model: str
    dag_id: str | None
    run_id: str | None
    task_id: str | None
    map_index: int | None
    request_count: int
    completed_count: int
    failed_count: int
    batch_cost: int | None
    standard_cost: int | None
    cost_is_estimated: bool
    #: What it was expected to cost before it was sent.
    estimated_cost: int | None
    error: str | None
    created_at: datetime
    submitted_at: datetime | None
    ended_at: datetime | None
    results_fetched_at: datetime | None
    applied_at: datetime | None
    part_count: int = 0
    #: Rows in its parts so far, those of rounds left out; its own count is there once its input is read to the end.
    spooled_count: int = 0
    #: Rows that the provider's own counters say are done, in parts whose results were not fetched; not exact.
    told_count: int = 0
    #: When the provider gives up the first of its running parts.
    expires_at: datetime | None = None
    is_canceling: bool = False


class BatchPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of batches, and where its neighbours begin; ``None``: there are none."""

    batches: list[ListedBatch]
    before: Cursor | None
    after: Cursor | None


class BatchTally(msgspec.Struct, frozen=True, kw_only=True):
    """Batches of one provider and status, added up."""

    provider: str
    status: BatchStatus
    batch_count: int
    request_count: int
    completed_count: int
    failed_count: int
    oldest_at: datetime


_OF_BATCH = [_batch[name] for name in ListedBatch.__struct_fields__ if name in _batch]


def seen_by(visible: Visible) -> ColumnElement[bool]:
    """Return what holds for the batches that somebody may see."""
    by_dag = _among(_batch.dag_id, visible.dag_ids) if visible.dag_ids is not None else _batch.dag_id.is_not(None)
    by_hand = true() if visible.conn_ids is None else _among(_batch.conn_id, visible.conn_ids)
    return or_(by_dag, and_(_batch.dag_id.is_(None), by_hand))


def _among(column: Any, values: Collection[str]) -> ColumnElement[bool]:
    return among(column, sorted(values)) if values else false()


def _where(visible: Visible, wanted: Wanted) -> list[ColumnElement[bool]]:
    where = [seen_by(visible)] if visible != Visible(None, None) else []
    if wanted.statuses:
        where.append(_batch.status.in_([status.value for status in wanted.statuses]))
    names = ("provider", "model", "dag_id", "run_id", "task_id", "map_index")
    where += [_batch[name] == value for name in names if (value := getattr(wanted, name)) is not None]
    if wanted.created_from is not None:
        where.append(_batch.created_at >= wanted.created_from)
    if wanted.created_before is not None:
        where.append(_batch.created_at < wanted.created_before)
    if wanted.has_failures:
        where.append(_batch.failed_count > 0)
    if wanted.text:
        where.append(_holds(wanted.text))
    return where


def _holds(text: str) -> ColumnElement[bool]:
    # One text of all, since to change the case of each takes longest.
    names = ("dag_id", "run_id", "task_id", "model", "error")
    all_names: ColumnElement[str] = func.coalesce(_batch[names[0]], "")
    for name in names[1:]:
        all_names = all_names + "\n" + func.coalesce(_batch[name], "")
    parts = select(_part.batch_key).where(_part.provider_batch_id == text)
    return or_(
        all_names.icontains(text, autoescape=True),
        _batch.batch_id.startswith(text.lower(), autoescape=True),
        _batch.id.in_(parts),
    )


def page(connection: Connection, visible: Visible, wanted: Wanted, at: PageWanted) -> BatchPage:
    """Return a page of the batches that are wanted."""
    value, place = _ORDERS[at.order], at.before or at.after
    is_upwards = at.is_ascending is (at.before is None)
    statement = select(*_OF_BATCH, value.label("value")).where(*_where(visible, wanted))
    if place is not None:
        here, there = tuple_(value, _batch.id), tuple_(place.value, place.key)
        statement = statement.where(here > there if is_upwards else here < there)
    order = (value, _batch.id) if is_upwards else (value.desc(), _batch.id.desc())
    rows = connection.execute(statement.order_by(*order).limit(at.size + 1)).mappings().all()
    is_more, rows = len(rows) > at.size, rows[: at.size]
    if at.before is not None:
        rows = rows[::-1]
    told = _told(connection, [row["id"] for row in rows])
    first, last = (Cursor(row["value"], row["id"]) for row in (rows[0], rows[-1])) if rows else (None, None)
    return BatchPage(
        batches=[_listed(row, told) for row in rows],
        before=first if (is_more if at.before is not None else at.after is not None) else None,
        after=last if (at.before is not None or is_more) else None,
    )


def _listed(row: Any, told: dict[int, dict[str, Any]]) -> ListedBatch:
    values = {name: row[name] for name in row if name != "value"} | told.get(row["id"], {})
    return ListedBatch(**{**values, "status": BatchStatus(row["status"])})


def _told(connection: Connection, keys: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Sum up the parts of batches."""
    is_left = _part.results_fetched_at.is_(None)
    is_running = _part.status.not_in([status.value for status in TERMINAL])
    done = sum(func.coalesce(_part.counts[name].as_integer(), 0) for name in ("completed", "failed"))
    is_canceling = func.lower(func.coalesce(_part.raw_status, "")).contains("cancel")
    statement = (
        select(
            _part.batch_key,
            func.count().label("part_count"),
            func.sum(case((_part.round == 0, _part.request_count), else_=0)).label("spooled_count"),
            func.sum(case((is_left, done), else_=0)).label("told_count"),
            func.min(case((is_running, _part.expires_at))).label("expires_at"),
            # Of all that is left of it, as the batch itself says.
            func.min(case((is_running, case((is_canceling, 1), else_=0)))).label("is_canceling"),
        )
        .where(among(_part.batch_key, keys))
        .group_by(_part.batch_key)
    )
    rows = connection.execute(statement).mappings() if keys else ()
    return {
        row["batch_key"]: {
            "part_count": row["part_count"],
            "spooled_count": int(row["spooled_count"]),
            "told_count": int(row["told_count"]),
            "expires_at": row["expires_at"],
            "is_canceling": bool(row["is_canceling"]),
        }
        for row in rows
    }


def count_by_status(connection: Connection, visible: Visible, wanted: Wanted) -> dict[BatchStatus, int]:
    """Count the batches that are wanted, whatever their status."""
    wanted = msgspec.structs.replace(wanted, statuses=())
    statement = select(_batch.status, func.count()).where(*_where(visible, wanted)).group_by(_batch.status)
    return {BatchStatus(status): count for status, count in connection.execute(statement)}


def tally(connection: Connection, visible: Visible) -> list[BatchTally]:
    """Add batches and their rows up by provider and status."""
    keys, names = (_batch.provider, _batch.status), ("request_count", "completed_count", "failed_count")
    statement = (
        select(
            *keys,
            func.count().label("batch_count"),
            *(func.sum(_batch[name]).label(name) for name in names),
            func.min(_batch.created_at).label("oldest_at"),
        )
        .where(*_where(visible, Wanted()))
        .group_by(*keys)
        .order_by(*keys)
    )
    return [
        BatchTally(**{**row, "status": BatchStatus(row["status"])} | {name: int(row[name]) for name in names})
        for row in connection.execute(statement).mappings()
    ]


def owners(connection: Connection) -> tuple[set[str], set[str]]:
    """Return the Dags that have batches, and the connections of batches that no Dag made."""
    # An index is asked for one name after the other, since a batch more costs nothing then.
    names = select(func.min(_batch.dag_id).label("name")).cte("names", recursive=True)
    following = select(func.min(_batch.dag_id)).where(_batch.dag_id > names.c.name).scalar_subquery()
    names = names.union_all(select(following).where(names.c.name.is_not(None)))
    dag_ids = connection.scalars(select(names.c.name).where(names.c.name.is_not(None))).all()
    conn_ids = connection.scalars(select(_batch.conn_id).where(_batch.dag_id.is_(None)).distinct()).all()
    return set(dag_ids), set(conn_ids)


def usual_seconds(connection: Connection) -> dict[tuple[str, str], float]:
    """Return how long the provider took for batches of a provider and model: the median of those that ended last."""
    names = ("provider", "model", "submitted_at", "ended_at")
    where = (_batch.status == BatchStatus.ENDED.value, _batch.submitted_at.is_not(None))
    statement = select(*(_batch[name] for name in names)).where(*where).order_by(_batch.id.desc()).limit(_SAMPLE)
    found: dict[tuple[str, str], list[float]] = {}
    for provider, model, submitted_at, ended_at in connection.execute(statement):
        if ended_at is not None:
            found.setdefault((provider, model), []).append((ended_at - submitted_at).total_seconds())
    return {name: sorted(seconds)[len(seconds) // 2] for name, seconds in found.items()}
