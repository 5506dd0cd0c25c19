"""Money that is reserved for batches before they are sent, and what tasks' batches took before."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from airflow_raif.domain.batch import Batch, Claim
from airflow_raif.domain.money import History, day_of
from airflow_raif.store.records import USAGE_COLUMNS, money_of
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import budget, part

_batch = batch_table.c
_part = part.c
#: What a batch takes of its day's budget: what it was expected to cost until all of that is known.
_taken = case(
    (_batch.results_fetched_at.is_not(None), func.coalesce(_batch.batch_cost, 0)),
    (func.coalesce(_batch.batch_cost, 0) > _batch.estimated_cost, _batch.batch_cost),
    else_=_batch.estimated_cost,
)


def reserve(connection: Connection, batch: Batch, cost: int, day_limit: int | None, at: datetime) -> int | None:
    """Reserve what a batch will probably cost of the budget that its connection has this day.

    :param day_limit: ``None``: it is only noted.
    :return: what others took of it, if too little is left, and nothing was reserved; otherwise ``None``.
    """
    if day_limit is not None:
        start, end = day_of(at)
        _lock_day(connection, batch.conn_id, f"{start:%Y-%m-%d}")
        where = (
            _batch.conn_id == batch.conn_id, _batch.reserved_at >= start, _batch.reserved_at < end,
            _batch.id != batch.id,
        )  # fmt: skip
        taken = int(connection.scalar(select(func.sum(_taken)).where(*where)) or 0)
        if taken + cost > day_limit:
            return taken
    statement = update(batch_table).where(_batch.id == batch.id)
    connection.execute(statement.values(estimated_cost=cost, reserved_at=at))
    return None


def _lock_day(connection: Connection, conn_id: str, day: str) -> None:
    """Let nobody else reserve of a day's budget until the transaction ends."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(make(budget).values(conn_id=conn_id, day=day).on_conflict_do_nothing())
    connection.execute(select(budget).where(budget.c.conn_id == conn_id, budget.c.day == day).with_for_update())


def history(connection: Connection, batch: Batch, claim: Claim, model: str) -> History | None:
    """Return what the last batch of a task took for a model, on the same connection."""
    mine = (
        _batch.dag_id == claim.dag_id, _batch.task_id == claim.task_id, _batch.conn_id == batch.conn_id,
        _batch.endpoint == batch.endpoint, _batch.batch_id != batch.batch_id,
    )  # fmt: skip
    is_billed = (_part.model == model, _part.round == 0, _part.input_tokens > 0, _part.results_fetched_at.is_not(None))
    last = (
        select(func.max(_batch.id)).join(part, _part.batch_key == _batch.id).where(*mine, *is_billed).scalar_subquery()
    )
    sums = [func.sum(part.c[name]).label(name) for name in USAGE_COLUMNS]
    statement = select(
        func.sum(_part.request_count).label("requests"), func.sum(_part.request_bytes).label("request_bytes"), *sums
    ).where(_part.batch_key == last, *is_billed)
    row = dict(connection.execute(statement).mappings().one())
    if not row["requests"]:
        return None
    values: dict[str, Any] = {name: int(value or 0) for name, value in row.items()}
    no_cost = {"batch_cost": None, "standard_cost": None, "cost_is_estimated": False}
    return History(values["requests"], values["request_bytes"], money_of(values | no_cost)[0])
