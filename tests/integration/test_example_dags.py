"""Every example DAG, and those of the guide that are run, run whole on the emulator."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sqlite3
import sys
from contextlib import closing
from datetime import timedelta

import pytest

from airflow_raif.domain.batch import Claim
from airflow_raif.emulator.faults import RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks.runtime import open_runtime
from airflow_raif.services.runtime import utc_now
from airflow_raif.services.start import start_batch
from tests.guide import blocks
from tests.support import defaults_of, read_rows


@pytest.fixture
def run_dag(migrated, repository, emulator_of, connections):
    def run(name, conf=None, before=lambda: None, progress="polls:2", fault=None, **limits):
        emulator = emulator_of(progress=Progress.parse(progress))
        emulator.state.faults.rows += [fault] if fault else []
        connections(emulator, **limits)
        before()
        dag = load(repository / "dags" / "examples", name).dag
        return dag.test(run_conf=conf), emulator

    return run


def load(folder, name):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def output_of(run, task_id, map_index=-1):
    ti = next(ti for ti in run.get_task_instances() if (ti.task_id, ti.map_index) == (task_id, map_index))
    return ti.xcom_pull(task_ids=task_id, map_indexes=map_index)


@pytest.mark.parametrize(
    ("conn_id", "model"),
    [
        ("openai_default", "openai:gpt-5-nano"),
        ("anthropic_default", "anthropic:claude-haiku-4-5"),
        ("gemini_default", "gemini:gemini-2.5-flash"),
    ],
)
def test_nightly_docstrings(run_dag, conn_id, model):
    """The nightly job answers every docstring on each provider."""
    run, _ = run_dag("nightly_docstrings", {"conn_id": conn_id, "model": model, "rows": 40})
    assert run.state == "success"
    manifest = output_of(run, "apply")
    assert manifest["counts"]["completed"] == 40
    found = read_rows(manifest["result_uri"])
    assert len(found) == 40
    assert all(set(row["output"]) == {"summary", "category"} and row["module"] for row in found)


def test_one_task(run_dag):
    """Submit, wait and apply in one task."""
    run, _ = run_dag("one_task")
    assert run.state == "success"
    found = read_rows(output_of(run, "translate")["result_uri"])
    assert [(row["custom_id"], row["lang"], row["status"]) for row in found] == [
        ("greeting", "en", "completed"),
        ("farewell", "en", "completed"),
    ]


def test_prompt_template(run_dag):
    """Each row of a file makes a prompt of its columns."""
    run, _ = run_dag("prompt_template")
    assert run.state == "success"
    found = read_rows(output_of(run, "advertise")["result_uri"])
    assert [(row["custom_id"], row["name"], row["status"]) for row in found] == [
        ("A-1", "Desk lamp", "completed"),
        ("A-2", "Kettle", "completed"),
        ("A-3", "Notebook", "completed"),
    ]


def test_sql_to_sql(run_dag, monkeypatch, tmp_path):
    """From a table into the same table, twice: the second night finds what is new."""
    address = tmp_path / "warehouse.db"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(address)}))
    with closing(sqlite3.connect(address, isolation_level=None)) as warehouse:
        warehouse.execute("CREATE TABLE review (id INTEGER PRIMARY KEY, body TEXT, mood TEXT)")
        for night in (range(3), range(3, 5)):
            warehouse.executemany("INSERT INTO review VALUES (?, ?, NULL)", [(n, f"Review {n}") for n in night])
            run, _ = run_dag("sql_to_sql")
            assert run.state == "success"
            assert output_of(run, "mood")["counts"]["completed"] == len(night)
        run, _ = run_dag("sql_to_sql")
        assert [ti.state for ti in run.get_task_instances()] == ["skipped"]
        moods = warehouse.execute("SELECT mood FROM review").fetchall()
    assert len(moods) == 5
    assert {mood for (mood,) in moods} <= {"good", "bad"}


def test_decorator(run_dag):
    """A function's rows, its parameters from upstream and from the context; the manifest goes on to the next task."""
    run, _ = run_dag("decorator", {"language": "Norwegian"})
    assert run.state == "success"
    manifest = output_of(run, "describe")
    assert [row["city"] for row in read_rows(manifest["result_uri"])] == ["Oslo", "Lima", "Hanoi"]
    assert output_of(run, "report").startswith("3 cities for 0.")


def test_group(run_dag):
    """Submit, wait and apply."""
    run, _ = run_dag("group")
    assert run.state == "success"
    assert {ti.task_id for ti in run.get_task_instances()} == {
        "questions", "answers.submit", "answers.wait", "answers.apply",
    }  # fmt: skip
    found = read_rows(output_of(run, "answers.apply")["result_uri"])
    assert [(row["n"], row["status"]) for row in found] == [(n, "completed") for n in range(6)]


def test_handler(run_dag, caplog):
    """Each result is handed over, then the batch."""
    with caplog.at_level("INFO"):
        run, _ = run_dag("handler")
    assert run.state == "success"
    said = [record.getMessage() for record in caplog.records if record.name == "handler"]
    assert [line.partition(":")[0] for line in said[:2]] == ["Ticket T-1", "Ticket T-2"]
    assert said[2].startswith("2 tickets for 0.")


def test_embeddings(run_dag):
    """Rows of an upstream task come back as vectors."""
    run, _ = run_dag("embeddings")
    assert run.state == "success"
    found = read_rows(output_of(run, "embed")["result_uri"])
    assert [row["custom_id"] for row in found] == ["Dune", "Emma", "Ulysses"]
    assert all(len(row["output"]) == 1536 for row in found)


