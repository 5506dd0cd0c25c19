"""Submit a batch, think better of it, and keep what was finished by then."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG

from airflow_raif.operators.batch import CancelBatchOperator, SubmitBatchOperator
from airflow_raif.sensors.batch import WaitForBatchSensor

with DAG(dag_id="cancel", schedule=None, start_date=datetime(2026, 1, 1), doc_md=__doc__, tags=["raif"]) as dag:
    submit = SubmitBatchOperator(
        task_id="submit",
        conn_id="gemini_default",
        model="gemini-2.5-flash",
        requests=["Write a very long story.", "Write another one."],
    )
    cancel = CancelBatchOperator(task_id="cancel", batch=submit.output)
    wait = WaitForBatchSensor(task_id="wait", batch=submit.output, retries=1)
    cancel >> wait
