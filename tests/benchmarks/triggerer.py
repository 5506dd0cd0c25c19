"""A real triggerer with many tasks that wait: its heartbeat, its loop and its memory, until every event is down."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil

from airflow_raif.demo.components import Airflow, environment, free_port, prepare_home
from tests.benchmarks.figures import Figure
from tests.benchmarks.poller import connections_of, fill
from tests.benchmarks.poller_work import control
from tests.benchmarks.serving import serving

PATIENCE_SECONDS = 600


class _Watch:
    """What is seen of the triggerer while something is waited for."""

    def __init__(self, home: Path) -> None:
        self.database = home / "airflow.db"
        self.silent = self.peak = 0.0

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    def until(self, question: Callable[[], bool], what: str) -> float:
        """Look each half second; return how long it took."""
        started = time.monotonic()
        while not question():
            if time.monotonic() - started > PATIENCE_SECONDS:
                raise SystemExit(f"{what} did not happen within {PATIENCE_SECONDS} s")
            self.look()
            time.sleep(0.5)
        return time.monotonic() - started

    def look(self) -> None:
        for (heartbeat,) in self.ask("SELECT latest_heartbeat FROM job WHERE job_type = 'TriggererJob'"):
            at = datetime.fromisoformat(str(heartbeat)).replace(tzinfo=UTC)
            self.silent = max(self.silent, time.time() - at.timestamp())
        for process in psutil.process_iter(["environ", "memory_info"]):
            if (process.info["environ"] or {}).get("AIRFLOW_HOME") == str(self.database.parent):
                self.peak = max(self.peak, process.info["memory_info"].rss / 2**20)


def measure_triggerer(count: int = 1000, interval: float = 10.0) -> Iterator[Figure]:
    """Let a triggerer find so many deferred tasks, poll for a while, and tell each that its batch ended."""
    with (
        tempfile.TemporaryDirectory(prefix="raif-bench-") as folder,
        serving("tests.benchmarks.poller_server", count) as url,
    ):
        home, port = Path(folder), free_port()
        env = environment(home, Path(__file__).parent / "dags", port, url)
        env |= connections_of("openai", url, 1) | {
            "AIRFLOW__RAIF__SQL_ALCHEMY_CONN": f"sqlite:///{home}/raif.db",
            "RAIF_BENCH_BATCHES": str(count), "RAIF_BENCH_INTERVAL": str(interval),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), env.get("PYTHONPATH", "")]),
        }  # fmt: skip
        prepare_home(home, env)
        fill(f"sqlite:///{home}/raif.db", "openai", count, 1)
        subprocess.run([sys.executable, "-m", "tests.benchmarks.triggerer_fill"], env=env, check=True)
        airflow, watch = Airflow(home, env, port), _Watch(home)
        airflow.start_component("triggerer")
        try:
            yield from _figures(watch, url, count, interval, home / "component-logs" / "triggerer.log")
        finally:
            airflow.stop()


def _figures(watch: _Watch, url: str, count: int, interval: float, log: Path) -> Iterator[Figure]:
    def waiting() -> int:
        return int(str(watch.ask("SELECT count(*) FROM task_instance WHERE state = 'deferred'")[0][0]))

    def has_asked_about_all() -> bool:
        return control(url) >= 2 * count // 100

    assert waiting() == count, waiting()

    def held() -> int:
        return log.read_text(errors="replace").count("async thread was blocked")

    def pass_ticks(number: int) -> None:
        end = time.monotonic() + number * interval
        watch.until(lambda: time.monotonic() > end, "some ticks")

    watch.until(has_asked_about_all, "a poll of every batch")
    # The first batches are asked about while the last triggers are still made.
    pass_ticks(3)
    held_at_start = held()
    pass_ticks(5)
    assert waiting() == count, "a task was told that its batch ended while it ran"
    resident = watch.peak
    control(url, "?end=1")
    seconds = watch.until(lambda: waiting() == 0, "an event for each task")
    failed = watch.ask("SELECT count(*) FROM task_instance WHERE next_method = '__fail__'")[0][0]
    assert failed == 0, f"{failed} triggers failed"

    def figure(unit: str, value: float) -> Figure:
        return Figure("a triggerer of Airflow", unit, round(value, 1), None, None, "triggerer", count)

    yield figure("s without a heartbeat at most", watch.silent)
    yield figure("warnings of a held loop while it starts", held_at_start)
    yield figure("warnings of a held loop from then on", held() - held_at_start)
    yield figure("MiB of its largest process", resident)
    yield figure("s until every event is written", seconds)
