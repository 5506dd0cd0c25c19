"""Real Airflow, every component a process of its own: the nightly DAG on each provider, a clear, and a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_raif.demo.components import Airflow, environment, free_port, prepare_home
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import EmulatorSettings, Progress
from tests.support import read_rows

pytestmark = pytest.mark.e2e
DAG = "/dags/nightly_docstrings"
RUNS = {
    "openai": ("openai_default", "openai:gpt-5-nano"),
    "anthropic": ("anthropic_default", "anthropic:claude-haiku-4-5"),
    "gemini": ("gemini_default", "gemini:gemini-2.5-flash"),
}


@pytest.fixture(scope="module")
def emulators() -> Iterator[tuple[EmulatorServer, EmulatorServer]]:
    """One emulator whose batches end after some seconds, and one whose batches never end."""
    quick = EmulatorServer(EmulatorSettings(progress=Progress.parse("seconds:8")))
    stuck = EmulatorServer(EmulatorSettings(progress=Progress.parse("seconds:100000")))
    with quick, stuck:
        yield quick, stuck


@pytest.fixture(scope="module")
def airflow(emulators, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """Scheduler, triggerer, dag processor and API server on a fresh home."""
    quick, stuck = emulators
    home = tmp_path_factory.mktemp("airflow")
    port = free_port()
    env = environment(home, repository / "dags" / "examples", port, quick.url)
    env["AIRFLOW_CONN_STUCK"] = env["AIRFLOW_CONN_OPENAI_DEFAULT"].replace(quick.url, stuck.url)
    prepare_home(home, env)
    components = Airflow(home, env, port)
    try:
        components.start()
        components.wait_until_healthy()
        components.wait_for_dag("nightly_docstrings")
        yield components
    finally:
        components.stop()


def trigger(airflow: Airflow, run_id: str, conn_id: str, model: str, rows: int) -> None:
    conf = {"conn_id": conn_id, "model": model, "rows": rows}
    airflow.call("POST", f"{DAG}/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": conf})


def task(airflow: Airflow, run_id: str, task_id: str) -> dict[str, Any]:
    return airflow.call("GET", f"{DAG}/dagRuns/{run_id}/taskInstances/{task_id}")


def eventually(question, what: str, seconds: float = 240) -> Any:
    """Ask other processes until they agree; there is no event to await across them."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := question():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def test_nightly_batch_on_every_provider(airflow, emulators):
    """Three runs side by side, deferred in the real triggerer: every row comes back, each batch is paid once."""
    for provider, (conn_id, model) in RUNS.items():
        trigger(airflow, provider, conn_id, model, 60)
    for provider in RUNS:
        run = eventually(
            lambda run=provider: next(
                (r for r in [airflow.call("GET", f"{DAG}/dagRuns/{run}")] if r["state"] in ("success", "failed")), None
            ),
            f"the end of the run of {provider}",
        )
        assert run["state"] == "success", provider
        entry = airflow.call(
            "GET", f"{DAG}/dagRuns/{provider}/taskInstances/apply/xcomEntries/return_value?deserialize=true"
        )
        manifest = entry["value"]
        found = read_rows(manifest["result_uri"])
        assert [row["status"] for row in found] == ["completed"] * 60
        assert manifest["counts"] == {"completed": 60, "failed": 0, "pending": 0, "reasons": {}}
        shown = [str(batch.details) for batch in emulators[0].state.batches[provider].values()]
        if provider != "anthropic":  # whose creates carry no tag
            assert sum(manifest["batch_id"] in details for details in shown) == 1
    assert emulators[0].state.creates["anthropic"] == 1


def test_clear_reattaches_and_a_kill_cancels(airflow, emulators):
    """Clearing the waiting task keeps its batch; marking it failed cancels the batch at the provider."""
    stuck = emulators[1].state
    trigger(airflow, "stuck", "stuck", "openai:gpt-5-nano", 5)
    eventually(lambda: task(airflow, "stuck", "wait")["state"] == "deferred", "the deferral")
    (batch_id,) = stuck.batches["openai"]
    first_start = task(airflow, "stuck", "wait")["start_date"]
    body = {"dag_run_id": "stuck", "task_ids": ["wait"], "dry_run": False, "only_failed": False}
    airflow.call("POST", f"{DAG}/clearTaskInstances", body)

    def waits_again():
        now = task(airflow, "stuck", "wait")
        return now["state"] == "deferred" and now["start_date"] != first_start

    eventually(waits_again, "the second deferral")
    looks = stuck.batches["openai"][batch_id].looks
    eventually(lambda: stuck.batches["openai"][batch_id].looks > looks + 1, "polling after the clear")
    assert stuck.creates["openai"] == 1
    assert stuck.requests["openai.batches.cancel"] == 0
    airflow.call("PATCH", f"{DAG}/dagRuns/stuck/taskInstances/wait", {"new_state": "failed"})
    if not has_on_kill():
        pytest.skip("this Airflow tells no trigger that its task was ended (3.3 does)")
    eventually(lambda: stuck.requests["openai.batches.cancel"] == 1, "the cancellation")


def has_on_kill() -> bool:
    from airflow.triggers.base import BaseTrigger

    return hasattr(BaseTrigger, "on_kill")


def test_ctrl_c_stops_everything_the_demo_started(repository, tmp_path):
    """After a Ctrl-C no component of the demo is left."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "airflow_raif.demo", "--rows", "5", "--home", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd=repository,
    )  # fmt: skip
    try:
        eventually(lambda: (tmp_path / "airflow" / "component-logs" / "triggerer.log").exists(), "the start")
        assert demo.poll() is None
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=60)
        assert demo.returncode == 130, output
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
    assert processes_with(str(tmp_path)) == []


def processes_with(home: str) -> list[int]:
    """Return the processes whose Airflow lives in a folder."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if f"AIRFLOW_HOME={home}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found
