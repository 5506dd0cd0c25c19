"""``airflow raif cost``: what batches cost, and what they would have cost at list price."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_raif.cli.command import command
from airflow_raif.cli.shown import fail, write_json, write_line, write_table

if TYPE_CHECKING:
    from airflow_raif.store import CostRow

#: What is added up where nothing is said.
DEFAULT_SPAN = timedelta(days=30)


@command
def cost(args: Any) -> None:
    """Add up what batches used and cost."""
    from airflow_raif.adapters.registry import canonical
    from airflow_raif.hooks.store import find_store
    from airflow_raif.store import CostFilter, CostGroup

    since = args.since or (args.until or datetime.now(UTC)) - DEFAULT_SPAN
    if args.until is not None and args.until <= since:
        fail(f"--until {args.until:%Y-%m-%d %H:%M} is not after --since {since:%Y-%m-%d %H:%M}.")
    wanted = CostFilter(
        since=since,
        until=args.until,
        dag_ids=[args.dag_id] if args.dag_id else None,
        conn_ids=[] if args.dag_id else None,
        provider=canonical(args.provider) if args.provider else None,
        model=args.model,
    )
    by = [CostGroup(each) for each in dict.fromkeys(args.by or ["day"])]
    store = find_store()
    rows, total = store.sum_costs(by, wanted), store.sum_costs([], wanted)
    if args.output == "json":
        write_json(
            {
                "since": since.isoformat(),
                "until": args.until and args.until.isoformat(),
                "by": [each.value for each in by],
                "rows": [_shape(row) for row in rows],
                "total": _shape(total[0]) if total else None,
            }
        )
        return
    _write(by, rows, total)


def _write(by: list[Any], rows: list[CostRow], total: list[CostRow]) -> None:
    money = ("cost (USD)", "list price (USD)", "saved")
    heads = ("batches", "requests", "tokens in", "cached", "tokens out", *money)
    lines = [(*map(_named, row.group.values()), *_cells(row)) for row in rows]
    lines += [("total", *[""] * (len(by) - 1), *_cells(row)) for row in total]
    write_table((*(each.value for each in by), *heads), lines, heads)
    if any(row.unpriced_count for row in total):
        write_line(
            f"+ {total[0].unpriced_count} requests of models without a known price are not in it; [raif] price_table"
            " takes prices of your own."
        )
    if any(row.cost.is_estimated for row in total):
        write_line("~ No batch price of some of the models is known; half of the list price is taken for it.")


def _named(name: str | None) -> str:
    from airflow_raif.domain.batch import SHARED

    if name is None:
        return "(no Dag)"
    return "(answers of other rows)" if name == SHARED else name


def _cells(row: CostRow) -> tuple[object, ...]:
    from airflow_raif.cli.shapes import rounded

    usage, cost = row.usage, row.cost
    marks = ("~" if cost.is_estimated else "") + ("+" if row.unpriced_count else "")
    saved = f"{1 - cost.batch / cost.standard:.0%}" if cost.batch is not None and cost.standard else None
    return (
        f"{row.batch_count:,}",
        f"{row.request_count:,}",
        f"{usage.input_tokens:,}",
        f"{usage.cached_tokens / usage.input_tokens:.0%}" if usage.input_tokens else None,
        f"{usage.output_tokens:,}",
        f"{marks}{rounded(cost.batch)}" if cost.batch is not None else marks or None,
        rounded(cost.standard),
        saved,
    )


def _shape(row: CostRow) -> dict[str, Any]:
    import msgspec

    from airflow_raif.cli.shapes import decimal

    return row.group | {
        "batch_count": row.batch_count,
        "request_count": row.request_count,
        "usage": msgspec.to_builtins(row.usage),
        "cost": decimal(row.cost.batch),
        "standard_cost": decimal(row.cost.standard),
        "cost_is_estimated": row.cost.is_estimated,
        "unpriced_count": row.unpriced_count,
    }
