"""The ways a batch lives in a DAG: in three tasks, by parts, in one, and in mapped ones."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, Param

from airflow_raif.operators.batch import ApplyBatchResultsOperator, BatchInferenceOperator, SubmitBatchOperator
from airflow_raif.sensors.batch import WaitForBatchSensor

START = datetime(2026, 1, 1, tzinfo=UTC)
PARAMS = {
    "conn_id": Param("openai_default", type="string"),
    "model": Param("openai:gpt-5-nano", type="string"),
    "rows": Param(50, type="integer"),
}
WHERE = {"conn_id": "{{ params.conn_id }}", "model": "{{ params.model }}", "max_tokens": 100, "retries": 2}


def rows(params):
    return ({"custom_id": f"row {n}", "prompt": f"Sum up number {n}."} for n in range(params["rows"]))


# Its one interval is long past: only a backfill runs it by itself.
with DAG("three_tasks", schedule="@daily", start_date=START, end_date=START, catchup=False, params=PARAMS):
    submit = SubmitBatchOperator(task_id="submit", requests=rows, **WHERE)
    wait = WaitForBatchSensor(task_id="wait", batch=submit.output, retries=2)
    ApplyBatchResultsOperator(task_id="apply", batch=wait.output, retries=2)

with DAG("by_parts", schedule=None, start_date=START, params=PARAMS):
    submit = SubmitBatchOperator(task_id="submit", requests=rows, **WHERE)
    wait = WaitForBatchSensor(task_id="wait", batch=submit.output, returns="parts", retries=2)
    ApplyBatchResultsOperator.partial(task_id="apply", batch=submit.output, retries=2).expand(part=wait.output)

with DAG("one_task", schedule=None, start_date=START, params=PARAMS):
    BatchInferenceOperator(task_id="infer", requests=rows, **WHERE)

with DAG("mapped", schedule=None, start_date=START, params=PARAMS):
    BatchInferenceOperator.partial(task_id="infer", **WHERE).expand(requests=[["a", "b"], ["c", "d"]])
