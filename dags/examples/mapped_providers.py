"""The same prompts to three providers, one mapped task each."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG

from airflow_raif.operators.batch import BatchInferenceOperator

MODELS = [
    {"conn_id": "openai_default", "model": "openai:gpt-5-nano"},
    {"conn_id": "anthropic_default", "model": "anthropic:claude-haiku-4-5"},
    {"conn_id": "gemini_default", "model": "gemini:gemini-2.5-flash"},
]

with DAG(
    dag_id="mapped_providers", schedule=None, start_date=datetime(2026, 1, 1), doc_md=__doc__, tags=["raif"]
) as dag:
    BatchInferenceOperator.partial(
        task_id="ask",
        requests=["Name a prime number.", "Name an even number."],
        max_tokens=100,
        retries=1,
    ).expand_kwargs(MODELS)
