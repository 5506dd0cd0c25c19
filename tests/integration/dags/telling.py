"""Three nights of one batch: all rows answered, most refused, and none sent; run as a program it runs all."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from airflow.sdk import DAG, BaseNotifier

from airflow_raif.notifications.batch import BatchNotifier
from airflow_raif.operators.batch import BatchInferenceOperator

HOME = Path(os.environ["AIRFLOW_HOME"])


class FileNotifier(BaseNotifier):
    """Another package's notifier: it knows nothing of batches but what its template says."""

    template_fields = ("text",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def notify(self, context):
        """Append the text to a file of the DAG's."""
        with (HOME / f"{context['dag'].dag_id}.told").open("a") as file:
            file.write(f"{self.text}\n")


def night(dag_id, **arguments):
    """Return a DAG whose task tells how it ended."""
    with DAG(dag_id) as dag:
        BatchInferenceOperator(
            task_id="ask",
            conn_id="openai_default",
            model="gpt-5-nano",
            requests=f"file://{HOME}/{dag_id}.jsonl",
            max_failed_fraction=0.1,
            on_success_callback=BatchNotifier(FileNotifier("good: {{ batch_message }}")),
            on_failure_callback=BatchNotifier(FileNotifier("bad: {{ batch.status if batch }}: {{ batch_message }}")),
            **arguments,
        )
    return dag


good, bad, none = night("good"), night("bad"), night("none")


def seen(dag):
    """Run a DAG and return what Airflow's pages show of its task."""
    from airflow.models.serialized_dag import SerializedDagModel

    run = dag.test()
    (ti,) = run.get_task_instances()
    task = SerializedDagModel.get_dag(dag.dag_id).get_task("ask")
    links = {name: link.get_link(task, ti_key=ti.key) for name, link in task.operator_extra_link_dict.items()}
    xcoms = {key: ti.xcom_pull(task_ids="ask", key=key) for key in ("return_value", "raif_batch_id", "raif_manifest")}
    return {"state": ti.state, "run_id": run.run_id, "links": links, **xcoms}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps({dag.dag_id: seen(dag) for dag in (good, bad, none)}))
