"""Every example DAG, and those of the guide that are run, run whole on the emulator."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from datetime import date, timedelta

import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine, make_url, text

from airflow_raif.domain.batch import Claim
from airflow_raif.emulator.faults import RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks.runtime import open_runtime
from airflow_raif.services.runtime import utc_now
from airflow_raif.services.start import start_batch
from tests.guide import blocks
from tests.support import defaults_of, need_pydantic_ai, read_rows


@pytest.fixture
def run_dag(migrated, repository, emulator_of, connections):
    def run(name, conf=None, before=lambda: None, progress="polls:2", fault=None, at=None, **limits):
        emulator = at or emulator_of(progress=Progress.parse(progress))
        emulator.state.faults.rows += [fault] if fault else []
        connections(emulator, **limits)
        before()
        dag = load(repository / "dags" / "examples", name).dag
        return dag.test(run_conf=conf), emulator

    return run


def load(folder, name):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    # Where Airflow has it, and Pydantic looks for the names in annotations.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
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


def test_parquet(run_dag, tmp_path):
    """Each row of a file makes a prompt of its columns; the columns that are picked are in another file, with types."""
    run, _ = run_dag("parquet", {"folder": f"file://{tmp_path}"})
    assert run.state == "success"
    manifest = output_of(run, "advertise")
    assert manifest["destination_uri"] == f"file://{tmp_path}/{run.run_id}.parquet"
    table = pq.read_table(tmp_path / f"{run.run_id}.parquet")
    assert [str(kind) for kind in table.schema.types] == ["string", "date32[day]", "string", "list<element: string>"]
    found = table.to_pylist()
    assert [(row["sku"], row["listed"]) for row in found] == [
        ("A-1", date(2026, 1, 5)), ("A-2", date(2026, 2, 1)), ("A-3", None),
    ]  # fmt: skip
    assert all(row["headline"] and row["keywords"] is not None for row in found)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def warehouse(request, tmp_path, monkeypatch):
    """An empty database behind the connection ``warehouse``, by what runs a statement in it."""
    if request.param == "sqlite":
        address = make_url(f"sqlite:///{tmp_path}/warehouse.db")
        connection = {"conn_type": "sqlite", "host": str(address.database)}
    else:
        address = make_url(request.getfixturevalue("postgres").create_database())
        connection = {
            "conn_type": "postgres", "host": address.host, "port": address.port, "login": address.username,
            "password": address.password, "schema": address.database,
        }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    engine = create_engine(address)

    def run(statement, *rows):
        with engine.begin() as opened:
            result = opened.execute(text(statement), *rows)
            return result.all() if result.returns_rows else []

    yield run
    engine.dispose()


def test_sql_to_sql(run_dag, warehouse):
    """From a table into the same table: the second night pays for what is new or changed, the third for nothing."""
    warehouse("CREATE TABLE review (id INTEGER PRIMARY KEY, body TEXT, mood TEXT)")
    insert, sent, emulator = "INSERT INTO review VALUES (:id, :body, NULL)", [], None
    for night in (range(3), range(3, 5), ()):
        if night:
            warehouse(insert, [{"id": n, "body": f"Review {n}"} for n in night])
            warehouse("UPDATE review SET body = body || '!' WHERE id = 1")
        run, emulator = run_dag("sql_to_sql", at=emulator)
        assert run.state == "success"
        parts = output_of(run, "mood")["parts"]
        sent.append(sum(part["request_count"] for part in parts if part["provider_batch_id"]))
    assert emulator.state.creates["openai"] == 2
    assert sent == [3, 3, 0]
    assert {mood for (mood,) in warehouse("SELECT mood FROM review")} <= {"good", "bad"}


def test_the_second_night_of_ten_thousand_rows(run_dag, warehouse):
    """With one in a hundred changed, a hundred requests are sent; each row has the answer to what it says now."""
    warehouse("CREATE TABLE review (id INTEGER PRIMARY KEY, body TEXT, mood TEXT)")
    rows = [{"id": n, "body": f"Review {n}"} for n in range(10_000)]
    warehouse("INSERT INTO review VALUES (:id, :body, NULL)", rows)
    run, emulator = run_dag("sql_to_sql")
    first = output_of(run, "mood")
    warehouse("UPDATE review SET body = 'Another ' || body, mood = NULL WHERE id % 100 = 7")
    run, _ = run_dag("sql_to_sql", at=emulator)
    second = output_of(run, "mood")
    assert [part["request_count"] for part in second["parts"] if part["provider_batch_id"]] == [100]
    assert (second["reused"], second["counts"]["completed"]) == (9_900, 10_000)
    assert float(second["cost"]["batch"]) < 0.02 * float(first["cost"]["batch"])
    assert warehouse("SELECT count(*) FROM review WHERE mood IS NULL") == [(0,)]


def test_budget(run_dag):
    """It tells what it would cost; it stops before anything is sent; or it is done."""
    run, emulator = run_dag("budget", {"only_tell": True})
    (ti,) = run.get_task_instances()
    assert ti.state == "skipped"
    told = ti.xcom_pull(task_ids="slogans", key="raif_estimate")
    assert (told["rows"], told["requests"], told["usage"]["output_tokens"]) == (2, 2, 4000)
    assert 0.0001 < float(told["cost"]["batch"]) < 0.5
    run, _ = run_dag("budget", {"max_cost": 0.0001}, at=emulator)
    assert run.state == "failed"
    assert sum(emulator.state.requests.values()) == 0
    run, _ = run_dag("budget")
    assert output_of(run, "slogans")["counts"]["completed"] == 2


def test_decorator(run_dag):
    """A function's rows, its parameters from upstream and from the context; the manifest goes on to the next task."""
    run, _ = run_dag("decorator", {"language": "Norwegian"})
    assert run.state == "success"
    manifest = output_of(run, "describe")
    assert [row["city"] for row in read_rows(manifest["result_uri"])] == ["Oslo", "Lima", "Hanoi"]
    assert output_of(run, "report").startswith("3 cities for 0.")


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


