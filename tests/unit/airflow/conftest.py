"""Connections in the environment, a scratch store and a task context."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest

from airflow_raif.hooks import store as store_hook
from airflow_raif.store import Store
from tests.support import base_url


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Define a connection in the environment."""

    def define(conn_id: str, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return define


@pytest.fixture
def raif_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A store, a spool and results of this test's own."""
    monkeypatch.setenv("AIRFLOW__RAIF__SPOOL_PATH", f"file://{tmp_path}/spool")
    monkeypatch.setenv("AIRFLOW__RAIF__RESULT_PATH", f"file://{tmp_path}/results")
    monkeypatch.setattr(store_hook, "AIRFLOW_HOME", str(tmp_path))
    yield tmp_path
    for address in [each for each in store_hook._STORES if str(tmp_path) in each]:
        store_hook._STORES.pop(address).close()


@pytest.fixture
def raif_store(raif_home: Path, empty_store: Path) -> Store:
    """The store that the hooks find."""
    shutil.copy(empty_store, raif_home / "raif.db")
    return store_hook.find_store()


@pytest.fixture
def providers(connection: Callable[..., None], raif_home: Path) -> Callable[..., None]:
    """Point the three default connections at an emulator."""

    def point(emulator: Any, key: str = "good-key") -> None:
        for provider in ("openai", "anthropic", "gemini"):
            connection(
                f"{provider}_default",
                conn_type=f"raif_{provider}",
                password=key,
                host=base_url(provider, emulator.url),
            )

    return point


@pytest.fixture
def airflow_database(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand in for the supervisor between a task and Airflow's database; ``away``: so many questions fail."""
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import ErrorResponse

    database = SimpleNamespace(away=0, asked=0)

    def send(message: Any) -> Any:
        database.asked += 1
        down = database.away > 0
        if type(message).__name__ == "GetConnection":
            # As Airflow 3.3 answers whether the connection or the database is missing.
            return ErrorResponse(error=ErrorType.CONNECTION_NOT_FOUND, detail={"conn_id": message.conn_id})
        assert type(message).__name__ == "GetDRCount"
        if down:
            database.away -= 1
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 500}))
        return None

    async def asend(message: Any) -> Any:
        return send(message)

    comms = SimpleNamespace(send=send, asend=asend)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
    return database


@pytest.fixture
def context() -> dict[str, Any]:
    """What a task sees; what it pushes to XCom lies in ``context["pushed"]``."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(
        id=uuid4(),
        dag_id="dag",
        run_id="run",
        task_id="task",
        map_index=-1,
        get_task_states=RuntimeTaskInstance.get_task_states,
        xcom_push=lambda key, value: pushed.__setitem__(key, value),
    )
    return {"ti": ti, "pushed": pushed, "params": {}}


@pytest.fixture
def answer_states(monkeypatch: pytest.MonkeyPatch, airflow_database: Any) -> Callable[..., None]:
    """Stand in for the supervisor that a worker and a triggerer ask about task states.

    ``given_up``: the try that asks is not the last one any more.
    """
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import ErrorResponse, TaskStatesResult

    others = task_runner.SUPERVISOR_COMMS.send

    def answer(states: dict[str, str | None], *, given_up: bool = False) -> None:
        def send(message: Any) -> Any:
            if type(message).__name__ == "GetTaskStates":
                return TaskStatesResult(task_states={"run": states})
            if type(message).__name__ == "ValidateInletsAndOutlets":
                if given_up:
                    raise AirflowRuntimeError(
                        ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 404})
                    )
                return None
            return others(message)

        async def asend(message: Any) -> Any:
            return send(message)

        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", SimpleNamespace(send=send, asend=asend), raising=False)

    return answer


@pytest.fixture
def at_create(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object], str], None]:
    """Run something in the middle of the n-th create, before it is sent or before its reply is read."""

    def arrange(number: int, act: Callable[[], object], moment: str) -> None:
        send, seen = httpx.HTTPTransport.handle_request, []

        def handle(self, request):
            is_create = request.method == "POST" and request.url.path.endswith(("/batches", ":batchGenerateContent"))
            seen.extend([request] if is_create else [])
            is_due = is_create and len(seen) == number
            if is_due and moment == "before":
                act()
            response = send(self, request)
            if is_due and moment == "after":
                act()
            return response

        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)

    return arrange


@pytest.fixture
def raif_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run ``airflow raif`` with some words; return its exit code and what it wrote."""
    from airflow.cli import cli_parser

    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    parser = cli_parser.get_parser()

    def run(*words: str, answer: str = "") -> SimpleNamespace:
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        code: Any = 0
        try:
            arguments = parser.parse_args(["raif", *words])
            arguments.func(arguments)
        except SystemExit as end:
            code = end.code
        written = capsys.readouterr()
        return SimpleNamespace(code=code, out=written.out, err=written.err)

    return run
