"""Every example DAG, run whole on the emulator."""

from __future__ import annotations

import importlib.util

import pytest

from airflow_raif.emulator.settings import Progress
from tests.support import read_rows


@pytest.fixture
def run_dag(migrated, repository, emulator_of, connections):
    def run(name, conf=None, **settings):
        emulator = emulator_of(progress=Progress.parse("polls:2"), **settings)
        connections(emulator)
        spec = importlib.util.spec_from_file_location(name, repository / "dags" / "examples" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        dag = module.dag
        return dag.test(run_conf=conf), emulator

    return run


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


def test_cancel(run_dag):
    """A cancel ends the batch, and the waiting task is told so."""
    run, emulator = run_dag("cancel")
    assert run.state == "success"
    assert output_of(run, "wait")["status"] == "canceled"
    assert emulator.state.requests["gemini.batches.cancel"] == 1
