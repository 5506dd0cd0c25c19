"""A pydantic-ai agent in place of model, system prompt and output type; each row is a prompt of it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

from airflow.sdk import DAG
from pydantic import BaseModel, Field

from airflow_raif.operators.batch import BatchInferenceOperator

if TYPE_CHECKING:
    from pydantic_ai import Agent


class Review(BaseModel):
    mood: Literal["good", "bad", "mixed"]
    stars: int = Field(ge=1, le=5)


def reviewer() -> Agent[None, Review]:
    """Make the agent in the worker; the key is the connection's, so it needs none of its own."""
    from pydantic_ai import Agent

    return Agent(
        "openai:gpt-5-nano", output_type=Review, instructions="Judge this review of a shop.", defer_model_check=True
    )


with DAG(dag_id="agent", schedule=None, start_date=datetime(2026, 1, 1), doc_md=__doc__, tags=["raif"]) as dag:
    BatchInferenceOperator(
        task_id="judge",
        conn_id="openai_default",
        agent=reviewer,
        requests=[
            {"custom_id": "r1", "prompt": "Great shoes, slow delivery.", "shop": "Oslo"},
            {"custom_id": "r2", "prompt": "Never again.", "shop": "Lima"},
        ],
        retries=1,
    )
