"""Airflow on PostgreSQL whose processes a test kills, stops and starts again, and providers that it holds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from airflow_raif.demo.components import Airflow, DemoError, environment, free_port, processes_of
from airflow_raif.emulator.faults import HttpFault
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import EmulatorSettings, Progress
from airflow_raif.emulator.state import Batch
from tests.postgres import PostgresServer
from tests.support import MODELS, base_url, read_rows

#: Long, since the machine may be at other work: only a test that fails waits so long.
PATIENCE_SECONDS = 240.0
#: What a healthy Airflow is told to wait before it gives somebody up, made short.
SETTINGS = {
    "CORE__PARALLELISM": "6",
    "CORE__DEFAULT_TASK_RETRY_DELAY": "2",
    "WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "12",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "20",
    "RAIF__OUTAGE_PAUSE": "5",
    # So that a test knows which download is on its way.
    "RAIF__PARALLEL_DOWNLOADS": "1",
}


def eventually(question: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Ask other processes until they agree; there is no event to await across them."""
    end, error = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        try:
            if answer := question():
                return answer
        except (DemoError, httpx.HTTPError) as failed:
            error = f"; at last: {failed}"
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s{error}")


class Provider:
    """An emulated provider whose batches end when the test says so."""

    def __init__(self, name: str, conn_id: str, part_rows: int = 1000) -> None:
        self.name = name
        self.conn_id = conn_id
        self.part_rows = part_rows
        self._ahead = 0.0
        progress = Progress.parse("seconds:3600")
        self.server = EmulatorServer(EmulatorSettings(progress=progress, clock=lambda: time.time() + self._ahead))
        self.state = self.server.state

    @property
    def conf(self) -> dict[str, str]:
        """The parameters of a run that goes here."""
        return {"conn_id": self.conn_id, "model": f"{self.name}:{MODELS[self.name]}"}

    @property
    def batches(self) -> list[Batch]:
        """Its batches, oldest first."""
        return list(self.state.batches[self.name].values())

    @property
    def creates(self) -> int:
        """How many batches were made here."""
        return self.state.creates[self.name]

    @property
    def cancels(self) -> int:
        """How often a client asked to cancel a batch."""
        return self.state.requests[f"{self.name}.batches.cancel"]

    def calls(self, route: str) -> int:
        """Return how often a route was called."""
        return self.state.requests[f"{self.name}.{route}"]

    def finish(self) -> None:
        """Let every batch end at the next look."""
        self._ahead += 4000

    @contextmanager
    def holding(self, route: str, when: str, skip: int = 0) -> Iterator[None]:
        """Hold the next call of a route, before or after it took effect, until the end of the block.

        :param skip: calls let through first.
        """
        fault = HttpFault(route=f"{self.name}.{route}", hold=when, skip=skip)  # type: ignore[arg-type]
        self.state.faults.http.append(fault)
        try:
            yield
        finally:
            self.state.faults.http.remove(fault)


