"""A CSV file with a column for each thing known of a product, and a prompt that is made of them row by row."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from airflow.sdk import DAG

from airflow_raif.operators.batch import BatchInferenceOperator

with DAG(
    dag_id="prompt_template", schedule=None, start_date=datetime(2026, 1, 1), doc_md=__doc__, tags=["raif"]
) as dag:
    BatchInferenceOperator(
        task_id="advertise",
        conn_id="openai_default",
        model="gpt-5-nano",
        requests=f"file://{Path(__file__).with_name('products.csv')}",
        id_column="sku",
        prompt_template="Write one line that sells this product.\n\nName: {{ name }}\nDescription: {{ description }}",
        max_tokens=100,
        retries=1,
    )
