"""The Dags that the seeded batches are of."""

from airflow.sdk import DAG

from airflow_raif.operators.batch import BatchInferenceOperator

for dag_id in ("nightly_reviews", "product_tags", "tickets"):
    with DAG(dag_id, schedule=None) as dag:
        BatchInferenceOperator(
            task_id="ask", conn_id="openai_default", model="gpt-5-nano", requests=[{"prompt": "Say hello"}], retries=1
        )
    globals()[dag_id] = dag
