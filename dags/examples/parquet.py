"""From a Parquet file into another: a prompt is made of each row's columns, and the fields of a model are columns."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

import pydantic
from airflow.sdk import DAG

from airflow_raif.destinations.parquet import Parquet
from airflow_raif.operators.batch import BatchInferenceOperator


class Advert(pydantic.BaseModel):
    headline: str
    text: str
    keywords: list[str]


with DAG(
    dag_id="parquet",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    # Or s3://bucket/..., with the Airflow provider of Amazon.
    params={"rows": f"{Path(__file__).parent}/products.parquet", "folder": f"{tempfile.gettempdir()}/raif_adverts"},
    doc_md=__doc__,
    tags=["raif"],
) as dag:
    BatchInferenceOperator(
        task_id="advertise",
        conn_id="openai_default",
        model="gpt-5-nano",
        requests="{{ params.rows }}",
        id_column="sku",
        prompt_template="Advertise: {{ name }}, {{ price }} euros, {{ features | join(', ') }}",
        output_type=Advert,
        destination=Parquet(
            "{{ params.folder }}/{{ run_id }}.parquet",
            columns={"sku": "sku", "listed": "listed", "headline": "output.headline", "keywords": "output.keywords"},
            types={"listed": "date32"},
        ),
        retries=1,
    )
