"""Submit, wait and apply in one task that holds no worker while it waits."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG

from airflow_raif.operators.batch import BatchInferenceOperator

with DAG(dag_id="one_task", schedule=None, start_date=datetime(2026, 1, 1), doc_md=__doc__, tags=["raif"]) as dag:
    BatchInferenceOperator(
        task_id="translate",
        conn_id="anthropic_default",
        model="claude-haiku-4-5",
        system_prompt="Translate into French.",
        max_tokens=200,
        requests=[
            {"custom_id": "greeting", "prompt": "Good morning!", "lang": "en"},
            {"custom_id": "farewell", "prompt": "See you tomorrow.", "lang": "en"},
        ],
        retries=1,
    )
