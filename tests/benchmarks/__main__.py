"""Measure everything, side by side in one run, and write it down: ``python -m tests.benchmarks``.

Figures go to ``build/bench.json``, and from there, unless it was a quick run, to ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks import page
from tests.benchmarks.figures import Figure, keep
from tests.benchmarks.pages import measure_pages
from tests.benchmarks.pipelines import RECORDED_WORKS, WORKS, measure_cold, measure_pipelines, measure_recorded
from tests.benchmarks.richness import measure_richness
from tests.benchmarks.scaling import SIZES, measure_scaling
from tests.benchmarks.startup import measure_startup
from tests.benchmarks.triggerer import measure_triggerer
from tests.benchmarks.waiting import measure_waiting

REPOSITORY = Path(__file__).parents[2]
#: Rows of the pipelines.
ROWS, QUICK_ROWS = 50_000, 2000
COLD = ("fetch-openai", "fetch-anthropic", "submit-openai")

Section = Callable[[], Iterable[Figure]]


def sections(rows: int, runs: int, works: Sequence[str], *, is_quick: bool) -> dict[str, Section]:
    """Return what can be measured, by name, in the order it is."""
    found: dict[str, Section] = {
        "pipelines": lambda: measure_pipelines(works, rows, runs, is_quick=is_quick),
        "imports": lambda: measure_startup(runs, is_quick=is_quick),
        "waiting": lambda: measure_waiting(is_quick=is_quick),
        "rich": lambda: measure_richness(is_quick=is_quick),
    }
    if not is_quick:
        found["recorded"] = lambda: measure_recorded(RECORDED_WORKS, rows, runs, is_quick=is_quick)
        found["cold"] = lambda: measure_cold(COLD, rows)
        found["scaling"] = lambda: measure_scaling(SIZES)
        found["triggerer"] = measure_triggerer
        found["pages"] = lambda: measure_pages(is_quick=is_quick)
    return found


def shown(figures: Iterable[Figure], console: Console) -> Iterator[Figure]:
    """Print each figure when it is there."""
    for figure in figures:
        sides = (figure.ours, figure.peer, figure.floor)
        ours, peer, floor = ("-" if value is None else f"{value:,.4g}" for value in sides)
        console.print(f"{figure.name}, {figure.size:,}: {ours} {figure.unit}; peer {peer}, floor {floor}")
        yield figure


def table_of(figures: Iterable[Figure]) -> Table:
    """Sum up what has another side."""
    table = Table(title="CPU and memory beside the peer and the floor")
    for column in ("what", "size", "unit", "ours", "peer", "floor", "peer/ours", "ours/floor"):
        table.add_column(column, justify="left" if column in ("what", "unit") else "right")
    for each in figures:
        if each.peer is not None or each.floor is not None:
            values = (each.ours, each.peer, each.floor, each.gain, each.above_floor)
            table.add_row(each.name, f"{each.size:,}", each.unit, *("" if v is None else f"{v:,.4g}" for v in values))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes: few rows, one run; writes no page")
    parser.add_argument("--only", nargs="*", metavar="SECTION", help="names of sections")
    parser.add_argument("--works", nargs="*", default=WORKS, help="of the pipelines")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "bench.json")
    options = parser.parse_args()
    is_quick = options.quick or options.rows is not None
    rows = options.rows or (QUICK_ROWS if is_quick else ROWS)
    all_sections = sections(rows, options.runs or (1 if is_quick else 3), options.works, is_quick=is_quick)
    console = Console(width=140, highlight=False)
    found: list[Figure] = []
    for name, measure in all_sections.items():
        if options.only is None or name in options.only:
            for figure in shown(measure(), console):
                keep(options.out, [figure])
                found.append(figure)
    console.print(table_of(found))
    if not is_quick:
        page.write(keep(options.out, []), REPOSITORY / "docs")


if __name__ == "__main__":
    main()
