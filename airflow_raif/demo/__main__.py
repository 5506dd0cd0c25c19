"""Run the nightly example DAG on three emulated providers and account for every row.

``python -m airflow_raif.demo [--rows N] [--keep] [--home FOLDER]``
"""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.live import Live

from airflow_raif.demo.components import Airflow, DemoError, environment, free_port, prepare_home
from airflow_raif.demo.report import first_answers, progress_table, result_table
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import EmulatorSettings, Progress

DAG_ID = "nightly_docstrings"
#: Provider -> connection and model of its run.
RUNS = {
    "openai": ("openai_default", "openai:gpt-5-nano"),
    "anthropic": ("anthropic_default", "anthropic:claude-haiku-4-5"),
    "gemini": ("gemini_default", "gemini:gemini-2.5-flash"),
}
TASKS = ("submit", "wait", "apply")
FINISHED = ("success", "failed")


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return its exit status: 0 only if every row of every provider is accounted for."""
    parser = argparse.ArgumentParser(prog="python -m airflow_raif.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=3000, help="rows per provider (default: 3000)")
    parser.add_argument("--home", type=Path, default=Path("build/demo"), help="scratch folder (default: build/demo)")
    parser.add_argument("--keep", action="store_true", help="leave Airflow running until Ctrl-C, to look at its pages")
    parser.add_argument("--timeout", type=float, default=600, help="seconds to wait for the runs (default: 600)")
    options = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    # Also where a shell that started us in the background told us to ignore it.
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with ExitStack() as stack:
            return _run(options, console, stack)
    except DemoError as error:
        console.print(f"[red]{error}[/red]")
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started is stopped.")
        return 130


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(options: argparse.Namespace, console: Console, stack: ExitStack) -> int:
    home = options.home.resolve() / "airflow"
    dags = Path(__file__).resolve().parents[2] / "dags" / "examples"
    if not dags.is_dir():
        raise DemoError(f"the example DAGs are not at {dags}; run the demo from a checkout of the project")
    emulator = stack.enter_context(EmulatorServer(EmulatorSettings(progress=Progress.parse("seconds:8"))))
    port = free_port()
    env = environment(home, dags, port, emulator.url)
    with console.status("Preparing Airflow's database"):
        prepare_home(home, env)
    airflow = Airflow(home, env, port)
    stack.callback(airflow.stop)
    with console.status("Starting Airflow: API server, scheduler, triggerer, dag processor"):
        airflow.start()
        airflow.wait_until_healthy()
        airflow.wait_for_dag(DAG_ID)
    started = monotonic()
    runs = {provider: _trigger(airflow, provider, options.rows) for provider in RUNS}
    manifests = _watch(airflow, runs, console, started, options.timeout)
    console.print(result_table(manifests, options.rows))
    for provider, (manifest, _) in manifests.items():
        if manifest.get("result_uri"):
            console.print(f"{provider}: {manifest['result_uri']}", soft_wrap=True, markup=False, highlight=False)
    console.print(first_answers(manifests))
    complete = all(_is_complete(manifest, options.rows) for manifest, _ in manifests.values())
    if not complete:
        console.print(f"[red]Not every row is accounted for; see {home}/component-logs and {home}/logs[/red]")
    if options.keep:
        console.print(f"Airflow's pages: {airflow.url} - Ctrl-C stops everything")
        while True:
            airflow.check_alive()
            sleep(1)
    return 0 if complete else 1


def _trigger(airflow: Airflow, provider: str, rows: int) -> str:
    conn_id, model = RUNS[provider]
    run_id = f"demo__{provider}__{uuid4().hex[:8]}"
    conf = {"conn_id": conn_id, "model": model, "rows": rows}
    airflow.call("POST", f"/dags/{DAG_ID}/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": conf})
    return run_id


def _watch(
    airflow: Airflow, runs: dict[str, str], console: Console, started: float, timeout: float
) -> dict[str, tuple[dict[str, Any], float]]:
    """Show progress until every run has ended; return each provider's manifest and wall time in seconds."""
    ended: dict[str, float] = {}
    with Live(console=console, refresh_per_second=4) as live:
        while len(ended) < len(runs):
            airflow.check_alive()
            states = {provider: _states(airflow, run_id) for provider, run_id in runs.items()}
            for provider, state in states.items():
                if state["run"] in FINISHED:
                    ended.setdefault(provider, monotonic() - started)
            live.update(progress_table(states, monotonic() - started), refresh=True)
            if monotonic() - started > timeout:
                raise DemoError(f"the runs did not end within {timeout:.0f} s; see {airflow.home}/component-logs")
            sleep(0.5)
    if not console.is_terminal:
        # Live ends its last table with a line end on a terminal only.
        console.line()
    return {provider: (_manifest(airflow, run_id), ended[provider]) for provider, run_id in runs.items()}


def _states(airflow: Airflow, run_id: str) -> dict[str, str]:
    run = airflow.call("GET", f"/dags/{DAG_ID}/dagRuns/{run_id}")
    tasks: Any = airflow.call("GET", f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances")["task_instances"]
    states = {task["task_id"]: task["state"] or "waiting" for task in tasks}
    return {"run": str(run["state"]), **{name: states.get(name, "waiting") for name in TASKS}}


def _manifest(airflow: Airflow, run_id: str) -> dict[str, Any]:
    """Return the manifest that the apply step left, also where the outcome failed it."""
    path = f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/apply/xcomEntries/raif_manifest?deserialize=true"
    try:
        value = airflow.call("GET", path)["value"]
    except DemoError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_complete(manifest: dict[str, Any], rows: int) -> bool:
    """Whether the result file holds every row, counted in the file itself."""
    uri = manifest.get("result_uri")
    if not uri:
        return False
    with Path(str(uri).removeprefix("file://")).open("rb") as file:
        return sum(1 for _ in file) == rows


if __name__ == "__main__":
    sys.exit(main())
