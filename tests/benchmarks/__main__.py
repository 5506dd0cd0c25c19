"""Measure our hot paths beside the peer's and the floor's in one run: ``python -m tests.benchmarks``."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).parents[2]
WORKS = ("fetch-openai", "fetch-responses", "fetch-anthropic", "fetch-gemini", "submit-openai", "submit-anthropic")
#: What the peer has no way to do.
NOT_OF_PEER = frozenset(("fetch-responses", "fetch-gemini"))
#: What ours may take, in CPU as a multiple of the floor's, and in memory above the imports.
MOST_OF_FLOOR, MOST_MIB = 4.0, 64.0


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve result files from a folder, and take any upload."""
    command = [sys.executable, "-m", "tests.benchmarks.server", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait()


def call(side: str, work: str, home: Path, served: Path, url: str, count: int) -> str:
    """Run one process of work and return the last line it printed."""
    command = [sys.executable, "-m", "tests.benchmarks.work", side, work, str(home), str(served), url, str(count)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} {work} failed:\n{done.stderr[-4000:]}")
    return (done.stdout.splitlines() or [""])[-1]


def measure(work: str, sides: list[str], count: int, runs: int) -> dict[str, dict[str, float]]:
    """Run each side of a work several times, in turn; return its medians, and the most memory of any run."""
    with tempfile.TemporaryDirectory(prefix="raif-bench-") as scratch:
        served, masters = Path(scratch, "served"), Path(scratch, "masters")
        served.mkdir()
        for side in {"peer" if side == "peer" else "ours" for side in sides}:
            (masters / side).mkdir(parents=True)
            call(side, work, masters / side, served, "prepare", count)
        results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        with serving(served) as url:
            for _ in range(runs):
                for side in sides:
                    home = Path(scratch, "home")
                    shutil.copytree(masters / ("peer" if side == "peer" else "ours"), home)
                    figures = json.loads(call(side, work, home, served, url, count))
                    assert figures["done"] == count, (side, work, figures)
                    results[side].append(figures)
                    shutil.rmtree(home)
    return {
        side: {
            "cpu": statistics.median(each["cpu"] for each in figures),
            "wall": statistics.median(each["wall"] for each in figures),
            "mib": max(each["mib"] for each in figures),
            "peak_mib": max(each["peak_mib"] for each in figures),
        }
        for side, figures in results.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--works", nargs="*", default=WORKS)
    parser.add_argument("--sides", nargs="*", default=["ours", "peer", "floor"])
    options = parser.parse_args()
    has_peer = importlib.util.find_spec("airflow.providers.common.ai") is not None
    table = Table(title=f"{options.rows:,} rows of 2 KB, medians of {options.runs} runs")
    for column in ("work", "ours s", "peer s", "floor s", "peer/ours", "ours/floor", "ours MiB", "peer MiB", "wall s"):
        table.add_column(column, justify="left" if column == "work" else "right")
    is_good = True
    for work in options.works:
        sides = [side for side in options.sides if side != "peer" or (has_peer and work not in NOT_OF_PEER)]
        found = measure(work, sides, options.rows, options.runs)
        ours, peer, floor = (found.get(side, {}) for side in ("ours", "peer", "floor"))

        def show(value: float | None, digits: int = 2) -> str:
            return "" if value is None else f"{value:.{digits}f}"

        def ratio(above: dict[str, float], below: dict[str, float]) -> str:
            return f"{above['cpu'] / below['cpu']:.2f}" if above and below else ""

        if ours and floor:
            is_good &= ours["cpu"] <= MOST_OF_FLOOR * floor["cpu"] and ours["mib"] < MOST_MIB
        table.add_row(
            work, show(ours.get("cpu")), show(peer.get("cpu")), show(floor.get("cpu")), ratio(peer, ours),
            ratio(ours, floor), show(ours.get("mib"), 1), show(peer.get("mib"), 1), show(ours.get("wall")),
        )  # fmt: skip
    Console(width=120).print(table)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