def test_mapped_providers(run_dag):
    """One batch per provider from one mapped task."""
    run, emulator = run_dag("mapped_providers")
    assert run.state == "success"
    manifests = [output_of(run, "ask", map_index) for map_index in range(3)]
    assert {manifest["provider"] for manifest in manifests} == {"openai", "anthropic", "gemini"}
    assert all(manifest["counts"]["completed"] == 2 for manifest in manifests)
    assert emulator.state.creates == {"openai": 1, "anthropic": 1, "gemini": 1}


def test_by_parts(run_dag):
    """Mapped tasks fetch and write a part each; a failed row of one goes out again and comes back into its file."""
    run, emulator = run_dag(
        "by_parts", {"rows": 10}, max_requests=4, fault=RowFault(kind="missing", rows=[1], batches=1)
    )
    assert run.state == "success"
    uris = output_of(run, "files")
    assert [len(read_rows(uri)) for uri in uris] == [4, 4, 2]
    found = [row for uri in uris for row in read_rows(uri)]
    assert [(row["custom_id"], row["status"]) for row in found] == [(f"number {n}", "completed") for n in range(10)]
    assert [output_of(run, "apply", map_index)["part"] for map_index in range(3)] == [0, 1, 2]
    assert emulator.state.creates["openai"] == 4


def test_cancel(run_dag):
    """A cancel ends the batch, and the waiting task is told so."""
    run, emulator = run_dag("cancel")
    assert run.state == "success"
    assert output_of(run, "wait")["status"] == "canceled"
    assert emulator.state.requests["gemini.batches.cancel"] == 1


def leave_behind(claim):
    """A batch that a task submitted three hours ago and nobody waits for."""
    with open_runtime("openai_default") as runtime:
        past = dataclasses.replace(runtime, clock=lambda: utc_now() - timedelta(hours=3))
        return start_batch(past, lambda: ["a", "b"], defaults=defaults_of("openai"), claim=claim)


def test_maintenance(run_dag):
    """The hourly pass fetches what a dead task left; the report is what the task returns."""
    left = []
    claim = Claim("gone", "run", "task")
    run, _ = run_dag("maintenance", before=lambda: left.append(leave_behind(claim)), progress="immediate")
    assert run.state == "success"
    report = output_of(run, "maintain")
    assert report["counts"]["fetched"] == 1
    assert any(left[0].batch_id in line and "2 completed" in line for line in report["done"])


OVER = """
from airflow.sdk import DAG, task
from airflow_raif.operators.maintenance import maintenance_dag

with DAG("over", schedule=None) as over:

    @task
    def ends(is_fine):
        assert is_fine

    ends.expand(is_fine=[True, False])

cancels = maintenance_dag("cancels", schedule=None, cancel_abandoned=True)
"""


def test_maintenance_asks_airflow_for_the_state_of_tasks(migrated, emulator_of, connections, monkeypatch, tmp_path):
    """A task that failed leaves a batch behind, which is canceled by option; one that succeeded keeps its own."""
    (tmp_path / "over.py").write_text(OVER)
    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(tmp_path))
    module = load(tmp_path, "over")
    run = module.over.test()
    emulator = emulator_of(progress=Progress.parse("polls:1000"))
    connections(emulator)
    batches = [leave_behind(Claim("over", run.run_id, "ends", map_index)) for map_index in range(2)]
    done = module.cancels.test()
    assert (run.state, done.state) == ("failed", "success")
    lines = output_of(done, "maintain")["done"]
    kept, canceled = ([line for line in lines if batch.batch_id in line] for batch in batches)
    assert [line.endswith("nobody waited for it; it is in_progress") for line in kept] == [True]
    assert "its task is failed; it was told to stop" in canceled[0]
    assert emulator.state.requests["openai.batches.cancel"] == 1


def test_the_first_dag_of_the_guide(migrated, repository, emulator_of, connections, monkeypatch, tmp_path):
    """It gives the rows that its page shows, but for what is made up."""
    (block,) = blocks(repository / "docs" / "start" / "first-dag.md", "python")
    (tmp_path / "first.py").write_text(block.text.replace("schedule=None):", "schedule=None) as dag:"))
    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(tmp_path))
    connections(emulator_of())
    run = load(tmp_path, "first").dag.test()
    assert run.state == "success"
    found = read_rows(output_of(run, "mood")["result_uri"])
    assert [(row["custom_id"], row["shop"], row["status"]) for row in found] == [
        ("r1", "Oslo", "completed"),
        ("r2", "Lima", "completed"),
    ]
    assert {row["output"]["mood"] for row in found} <= {"good", "bad"}


def test_the_guides_test_of_a_dag(migrated, repository, emulator_of, connections, monkeypatch, tmp_path):
    """It passes as it stands, on the Airflow of these tests."""
    dag, _, test = blocks(repository / "docs" / "how-to" / "testing.md", "python")
    (tmp_path / "reviews.py").write_text(dag.text)
    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(tmp_path))
    monkeypatch.setitem(sys.modules, "reviews", load(tmp_path, "reviews"))
    emulator = emulator_of()
    connections(emulator)
    namespace = {}
    exec(test.text, namespace)
    (run_test,) = (each for name, each in namespace.items() if name.startswith("test_"))
    run_test(emulator)
