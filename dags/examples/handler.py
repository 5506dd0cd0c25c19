"""Code of your own for each result, and for the batch when all of them are through."""

from __future__ import annotations

import logging
from datetime import datetime

from airflow.sdk import DAG

from airflow_raif.destinations.handler import BatchHandler
from airflow_raif.operators.batch import BatchInferenceOperator

log = logging.getLogger(__name__)


class Tickets(BatchHandler):
    """Would answer each ticket in the desk's own system."""

    def on_entry(self, row):
        log.info("Ticket %s: %s", row["custom_id"], row["output"] or row["error"])

    def on_batch_completion(self, manifest):
        log.info("%s tickets for %s dollars", manifest["request_count"], manifest["cost"]["batch"])


with DAG(dag_id="handler", schedule=None, start_date=datetime(2026, 1, 1), doc_md=__doc__, tags=["raif"]) as dag:
    BatchInferenceOperator(
        task_id="answer",
        conn_id="openai_default",
        model="gpt-5-nano",
        requests=[{"custom_id": "T-1", "prompt": "The lamp is broken."}, {"custom_id": "T-2", "prompt": "Thank you!"}],
        system_prompt="Answer this ticket in two lines.",
        handler=Tickets,
        retries=2,
    )
