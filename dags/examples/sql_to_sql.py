"""Every night: the mood of each review of a table, back into it; reviews that did not change are not paid again."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_raif.destinations.sql import SqlTable
from airflow_raif.operators.batch import BatchInferenceOperator

MOOD = {"type": "object", "properties": {"mood": {"type": "string", "enum": ["good", "bad"]}}, "required": ["mood"]}

with DAG(dag_id="sql_to_sql", schedule="@daily", catchup=False, doc_md=__doc__, tags=["raif"]) as dag:
    BatchInferenceOperator(
        task_id="mood", conn_id="openai_default", model="gpt-5-nano", retries=1, on_empty="skip",
        sql="SELECT id, body FROM review ORDER BY id", sql_conn_id="warehouse", reuse="30d",
        id_column="id", prompt_template="In which mood is this review?\n\n{{ body }}", output_type=MOOD,
        destination=SqlTable("warehouse", "review", keys=["id"], columns={"mood": "output.mood"}),
    )  # fmt: skip
