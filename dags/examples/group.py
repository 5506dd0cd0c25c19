"""The three steps as a task group, between the tasks before and after it."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, task

from airflow_raif.operators.groups import batch_group

with DAG(dag_id="group", schedule=None, start_date=datetime(2026, 1, 1), doc_md=__doc__, tags=["raif"]) as dag:

    @task
    def questions():
        return [{"custom_id": f"q{n}", "prompt": f"What is {n} times {n}?", "n": n} for n in range(6)]

    batch_group(
        "answers",
        conn_id="gemini_default",
        model="gemini-2.5-flash",
        requests=questions(),
        max_tokens=20,
        max_failed_fraction=0.5,
        default_args={"retries": 1},
    )
