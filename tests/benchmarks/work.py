"""One measurement, in a process of its own: ``python -m tests.benchmarks.work SIDE WORK HOME SERVED URL ROWS``.

Prints one line of JSON: rows done, CPU seconds, wall seconds, and MiB at the peak above what was there before. With
``--cold`` all that the process takes from its start counts, imports and clients included.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

import psutil

WARM_UP_ROWS = 20


def run(side: str, work: str, home: Path, served: Path, url: str, count: int) -> int:
    """Do one side's work once; ``home`` holds what was prepared for it."""
    if side == "record":
        return _recorded(work, home, url, count)
    module: Any = importlib.import_module(f"tests.benchmarks.{side}")
    verb, _, dialect = work.partition("-")
    if verb == "submit":
        return int(module.submit(dialect, home, url, count))
    if side == "floor":
        names = (home / "result_files").read_text().split()
        return int(module.fetch(dialect, home, url, names))
    return int(module.fetch(dialect, home, url))


def _recorded(work: str, home: Path, url: str, count: int) -> int:
    """Do the floor's work, and keep a row about each row, with its hash where the input is read."""
    from tests.benchmarks import floor

    verb, _, dialect = work.partition("-")
    with floor.recording(home) as record:
        if verb == "fetch":
            return floor.fetch(dialect, home, url, (home / "result_files").read_text().split(), record)
        digest = hashlib.sha256()

        def hashed(row_id: str, line: bytes) -> None:
            digest.update(line)
            record(row_id, line)

        return floor.submit(dialect, home, url, count, hashed)


def prepare(side: str, work: str, home: Path, served: Path, count: int, *, shuffled: bool = False) -> None:
    """Make what a work needs, unless it begins with nothing."""
    verb, _, dialect = work.partition("-")
    if verb == "submit":
        if side == "ours":
            importlib.import_module("tests.benchmarks.ours").migrate(home)
        return
    before = set(served.iterdir())
    module: Any = importlib.import_module(f"tests.benchmarks.{'peer' if side == 'peer' else 'ours'}")
    module.prepare(dialect, home, served, count, shuffled=shuffled)
    names = sorted((each.name for each in set(served.iterdir()) - before), key=lambda name: int(name.split("-")[-1]))
    (home / "result_files").write_text(" ".join(names))


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))


def _size(folder: Path, pattern: str) -> float:
    return sum(each.stat().st_size for each in folder.rglob(pattern) if each.is_file()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("side", "work"):
        parser.add_argument(name)
    for name in ("home", "served"):
        parser.add_argument(name, type=Path)
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    side, work, home, served, url, count = (
        options.side, options.work, options.home, options.served, options.url, options.count,
    )  # fmt: skip
    if url == "prepare":
        for name, rows in (("main", count), ("warm", WARM_UP_ROWS)):
            (home / name).mkdir()
            prepare(side, work, home / name, served, rows)
        return
    os.environ["NO_PROXY"] = "*"
    cpu, wall, resident = 0.0, psutil.Process().create_time(), 0
    if not options.cold:
        # What is imported or compiled at first use is not what is measured.
        run(side, work, home / "warm", served, url, WARM_UP_ROWS)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        cpu, wall, resident = time.process_time(), time.time(), _memory("VmRSS")
    home /= "main"
    done = run(side, work, home, served, url, count)
    wall, cpu, peak = time.time() - wall, time.process_time() - cpu, _memory("VmHWM")
    figures = {
        "done": done, "cpu": cpu, "wall": wall, "mib": (peak - resident) / 1024, "peak_mib": peak / 1024,
        "store_mib": _size(home, "raif.db*"), "spool_mib": _size(home / "spool", "*"),
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
