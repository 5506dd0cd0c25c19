"""A batch of many parts: mapped tasks fetch and write one part each, on as many workers as there are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from airflow.sdk import DAG, Param, task

from airflow_raif.operators.batch import ApplyBatchResultsOperator, SubmitBatchOperator
from airflow_raif.sensors.batch import WaitForBatchSensor


def numbers(params: dict) -> Iterator[dict]:
    return ({"custom_id": f"number {n}", "prompt": f"Is {n} a prime number?"} for n in range(params["rows"]))


with DAG(
    dag_id="by_parts",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"rows": Param(200_000, type="integer", minimum=1)},
    doc_md=__doc__,
    tags=["raif"],
) as dag:
    submit = SubmitBatchOperator(
        task_id="submit", conn_id="openai_default", model="gpt-5-nano", requests=numbers, retries=1
    )
    wait = WaitForBatchSensor(task_id="wait", batch=submit.output, returns="parts", retries=1)
    apply = ApplyBatchResultsOperator.partial(
        task_id="apply", batch=submit.output, retries=1, map_index_template="part {{ task.part }}"
    ).expand(part=wait.output)

    @task
    def files(manifests: list[dict]) -> list[str]:
        """Return the result files in the order of the input."""
        return sorted(manifest["result_uri"] for manifest in manifests)

    files(apply.output)
