"""Measure CPU and memory of fetching and submitting 50,000 requests, as ratios to the floor of the same run."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.work import prepare

HIGHEST_RATIO = 4.0
HIGHEST_MIB = 64.0


def measure(name: str, home: Path, url: str, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.work", name, str(home), url, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["done"] == count, figures
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    table = Table(title=f"{options.rows:,} rows of 2 KB, medians of {options.runs} runs")
    for column in ("work", "CPU s", "floor CPU s", "ratio", "memory MiB", "wall s"):
        table.add_column(column, justify="left" if column == "work" else "right")
    is_good = True
    with tempfile.TemporaryDirectory(prefix="raif-bench-") as folder:
        master = Path(folder, "master")
        master.mkdir()
        prepare(master, options.rows)
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.server", str(master / "results")],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            for work in ("fetch", "submit"):
                ours, floor = [], []
                for run in range(options.runs):
                    home = Path(folder, f"{work}-{run}")
                    shutil.copytree(master, home)
                    floor.append(measure(f"{work}-floor", home, url, options.rows))
                    ours.append(measure(f"{work}-ours", home, url, options.rows))
                    shutil.rmtree(home)
                cpu, floor_cpu = (statistics.median(each["cpu"] for each in runs) for runs in (ours, floor))
                mib = max(each["mib"] for each in ours)
                wall = statistics.median(each["wall"] for each in ours)
                is_good &= cpu / floor_cpu <= HIGHEST_RATIO and mib < HIGHEST_MIB
                table.add_row(
                    work, f"{cpu:.2f}", f"{floor_cpu:.2f}", f"{cpu / floor_cpu:.2f}", f"{mib:.0f}", f"{wall:.2f}"
                )
        finally:
            server.terminate()
            server.wait()
    Console().print(table)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
