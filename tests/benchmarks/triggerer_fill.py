"""Write a run whose tasks all wait, as deferred ones do: ``python -m tests.benchmarks.triggerer_fill``."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from airflow.configuration import conf
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType

from airflow_raif.triggers.batch import BatchTrigger


def main() -> None:
    folder = conf.get("core", "dags_folder")
    interval = float(os.environ["RAIF_BENCH_INTERVAL"])
    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(folder, bundle_path=Path(folder), bundle_name="dags-folder")
    assert not bag.import_errors, bag.import_errors
    sync_bag_to_db(bag, "dags-folder", None)
    dag = SerializedDagModel.get_dag("waiting")
    now = datetime.now(UTC)
    run = dag.create_dagrun(
        run_id="bench", run_after=now, run_type=DagRunType.MANUAL, triggered_by=DagRunTriggeredByType.TEST,
        state=DagRunState.RUNNING, start_date=now, logical_date=now, data_interval=(now, now),
    )  # fmt: skip
    with create_session() as session:
        for instance in session.merge(run).get_task_instances(session=session):
            trigger = BatchTrigger(
                conn_id="bench_0", batch_id=f"{instance.map_index + 1:032x}", model="openai:some-model",
                end_time=time.time() + 86400, poll_intervals=[interval], min_dwell=0.0,
            )  # fmt: skip
            instance.trigger = Trigger.from_object(trigger)
            instance.state = TaskInstanceState.DEFERRED
            instance.start_date, instance.try_number = now, 1
            instance.next_method, instance.next_kwargs = "execute_complete", {}


if __name__ == "__main__":
    main()
