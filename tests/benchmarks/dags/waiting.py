"""A task that waits for each of many batches."""

import os

from airflow.sdk import DAG

from airflow_raif.sensors.batch import WaitForBatchSensor

COUNT = int(os.environ.get("RAIF_BENCH_BATCHES", "1"))

with DAG("waiting", schedule=None):
    WaitForBatchSensor.partial(task_id="wait").expand(batch=[f"{key:032x}" for key in range(1, COUNT + 1)])
