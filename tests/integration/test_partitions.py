"""One batch per partition of an asset: Airflow's own events, scheduler and metadata database."""

from __future__ import annotations

import pyarrow.parquet as pq
from sqlalchemy import select

from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks.store import find_store
from tests.integration.test_example_dags import load

DAGS = """
from airflow.sdk import DAG, Asset, PartitionedAssetTimetable
from airflow_raif.destinations.parquet import Parquet
from airflow_raif.operators.batch import BatchInferenceOperator

REVIEWS, MOODS = Asset("reviews", uri="file://{home}/reviews"), Asset("moods", uri="file://{home}/moods")

with DAG("partitions", schedule=PartitionedAssetTimetable(assets=REVIEWS), is_paused_upon_creation=False) as dag:
    BatchInferenceOperator(
        task_id="mood", conn_id="openai_default", model="gpt-5-nano", requests=REVIEWS, outlets=[MOODS], retries=1,
        destination=Parquet("file://{home}/moods/{{{{ dag_run.partition_key }}}}.parquet"),
    )
"""


def sync(folder, session):
    """Make Airflow know a folder's DAGs and their assets, as its DAG processor does."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db(session=session)
    session.commit()
    bag = BundleDagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags-folder")
    assert not bag.import_errors
    sync_bag_to_db(bag, "dags-folder", None)


def events_of(name, session):
    from airflow.models.asset import AssetEvent, AssetModel

    statement = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id).where(AssetModel.name == name)
    return list(session.scalars(statement.order_by(AssetEvent.id)))


def test_one_batch_per_partition(migrated, emulator_of, connections, monkeypatch, tmp_path):
    """Each run reads its partition's rows, where the event says they are, and tells of its batch under its key."""
    from airflow.assets.manager import asset_manager
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.asset import AssetModel
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState

    emulator = emulator_of(progress=Progress.parse("polls:1"))
    connections(emulator)
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "partitions.py").write_text(DAGS.format(home=tmp_path))
    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(folder))
    keys = {"oslo": 2, "lima": 3}
    with create_session() as session:
        sync(folder, session)
        reviews = session.scalar(select(AssetModel).where(AssetModel.name == "reviews"))
        for key, count in keys.items():
            (tmp_path / f"{key}.jsonl").write_text('{"prompt": "How was it?"}\n' * count)
            extra = {"result_uri": f"file://{tmp_path}/{key}.jsonl"}
            asset_manager.register_asset_change(asset=reviews, extra=extra, session=session, partition_key=key)
        session.commit()
        SchedulerJobRunner(job=Job())._create_dagruns_for_partitioned_asset_dags(session)
        runs = {run.partition_key: run.id for run in session.scalars(select(DagRun)) if run.dag_id == "partitions"}
    assert runs.keys() == keys.keys()

    for key in runs:

        def the_schedulers(*, dag, session, key=key, **arguments):
            run = session.get(DagRun, runs[key])
            run.dag, run.state = dag, DagRunState.RUNNING
            session.commit()
            return run

        monkeypatch.setattr("airflow.models.dagrun.get_or_create_dagrun", the_schedulers)
        assert load(folder, "partitions").dag.test().state == "success"

    with create_session() as session:
        told = {event.partition_key: event.extra for event in events_of("moods", session)}
    assert told.keys() == keys.keys()
    for key, count in keys.items():
        assert (told[key]["partition_key"], told[key]["counts"]["completed"]) == (key, count)
        assert told[key]["destination_uri"] == f"file://{tmp_path}/moods/{key}.parquet"
        assert pq.read_metadata(tmp_path / "moods" / f"{key}.parquet").num_rows == count
        batch = find_store().get_batch(told[key]["batch_id"])
        assert (batch.request_count, batch.metadata) == (count, {"partition_key": key})
    assert emulator.state.creates["openai"] == 2