GROUP = """
from airflow.sdk import DAG, Param, task
from airflow_raif.operators.groups import batch_group

def numbers(params):
    return ({"custom_id": f"number {n}", "prompt": f"Is {n} a prime number?"} for n in range(params["rows"]))

with DAG("group", schedule=None, params={"rows": Param(10, type="integer")}) as dag:
    batch_group(
        "answers", by_parts=True, conn_id="openai_default", model="gpt-5-nano", requests=numbers,
        default_args={"retries": 1},
    )
    task(lambda manifests: sorted(each["result_uri"] for each in manifests), task_id="files")(
        dag.get_task("answers.apply").output
    )
"""


def test_a_group_by_parts(migrated, emulator_of, connections, monkeypatch, tmp_path):
    """Mapped tasks fetch and write a part each; a failed row of one goes out again and comes back into its file."""
    (tmp_path / "group.py").write_text(GROUP)
    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(tmp_path))
    emulator = emulator_of(progress=Progress.parse("polls:2"))
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    connections(emulator, max_requests=4)
    run = load(tmp_path, "group").dag.test()
    assert run.state == "success"
    uris = output_of(run, "files")
    assert [len(read_rows(uri)) for uri in uris] == [4, 4, 2]
    found = [row for uri in uris for row in read_rows(uri)]
    assert [(row["custom_id"], row["status"]) for row in found] == [(f"number {n}", "completed") for n in range(10)]
    assert [output_of(run, "answers.apply", map_index)["part"] for map_index in range(3)] == [0, 1, 2]
    assert emulator.state.creates["openai"] == 4


def test_images(run_dag):
    """Each prompt's picture is in the request, and the answer follows the schema."""
    need_pydantic_ai("openai")
    run, _ = run_dag("images")
    assert run.state == "success"
    found = read_rows(output_of(run, "describe")["result_uri"])
    assert [(row["custom_id"], set(row["output"])) for row in found] == [("A-1", {"text"}), ("A-2", {"text"})]


def test_agent(run_dag):
    """The agent's output comes back beside the rows' own columns."""
    need_pydantic_ai("openai")
    run, _ = run_dag("agent")
    assert run.state == "success"
    found = read_rows(output_of(run, "judge")["result_uri"])
    assert [(row["custom_id"], row["shop"], row["status"]) for row in found] == [
        ("r1", "Oslo", "completed"),
        ("r2", "Lima", "completed"),
    ]
    assert all(set(row["output"]) == {"mood", "stars"} for row in found)


CANCEL = """
from airflow.sdk import DAG
from airflow_raif.operators.batch import CancelBatchOperator, SubmitBatchOperator
from airflow_raif.sensors.batch import WaitForBatchSensor

with DAG("cancel", schedule=None) as dag:
    submit = SubmitBatchOperator(task_id="submit", conn_id="gemini_default", model="gemini-2.5-flash", requests=["x"])
    wait = WaitForBatchSensor(task_id="wait", batch=submit.output, retries=1)
    CancelBatchOperator(task_id="cancel", batch=submit.output) >> wait
"""


def test_cancel(migrated, emulator_of, connections, monkeypatch, tmp_path):
    """A cancel ends the batch, and the waiting task is told so."""
    (tmp_path / "cancel.py").write_text(CANCEL)
    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(tmp_path))
    emulator = emulator_of(progress=Progress.parse("polls:2"))
    connections(emulator)
    run = load(tmp_path, "cancel").dag.test()
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
