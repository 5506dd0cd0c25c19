"""What batches cost: by day, Dag, model and provider, beside the list price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from airflow_raif.adapters.registry import ADAPTERS
from airflow_raif.domain.usage import Cost, Usage
from airflow_raif.plugin.access import StoreDep, ViewerDep
from airflow_raif.plugin.asked import CostListing
from airflow_raif.plugin.render import page
from airflow_raif.store import CostGroup, CostRow

router = APIRouter()

#: Rows of a table; the others are summed up in a last one.
MOST_ROWS = 25
#: The most days that a chart draws one by one.
MOST_DAYS = 400
_TABLES = {CostGroup.DAG: "By Dag", CostGroup.MODEL: "By model", CostGroup.PROVIDER: "By provider"}


@dataclass(frozen=True)
class Column:
    """A day of the chart: where it stands, and its bars in percent of the highest."""

    day: date
    row: CostRow | None
    start: float
    width: float
    standard: float
    batch: float


@dataclass(frozen=True)
class Table:
    """Costs by something, the dearest first."""

    group: CostGroup
    title: str
    rows: list[CostRow]
    #: The highest amount in it, of which the bars are parts.
    highest: int


@router.get("/cost")
def show_costs(
    request: Request, viewer: ViewerDep, store: StoreDep, asked: Annotated[CostListing, Query()]
) -> HTMLResponse:
    """Show costs of the batches created in some days, the last thirty unless others are asked for."""
    since, until = asked.days()
    wanted = asked.wanted(viewer.sees(store))
    found = store.sum_costs_by_each([CostGroup.DAY, *_TABLES], wanted)
    by_day = found[CostGroup.DAY]
    return page(
        request,
        "cost.html",
        asked=asked,
        since=since,
        until=until,
        total=_sum(by_day, {}),
        days=by_day[::-1],
        columns=_columns(by_day, since, until),
        highest=_highest(by_day),
        tables=[_table(group, title, found[group]) for group, title in _TABLES.items()],
        providers=sorted(ADAPTERS),
    )


def _highest(rows: Sequence[CostRow]) -> int:
    return max((max(row.cost.standard or 0, row.cost.batch or 0) for row in rows), default=0)


def _columns(rows: Sequence[CostRow], since: date, until: date) -> list[Column]:
    """Lay the days out beside each other, those without batches too."""
    by_day, highest = {row.group["day"]: row for row in rows}, _highest(rows) or 1
    count = (until - since).days + 1
    if count > MOST_DAYS:
        return []
    width, found = 100 / count, []
    for number in range(count):
        day = since + timedelta(days=number)
        row = by_day.get(day.isoformat())
        standard, batch = (row.cost.standard or 0, row.cost.batch or 0) if row else (0, 0)
        found.append(
            Column(
                day, row, round(number * width, 3), round(width * 0.8, 3), round(100 * standard / highest, 3),
                round(100 * batch / highest, 3),
            )
        )  # fmt: skip
    return found


def _table(group: CostGroup, title: str, rows: Sequence[CostRow]) -> Table:
    ordered = sorted(rows, key=lambda row: -(row.cost.batch or 0))
    shown, others = ordered[:MOST_ROWS], ordered[MOST_ROWS:]
    if others:
        shown.append(_sum(others, {group.value: f"{len(others)} others"}))
    return Table(group, title, shown, _highest(shown))


def _sum(rows: Sequence[CostRow], group: dict[str, str | None]) -> CostRow:
    """Sum rows up; a batch that is in several of them counts in each."""
    batch = [row.cost.batch for row in rows if row.cost.batch is not None]
    standard = [row.cost.standard for row in rows if row.cost.standard is not None]
    return CostRow(
        group=group,
        batch_count=sum(row.batch_count for row in rows),
        request_count=sum(row.request_count for row in rows),
        usage=sum((row.usage for row in rows), Usage()),
        cost=Cost(
            sum(batch) if batch else None,
            sum(standard) if standard else None,
            any(row.cost.is_estimated for row in rows),
        ),
        unpriced_count=sum(row.unpriced_count for row in rows),
    )
