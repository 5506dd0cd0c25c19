"""One measurement, in a process of its own: ``python -m tests.benchmarks.work SIDE WORK HOME SERVED URL ROWS``.

Prints one line of JSON: rows done, CPU seconds, wall seconds, and MiB at the peak above what was there before.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARM_UP_ROWS = 20


def run(side: str, work: str, home: Path, served: Path, url: str, count: int) -> int:
    """Do one side's work once; ``home`` holds what was prepared for it."""
    module: Any = importlib.import_module(f"tests.benchmarks.{side}")
    verb, _, dialect = work.partition("-")
    if verb == "submit":
        return int(module.submit(dialect, home, url, count))
    if side == "floor":
        names = (home / "result_files").read_text().split()
        return int(module.fetch(dialect, home, url, names))
    return int(module.fetch(dialect, home, url))


def prepare(side: str, work: str, home: Path, served: Path, count: int, *, shuffled: bool = False) -> None:
    """Make what a work needs, unless it begins with nothing."""
    verb, _, dialect = work.partition("-")
    if verb == "submit":
        return
    before = set(served.iterdir())
    module: Any = importlib.import_module(f"tests.benchmarks.{'peer' if side == 'peer' else 'ours'}")
    module.prepare(dialect, home, served, count, shuffled=shuffled)
    names = sorted((each.name for each in set(served.iterdir()) - before), key=lambda name: int(name.split("-")[-1]))
    (home / "result_files").write_text(" ".join(names))


def warm_up(side: str, work: str, served: Path, url: str) -> None:
    """Do the work once on a few rows: what is imported or compiled at first use is not what is measured."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(side, work, home, served, WARM_UP_ROWS)
        run(side, work, home, served, url, WARM_UP_ROWS)


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))


def main() -> None:
    side, work, home, served, url, count = sys.argv[1:]
    if url == "prepare":
        prepare(side, work, Path(home), Path(served), int(count))
        return
    os.environ["NO_PROXY"] = "*"
    warm_up(side, work, Path(served), url)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, resident, started = resource.getrusage(resource.RUSAGE_SELF), _memory("VmRSS"), time.monotonic()
    done = run(side, work, Path(home), Path(served), url, int(count))
    wall, after, peak = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF), _memory("VmHWM")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    mib = (peak - resident) / 1024
    print(json.dumps({"done": done, "cpu": cpu, "wall": wall, "mib": mib, "peak_mib": peak / 1024}))


if __name__ == "__main__":
    main()
