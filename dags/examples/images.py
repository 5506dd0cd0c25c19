"""A picture and a text in one prompt, as pydantic-ai writes them: what is to be seen on each picture of a shop."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from airflow.sdk import DAG

from airflow_raif.operators.batch import BatchInferenceOperator

PICTURES = {"A-1": "https://example.com/lamp.png", "A-2": "https://example.com/kettle.png"}
ANSWER = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def pictures() -> Iterator[dict]:
    # In the worker, so that the DAG file is parsed without pydantic-ai.
    from pydantic_ai import ImageUrl

    for sku, address in PICTURES.items():
        yield {"custom_id": sku, "prompt": ["Describe this picture in one sentence.", ImageUrl(address)]}


with DAG(dag_id="images", schedule=None, start_date=datetime(2026, 1, 1), doc_md=__doc__, tags=["raif"]) as dag:
    BatchInferenceOperator(
        task_id="describe",
        conn_id="openai_default",
        model="openai:gpt-5-nano",
        requests=pictures,
        output_type=ANSWER,
        retries=1,
    )