class Cluster(Airflow):
    """Airflow's components on two databases of one PostgreSQL server: Airflow's own and ours."""

    def __init__(self, home: Path, dags: Path, postgres: PostgresServer) -> None:
        self.postgres = postgres
        self.store = postgres.create_database()
        # psycopg speaks both ways; Airflow's default drivers need not be installed.
        metadata = postgres.create_database().replace("postgresql://", "postgresql+psycopg://")
        port = free_port()
        env = environment(home, dags, port, "")
        env = {name: value for name, value in env.items() if not name.startswith("AIRFLOW_CONN_")}
        settings = {"DATABASE__SQL_ALCHEMY_CONN": metadata, "DATABASE__SQL_ALCHEMY_CONN_ASYNC": metadata, **SETTINGS}
        super().__init__(home, env | {f"AIRFLOW__{key}": value for key, value in settings.items()}, port)

    def migrate(self) -> None:
        """Bring up both databases with the one command."""
        self.home.mkdir(parents=True, exist_ok=True)
        env = {**self.env, "AIRFLOW_CONN_RAIF_STATE": self.store}
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def add_connections(self, providers: list[Provider]) -> None:
        """Keep the connections in Airflow's database, where they are in production."""
        self.add_store_connection()
        self.add_provider_connections(providers)

    def add_store_connection(self) -> None:
        """Tell where our tables are."""
        name = psycopg.conninfo.conninfo_to_dict(self.store)
        store = {"host": name["host"], "port": self.postgres.port, "login": name["user"], "schema": name["dbname"]}
        self.call("POST", "/connections", {"connection_id": "raif_state", "conn_type": "postgres", **store})

    def add_provider_connections(self, providers: list[Provider]) -> None:
        """Tell where the providers are."""
        for each in providers:
            fields = {
                "conn_type": f"raif_{each.name}",
                "host": base_url(each.name, each.server.url),
                "password": "emulator-needs-no-key",
                "extra": json.dumps({"max_requests": each.part_rows}),
            }
            self.call("POST", "/connections", {"connection_id": each.conn_id, **fields})

    # The store

    @contextmanager
    def holding_writes(self, table: str, column: str, condition: str = "true") -> Iterator[None]:
        """Hold transactions of the store that write a column, until the end of the block or of the server.

        :param condition: of the rows as they are about to be.
        """
        with psycopg.connect(self.store, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(1)")
            connection.execute(
                f"""
                CREATE OR REPLACE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    PERFORM pg_advisory_lock_shared(1);
                    PERFORM pg_advisory_unlock_shared(1);
                    RETURN NEW;
                END $$;
                DROP TRIGGER IF EXISTS hold ON {table};
                CREATE TRIGGER hold BEFORE UPDATE OF {column} ON {table}
                    FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION hold();
                """
            )
            yield
            connection.close()

    def holds_a_write(self) -> bool:
        """Whether a transaction of the store waits to be let go."""
        question = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        with psycopg.connect(self.store) as connection:
            return connection.execute(question).fetchone() != (0,)

    # Runs

    def trigger(self, dag_id: str, run_id: str, provider: Provider) -> None:
        """Start a run at a provider."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": provider.conf}
        self.call("POST", f"/dags/{dag_id}/dagRuns", body)

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return a run's state."""
        return str(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def end_of(self, dag_id: str, run_id: str) -> str:
        """Wait for the end of a run; return its state."""
        ended = ("success", "failed")
        return str(
            eventually(
                lambda: state if (state := self.run_state(dag_id, run_id)) in ended else None,
                f"the end of {run_id} of {dag_id}",
            )
        )

    def task(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return what Airflow says of a task instance."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        return dict(self.call("GET", path if map_index < 0 else f"{path}/{map_index}"))

    def until(self, state: str, *task: Any) -> dict[str, Any]:
        """Wait until a task instance is in a state; return what Airflow says of it."""
        return dict(
            eventually(
                lambda: found if (found := self.task(*task))["state"] == state else None, f"{task} becoming {state}"
            )
        )

    def clear(self, dag_id: str, run_id: str, *task_ids: str) -> None:
        """Clear task instances, whatever their state, as a user does."""
        body = {"dag_run_id": run_id, "task_ids": task_ids, "dry_run": False, "only_failed": False}
        self.call("POST", f"/dags/{dag_id}/clearTaskInstances", body)

    def mark_failed(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> None:
        """End a task instance as a user does."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.call("PATCH", path if map_index < 0 else f"{path}/{map_index}", {"new_state": "failed"})

    def rows(self, dag_id: str, run_id: str, task_id: str) -> list[dict[str, Any]]:
        """Return the result rows that a finished task left."""
        return read_rows(self.manifest(dag_id, run_id, task_id)["result_uri"])

    def backfills(self, dag_id: str) -> Any:
        """Return what Airflow says of a DAG's backfills."""
        return self.call("GET", f"/backfills?dag_id={dag_id}")["backfills"]

    def manifest(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return what a finished task returned."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return dict(self.call("GET", f"{path}?deserialize=true&map_index={map_index}")["value"])  # type: ignore[call-overload]

    # Processes

    def kill(self, label: str) -> None:
        """End a component as ``kill -9`` does."""
        process = self._processes.pop(label)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def revive(self) -> None:
        """Start components that ended again, as whatever looks after them in production does."""
        for label, process in list(self._processes.items()):
            if process.poll() is not None:
                self.start_component(label.partition(" ")[0], label)

    @contextmanager
    def asleep(self, label: str) -> Iterator[None]:
        """Stop a component and all its processes until the end of the block, as a host that is frozen."""
        leader = psutil.Process(self._processes[label].pid)
        with _stopped([leader, *leader.children(recursive=True)]):
            yield

    @contextmanager
    def worker_asleep(self, task: dict[str, Any]) -> Iterator[psutil.Process]:
        """Stop who works on a running task instance until the end of the block; yields the task's own process."""
        supervisor, runner = self._worker_of(task)
        with _stopped([supervisor, runner]):
            yield runner

    def kill_worker(self, task: dict[str, Any], *, supervisor: bool = True, runner: bool = True) -> None:
        """End who works on a running task instance as ``kill -9`` does.

        :param supervisor: the executor's process, which looks after the task.
        :param runner: the task's own process.
        """
        for process, is_wanted in zip(self._worker_of(task), (supervisor, runner), strict=True):
            if is_wanted:
                process.kill()

    def worker_of(self, task: dict[str, Any]) -> psutil.Process:
        """Return the own process of a running task instance."""
        return self._worker_of(task)[1]

    def _worker_of(self, task: dict[str, Any]) -> tuple[psutil.Process, psutil.Process]:
        assert isinstance(task["pid"], int), task
        runner = psutil.Process(task["pid"])
        supervisor = runner.parent()
        assert {supervisor, runner} <= set(processes_of(self.home)), f"{runner} is none of this Airflow's"
        assert "LocalExecutor" in " ".join(supervisor.cmdline()), supervisor.cmdline()
        return supervisor, runner


@contextmanager
def _stopped(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()
