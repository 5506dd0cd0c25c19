"""Fetch and submit, and the start of a task process, beside the peer and the floor."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure
from tests.benchmarks.serving import serving

WORKS = (
    "fetch-openai", "fetch-structured", "fetch-responses", "fetch-anthropic", "fetch-gemini", "submit-openai",
    "submit-anthropic",
)  # fmt: skip
SIDES = ("ours", "peer", "floor")
#: With what a store costs whoever has one.
RECORDED_WORKS = ("fetch-openai", "fetch-anthropic", "submit-openai", "submit-anthropic")
#: What the peer has no way to do.
NOT_OF_PEER = frozenset(("fetch-responses", "fetch-gemini"))


def call(side: str, work: str, home: Path, served: Path, url: str, count: int, *, is_cold: bool = False) -> str:
    """Run one process of work and return the last line it printed."""
    command = [sys.executable, "-m", "tests.benchmarks.work", side, work, str(home), str(served), url, str(count)]
    environment = os.environ | {"AIRFLOW_HOME": str(served.parent), "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        command + ["--cold"] * is_cold, check=False, capture_output=True, text=True, env=environment
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{side} {work} failed:\n{done.stderr[-4000:]}")
    return (done.stdout.splitlines() or [""])[-1]


def measure(work: str, count: int, runs: int, *, sides: Sequence[str] = SIDES, is_cold: bool = False) -> dict[str, Any]:
    """Run each side of a work several times, in turn; return its medians, and the most memory of any run."""
    if work in NOT_OF_PEER or importlib.util.find_spec("airflow.providers.common.ai") is None:
        sides = [side for side in sides if side != "peer"]
    with tempfile.TemporaryDirectory(prefix="raif-bench-") as scratch:
        served, masters, home = Path(scratch, "served"), Path(scratch, "masters"), Path(scratch, "home")
        served.mkdir()
        for side in {"peer" if side == "peer" else "ours" for side in sides}:
            (masters / side).mkdir(parents=True)
            call(side, work, masters / side, served, "prepare", count)
        results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        with serving("tests.benchmarks.server", served) as url:
            for _ in range(runs):
                for side in sides:
                    shutil.copytree(masters / ("peer" if side == "peer" else "ours"), home)
                    figures = json.loads(call(side, work, home, served, url, count, is_cold=is_cold))
                    assert figures["done"] == count, (side, work, figures)
                    results[side].append(figures)
                    shutil.rmtree(home)
    return {side: _summed_up(figures) for side, figures in results.items()}


def _summed_up(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    typical = {name: statistics.median(each[name] for each in runs) for name in ("cpu", "wall")}
    return typical | {name: max(each[name] for each in runs) for name in ("mib", "peak_mib", "store_mib", "spool_mib")}


def of_sides(
    section: str, name: str, unit: str, found: dict[str, dict[str, float]], key: str, size: int, *, is_quick: bool
) -> Figure:
    """Make a figure of what was measured on each side."""
    values = {side: round(found[side][key], 4) if side in found else None for side in SIDES}
    return Figure(name, unit, values["ours"], values["peer"], values["floor"], section, size, is_quick)


def measure_pipelines(works: Sequence[str], count: int, runs: int, *, is_quick: bool) -> Iterator[Figure]:
    """Measure warm: the work alone, in a process that did it once before on a few rows."""
    for work in works:
        found = measure(work, count, runs)
        for key, unit in (("cpu", "CPU s"), ("wall", "wall s"), ("mib", "MiB above imports")):
            yield of_sides("warm", work, unit, found, key, count, is_quick=is_quick)


def measure_cold(works: Sequence[str], count: int) -> Iterator[Figure]:
    """Measure cold: all that a task process takes from its start, imports and clients included."""
    for work in works:
        found = measure(work, count, 1, is_cold=True)
        for key, unit in (("cpu", "CPU s"), ("wall", "wall s"), ("peak_mib", "MiB of the process")):
            yield of_sides("cold", work, unit, found, key, count, is_quick=False)


def measure_recorded(works: Sequence[str], count: int, runs: int, *, is_quick: bool) -> Iterator[Figure]:
    """Measure warm, beside a floor that keeps a row about each row; it stands where the floor does."""
    for work in works:
        found = measure(work, count, runs, sides=("ours", "peer", "record"))
        found["floor"] = found.pop("record")
        yield of_sides("recorded", work, "CPU s", found, "cpu", count, is_quick=is_quick)
