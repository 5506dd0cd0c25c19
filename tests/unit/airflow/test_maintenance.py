"""The maintenance operator: its parameters, its report, and when it fails."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from airflow_raif.domain.batch import Claim
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks.airflow_compat import task_state
from airflow_raif.hooks.batch import BatchHook
from airflow_raif.hooks.runtime import open_runtime
from airflow_raif.operators.maintenance import MaintainBatchesOperator, maintenance_dag
from airflow_raif.services.start import start_batch
from tests.support import defaults_of

AT_ONCE = timedelta(0)


def left_behind(raif_store, provider="openai", claim=None):
    """A batch that nobody waits for."""
    with open_runtime(f"{provider}_default", f"{provider}:m") as runtime:
        return start_batch(
            runtime, lambda: ["a"], defaults=defaults_of(provider), claim=claim or Claim("dag", "run", provider)
        )


def test_batches_of_every_connection_are_looked_after(emulator, providers, raif_store, context):
    """One pass over all; the report goes to XCom and holds no secret."""
    providers(emulator)
    batches = [left_behind(raif_store, provider) for provider in ("openai", "anthropic", "gemini")]
    report = MaintainBatchesOperator(task_id="t", grace=AT_ONCE).execute(context)
    assert report["counts"] == {"open": 3, "resumed": 3, "fetched": 3}
    assert all(any(batch.batch_id in line for line in report["done"]) for batch in batches)
    assert "good-key" not in json.dumps(report)
    applied = BatchHook("openai_default").apply_batch_results(batches[0].batch_id)
    assert applied.endswith("results.jsonl")


def test_nothing_to_do(raif_store, context, capsys):
    """That is a success, and is told: a log without a line leaves open whether anything was looked at."""
    assert MaintainBatchesOperator(task_id="t").execute(context) == {"counts": {"open": 0}, "done": [], "warnings": []}
    assert "Looked at 0 batches that were not done: nothing was to be done" in capsys.readouterr().out


def test_a_missing_connection_does_not_fail_the_others(emulator, providers, raif_store, context, monkeypatch):
    """It is in the report; alone it fails the task, since nothing could be done, and so does any warning by option."""
    providers(emulator)
    left_behind(raif_store, "openai")
    monkeypatch.delenv("AIRFLOW_CONN_OPENAI_DEFAULT")
    operator = MaintainBatchesOperator(task_id="t", grace=AT_ONCE)
    with pytest.raises(AirflowException, match="nothing could be done: connection openai_default: skipped 1 batches"):
        operator.execute(context)
    left_behind(raif_store, "gemini")
    report = operator.execute(context)
    assert report["counts"]["skipped"] == 1
    assert "there is no connection 'openai_default'" in report["warnings"][0]
    left_behind(raif_store, "anthropic")
    strict = MaintainBatchesOperator(task_id="t", grace=AT_ONCE, fail_on_warnings=True)
    with pytest.raises(AirflowException, match="there is something to look at: connection openai_default"):
        strict.execute(context)
    assert len(raif_store.open_batches()) == 1


@pytest.mark.parametrize(("state", "status"), [("failed", "canceled"), ("success", "in_progress")])
def test_batches_of_failed_tasks_are_canceled_by_option(emulator_of, providers, raif_store, context, state, status):
    """The task's state is asked for by its claim; without the option it is not asked for."""
    emulator = emulator_of(progress=Progress.parse("polls:1000"))
    providers(emulator)
    batch = left_behind(raif_store, claim=Claim("d", "r", "ask", 7))
    MaintainBatchesOperator(task_id="t", grace=AT_ONCE).execute(context)
    asked = {}

    def get_task_states(**arguments):
        asked.update(arguments)
        return {"r": {"ask_7": state}}

    context["ti"].get_task_states = get_task_states
    MaintainBatchesOperator(task_id="t", grace=AT_ONCE, cancel_abandoned=True).execute(context)
    assert asked == {"dag_id": "d", "task_ids": ["ask"], "run_ids": ["r"], "map_index": 7}
    assert raif_store.get_batch(batch.batch_id).status is BatchStatus(status)


def test_a_state_that_cannot_be_told(context):
    """A run that Airflow does not know, a task without a state, or an API that fails: nobody is taken for over."""
    claim = Claim("d", "r", "t")
    for answer in ({}, {"r": {}}, {"r": {"t": None}}, {"r": {"t_0": "failed"}}):
        context["ti"].get_task_states = lambda answer=answer, **_: answer
        assert task_state(context["ti"], claim) is None

    def fails(**_):
        raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))

    context["ti"].get_task_states = fails
    assert task_state(context["ti"], claim) is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_age": 26}, "max_age is 26; give a timedelta"),
        ({"grace": None}, "grace is None; give a timedelta"),
        ({"delete_spools_after": timedelta(days=-1)}, "delete_spools_after is .*; give a timedelta"),
        ({"cancel_expired": True}, "cancel_expired says nothing without max_age"),
    ],
)
def test_wrong_parameters_are_refused_when_the_file_is_parsed(parameters, message):
    """Long before something would be deleted by mistake."""
    with pytest.raises(ValueError, match=message):
        MaintainBatchesOperator(task_id="t", **parameters)


def test_the_dag_runs_one_pass_at_a_time():
    """Hourly by default, without runs of the past; parameters are the operator's."""
    dag = maintenance_dag(max_age=timedelta(hours=30), retries=3)
    assert (dag.dag_id, dag.catchup, dag.max_active_runs) == ("raif_maintenance", False, 1)
    (task,) = dag.tasks
    assert (task.max_age, task.retries, task.cancel_expired) == (timedelta(hours=30), 3, False)
    assert maintenance_dag("other", schedule=None).dag_id == "other"
