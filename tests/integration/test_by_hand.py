"""What people do by hand with a batch of a task: the store, the provider and Airflow's own database go together."""

from __future__ import annotations

import json

import pytest
from airflow.cli import cli_parser

from airflow_raif.domain.batch import Claim
from airflow_raif.domain.errors import TaskMissingError
from airflow_raif.emulator.faults import RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks.airflow_compat import clear_task, connections_of_types, triggerer_heartbeat
from airflow_raif.hooks.store import find_store
from tests.integration.test_example_dags import load
from tests.support import read_rows


@pytest.fixture
def live(migrated, repository, emulator_of, connections):
    """Run an example DAG; return it, its run and the emulator."""

    def run(name, conf=None, **fault):
        emulator = emulator_of(progress=Progress.parse("polls:2"))
        emulator.state.faults.rows += [RowFault(**fault)] if fault else []
        connections(emulator)
        dag = load(repository / "dags" / "examples", name).dag
        return dag, dag.test(run_conf=conf), emulator

    return run


@pytest.fixture
def raif(monkeypatch, capsys):
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    parser = cli_parser.get_parser()

    def run(*words):
        capsys.readouterr()
        code = 0
        try:
            arguments = parser.parse_args(["raif", *words])
            arguments.func(arguments)
        except SystemExit as end:
            code = end.code
        return (code, *capsys.readouterr())

    return run


def states(run):
    """What Airflow has of each task now."""
    return {(ti.task_id, ti.map_index): ti.state for ti in run.get_task_instances()}


def run_cleared(dag, run):
    """Run what was cleared, as a scheduler does."""
    from airflow.sdk.definitions.dag import _run_task

    order = [task.task_id for task in dag.topological_sort()]
    for ti in sorted(run.get_task_instances(), key=lambda ti: order.index(ti.task_id)):
        if ti.state is None:
            _run_task(ti=ti, task=dag.task_dict[ti.task_id], run_triggerer=True)


def test_a_retry_by_hand_runs_through_all_three_tasks(live, raif):
    """What is asked for is told before; the tasks from the submission on are cleared, and only failed rows are sent."""
    dag, run, emulator = live("nightly_docstrings", {"rows": 6}, kind="errored", rows=[1, 4], batches=1)
    batch = find_store().find_by_claim(Claim("nightly_docstrings", run.run_id, "submit"))
    code, out, _ = raif("batches", "retry", batch.batch_id, "--dry-run", "-o", "json")
    assert code == 0
    names = ["apply", "submit", "wait"]
    assert (json.loads(out)["entry_count"], json.loads(out)["tasks"]) == (2, names)
    assert set(states(run).values()) == {"success"}
    code, out, _ = raif("batches", "retry", batch.batch_id, "--yes")
    assert code == 0
    assert "Cleared in Airflow: apply, submit, wait" in out
    assert {task for (task, _), state in states(run).items() if state is None} == set(names)
    assert emulator.state.creates["openai"] == 1
    code, out, _ = raif("batches", "resume", batch.batch_id)
    assert code == 0
    assert "Its task goes on by itself: apply, submit, wait is not over." in out
    run_cleared(dag, run)
    assert set(states(run).values()) == {"success"}
    assert emulator.state.creates["openai"] == 2
    done = find_store().get_batch(batch.batch_id)
    assert [part.request_count for part in done.parts] == [6, 2]
    assert [row["status"] for row in read_rows(done.result_uri)] == ["completed"] * 6


def test_a_canceled_batch_comes_back_instead_of_a_new_one(live, raif):
    """The same task, the same batch: what was canceled is sent, and nothing is paid twice."""
    dag, run, emulator = live("one_task", kind="canceled", rows=[0], batches=1)
    batch = find_store().find_by_claim(Claim("one_task", run.run_id, "translate"))
    code, out, _ = raif("batches", "retry", batch.batch_id, "--yes", "--reason", "canceled")
    assert (code, "Cleared in Airflow: translate" in out) == (0, True)
    run_cleared(dag, run)
    assert states(run) == {("translate", -1): "success"}
    for gone in (("gone", run.run_id, "translate"), ("one_task", "gone", "translate"), ("one_task", run.run_id, "x")):
        with pytest.raises(TaskMissingError, match="BatchHook's advance_batch"):
            clear_task(Claim(*gone))
    assert states(run) == {("translate", -1): "success"}
    done = find_store().get_batch(batch.batch_id)
    assert [part.request_count for part in done.parts] == [2, 1]
    assert emulator.state.creates["anthropic"] == 2


def test_resume_has_a_task_that_is_over_run_again(live, raif):
    """A batch that was begun again while nobody was there is stuck until its task runs; resume sees to that."""
    dag, run, emulator = live("one_task", kind="errored", rows=[0], batches=1)
    batch = find_store().find_by_claim(Claim("one_task", run.run_id, "translate"))
    from airflow_raif.hooks.runtime import open_batch_runtime
    from airflow_raif.services.retry import retry_failed

    with open_batch_runtime(batch.batch_id) as (runtime, _):
        retry_failed(runtime, batch.batch_id)
    assert set(states(run).values()) == {"success"}
    code, out, err = raif("batches", "resume", batch.batch_id)
    assert (code, err) == (0, "")
    assert "Cleared in Airflow: translate" in out
    run_cleared(dag, run)
    assert find_store().get_batch(batch.batch_id).applied_at is not None
    assert emulator.state.creates["anthropic"] == 2


def test_a_mapped_task_is_cleared_alone(live):
    """Of several that were expanded, the one that made the batch, and what is downstream of it."""
    _, run, _ = live("mapped_providers")
    mapped = sorted((task, index) for task, index in states(run) if index >= 0)
    assert len(mapped) >= 2, states(run)
    task_id, index = mapped[1]
    told = clear_task(Claim(run.dag_id, run.run_id, task_id, index), dry_run=True)
    assert f"{task_id}[{index}]" in told.names
    assert f"{task_id}[{mapped[0][1]}]" not in told.names
    assert set(states(run).values()) == {"success"}
    clear_task(Claim(run.dag_id, run.run_id, task_id, index))
    assert states(run)[task_id, index] is None
    assert states(run)[mapped[0]] == "success"


def test_the_audit_log_tells_of_it(migrated, raif):
    """Who did what, as of Airflow's own commands."""
    from airflow.models.log import Log
    from airflow.utils.session import create_session
    from sqlalchemy import select

    assert raif("batches", "show", "0" * 32)[0] == 1
    assert raif("batches", "cancel", "0" * 32, "--yes")[0] == 1
    with create_session() as session:
        events = set(session.scalars(select(Log.event)))
    assert "cli_raif_cancel" in events
    assert "cli_raif_show" not in events


def test_what_airflow_tells_the_doctor(migrated, monkeypatch):
    """Connections by type, from the database and the environment; and that no triggerer was ever heard of."""
    from airflow.models import Connection
    from airflow.utils.session import create_session

    with create_session() as session:
        session.add(Connection(conn_id="llm_of_the_database", conn_type="raif_openai", password="key"))
        session.add(Connection(conn_id="no_llm", conn_type="postgres", password="key"))
    monkeypatch.setenv("AIRFLOW_CONN_BY_ADDRESS", "raif-gemini://:key@")
    monkeypatch.setenv("AIRFLOW_CONN_BY_JSON", '{"conn_type": "openai"}')
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", '{"conn_type": ')
    found = connections_of_types(("raif_openai", "raif_gemini", "openai"))
    assert {"llm_of_the_database", "by_address", "by_json"} <= set(found)
    assert not {"no_llm", "other"} & set(found)
    assert triggerer_heartbeat() == (None, False)
