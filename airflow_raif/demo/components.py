"""Airflow's components as processes of their own, on a scratch AIRFLOW_HOME."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

import httpx
import psutil

COMPONENTS = ("api-server", "scheduler", "triggerer", "dag-processor")
#: Connections of the example DAGs: id -> type.
CONNECTIONS = {"openai_default": "raif_openai", "anthropic_default": "raif_anthropic", "gemini_default": "raif_gemini"}


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


def free_port() -> int:
    """Return a port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(home: Path, dags: Path, port: int, emulator_url: str) -> dict[str, str]:
    """Return the components' environment: everything below one folder, everything on loopback."""
    settings = {
        "CORE__DAGS_FOLDER": str(dags),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "2",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__BASE_URL": f"http://127.0.0.1:{port}",
        "API__WORKERS": "1",
        "API_AUTH__JWT_SECRET": "only-for-this-demo-on-loopback-0123456789abcdef0123456789abcdef",
        "DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "300",
        "SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        "LOGGING__LOGGING_LEVEL": "INFO",
        "RAIF__POLL_INTERVALS": "2,3,5",
        "RAIF__MIN_DWELL_SECONDS": "5",
        "USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)
    connections = {
        f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(
            {"conn_type": conn_type, "password": "emulator-needs-no-key", "host": emulator_url}
        )
        for conn_id, conn_type in CONNECTIONS.items()
    }
    return {
        **inherited,
        **connections,
        **{f"AIRFLOW__{key}": value for key, value in settings.items()},
        "AIRFLOW_HOME": str(home),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        # Titles that Airflow gives its processes would overwrite their environment, by which they are found again.
        "SPT_NOENV": "1",
    }


def prepare_home(home: Path, env: Mapping[str, str]) -> None:
    """Give the run fresh metadata: migrated once, then copied."""
    home.mkdir(parents=True, exist_ok=True)
    template = home / "airflow.template.db"
    for stale in ("airflow.db", "airflow.db-wal", "airflow.db-shm", "raif.db", "raif.db-wal", "raif.db-shm"):
        (home / stale).unlink(missing_ok=True)
    shutil.rmtree(home / "raif_spool", ignore_errors=True)
    if not template.exists():
        migrated = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=dict(env),
            capture_output=True,
            text=True,
            check=False,
        )
        if migrated.returncode:
            raise DemoError(f"airflow db migrate failed:\n{migrated.stdout[-2000:]}\n{migrated.stderr[-2000:]}")
        (home / "airflow.db").replace(template)
    shutil.copy(template, home / "airflow.db")


def processes_of(home: Path) -> list[psutil.Process]:
    """Return every process that works on an AIRFLOW_HOME, or one below it: components, and all that they started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and Path(process.environ().get("AIRFLOW_HOME", "")).is_relative_to(home):
                found.append(process)
    return found


class Airflow:
    """Scheduler, triggerer, dag processor and API server, started and stopped together."""

    def __init__(self, home: Path, env: Mapping[str, str], port: int) -> None:
        self.home = home
        self.env = dict(env)
        self.url = f"http://127.0.0.1:{port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._client = httpx.Client(base_url=self.url, timeout=120, trust_env=False)

    def start(self) -> None:
        """Start every component; each logs into its own file."""
        for name in COMPONENTS:
            self.start_component(name)

    def start_component(self, name: str, label: str = "", env: Mapping[str, str] | None = None) -> None:
        """Start one component.

        :param name: its command, with arguments if need be.
        :param label: tells it from another of the same name.
        :param env: what it has besides, or in place of, the others' environment.
        """
        label = label or name
        logs = self.home / "component-logs"
        logs.mkdir(exist_ok=True)
        extra = ["--skip-serve-logs"] if name in ("scheduler", "triggerer") else []
        with (logs / f"{label}.log").open("ab") as log:
            # A session of its own: Ctrl-C reaches the demo alone, which then stops them in order.
            self._processes[label] = subprocess.Popen(
                [sys.executable, "-m", "airflow", *name.split(), *extra],
                env={**self.env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_healthy(self, seconds: float = 180) -> None:
        """Wait until the API answers and every component has a fresh heartbeat."""
        end = monotonic() + seconds
        while monotonic() < end:
            self.check_alive()
            try:
                health = self._client.get("/api/v2/monitor/health").json()
                if all((health.get(each) or {}).get("status") == "healthy" for each in
                       ("metadatabase", "scheduler", "triggerer", "dag_processor")):  # fmt: skip
                    self._authorise()
                    return
            except (httpx.HTTPError, ValueError):
                pass
            sleep(0.5)
        raise DemoError(f"Airflow was not healthy after {seconds:.0f} s; see {self.home}/component-logs")

    def check_alive(self) -> None:
        """Raise if a component has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise DemoError(f"airflow {name} ended with {process.returncode}; see {self.home}/component-logs")

    def call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """Call Airflow's REST API."""
        response = self._client.request(method, f"/api/v2{path}", json=body)
        if response.status_code >= 400:
            raise DemoError(f"{method} {path}: {response.status_code} {response.text[:300]}")
        return dict(response.json())

    def wait_for_dag(self, dag_id: str, seconds: float = 120) -> None:
        """Wait until the dag processor has the DAG, and unpause it."""
        end = monotonic() + seconds
        while monotonic() < end:
            self.check_alive()
            try:
                self.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})
            except DemoError:
                sleep(0.5)
            else:
                return
        raise DemoError(f"DAG {dag_id} did not appear after {seconds:.0f} s; see {self.home}/component-logs")

    def stop(self) -> None:
        """Stop every component, gently first."""
        self._client.close()
        running = [process for process in self._processes.values() if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGINT)
        end = monotonic() + 15
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(end - monotonic(), 0.1))
        # A task is in a process group of its own, and outlives its component.
        left = processes_of(self.home)
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        for process in self._processes.values():
            process.wait()
        psutil.wait_procs(left, timeout=15)

    def _authorise(self) -> None:
        response = self._client.get("/auth/token")
        if response.status_code == 405:
            response = self._client.post("/auth/token", json={})
        self._client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
