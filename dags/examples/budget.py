"""Slogans for products, for no more than a budget.

Trigger it with ``only_tell`` to see what they would cost without sending anything. What a day's batches may cost is a
field of the connection.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, Param

from airflow_raif.operators.batch import BatchInferenceOperator

PRODUCTS = [{"custom_id": "A-1", "name": "Desk lamp"}, {"custom_id": "A-2", "name": "Kettle"}]

with DAG(
    dag_id="budget",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={
        "max_cost": Param(0.5, type="number", exclusiveMinimum=0, description="US dollars"),
        "only_tell": Param(False, type="boolean"),
    },
    doc_md=__doc__,
    tags=["raif"],
) as dag:
    BatchInferenceOperator(
        task_id="slogans",
        conn_id="openai_default",
        model="gpt-5-nano",
        requests=PRODUCTS,
        prompt_template="Write a slogan for: {{ name }}",
        max_tokens=2000,
        max_cost="{{ params.max_cost }}",
        estimate_only="{{ params.only_tell }}",
    )
