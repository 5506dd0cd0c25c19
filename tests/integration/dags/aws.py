"""A night on Amazon: rows from S3, spool and results there, every connection from Secrets Manager."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow.sdk import DAG

from airflow_raif.operators.groups import batch_group

with DAG("aws") as dag:
    batch_group(
        "night",
        conn_id="openai_default",
        model="gpt-5-nano",
        requests="s3://aws_default@raif/in/rows.jsonl",
        by_parts=True,
    )

if __name__ == "__main__":
    run = dag.test()
    found = {
        f"{ti.task_id} {ti.map_index}": ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index)
        for ti in run.get_task_instances()
    }
    Path(sys.argv[1]).write_text(json.dumps({"state": run.state, "returned": found}))
