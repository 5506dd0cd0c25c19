"""Embed the output of an upstream task."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, task

from airflow_raif.operators.batch import BatchInferenceOperator

with DAG(dag_id="embeddings", schedule=None, start_date=datetime(2026, 1, 1), doc_md=__doc__, tags=["raif"]) as dag:

    @task
    def titles() -> list[dict]:
        return [{"custom_id": title, "prompt": title} for title in ("Dune", "Emma", "Ulysses")]

    BatchInferenceOperator(
        task_id="embed",
        conn_id="openai_default",
        model="text-embedding-3-small",
        endpoint="/v1/embeddings",
        requests=titles(),
        retries=1,
    )
