"""Assets: what the event of an outlet tells of a batch, rows from an asset, and a batch for one partition of it."""

from __future__ import annotations

import datetime
import json
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.api.datamodels._generated import AssetEventDagRunReference, AssetReferenceAssetEventDagRun
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
from airflow.sdk.execution_time.context import OutletEventAccessors, TriggeringAssetEventsAccessor

from airflow_raif.destinations.parquet import Parquet
from airflow_raif.domain.errors import PartialBatchError
from airflow_raif.emulator.faults import RowFault
from airflow_raif.hooks.batch import BatchHook
from airflow_raif.operators.batch import ApplyBatchResultsOperator, BatchInferenceOperator, SubmitBatchOperator
from airflow_raif.operators.groups import batch_group
from tests.support import read_rows

OPENAI = {"conn_id": "openai_default", "model": "gpt-5-nano"}
ROWS = [{"custom_id": f"row {n}", "prompt": f"prompt {n}", "n": n} for n in range(5)]
REVIEWS = Asset("reviews", uri="s3://lake/reviews.jsonl")
MOODS, OTHERS = Asset("moods", uri="s3://lake/moods"), Asset("others", uri="s3://lake/others")


@pytest.fixture
def infer(emulator, providers, context):
    """Run a whole batch in one task, with what Airflow gives it of assets."""
    providers(emulator)
    context["outlet_events"] = OutletEventAccessors()

    def run(**arguments):
        operator = BatchInferenceOperator(
            task_id="t", **OPENAI, deferrable=False, poll_interval=0.01, **{"requests": ROWS, **arguments}
        )
        operator.render_template_fields(context)
        return operator.execute(context)

    return run


def triggered_by(asset, *extras):
    """What a run sees of the events that triggered it."""
    now = datetime.datetime.now(datetime.UTC)
    fields = {
        "source_task_id": None, "source_dag_id": None, "source_run_id": None, "source_map_index": None,
        "source_aliases": [], "timestamp": now,
    }  # fmt: skip
    reference = AssetReferenceAssetEventDagRun(name=asset.name, uri=asset.uri, extra={})
    return TriggeringAssetEventsAccessor.build(
        AssetEventDagRunReferenceResult.from_asset_event_dag_run_reference(
            AssetEventDagRunReference(asset=reference, extra=extra, **fields)
        )
        for extra in extras
    )


def test_an_event_tells_of_the_batch(infer, emulator, context, tmp_path):
    """Every outlet's, in numbers that are those of the manifest, and as JSON."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[1]))
    context["outlet_events"][MOODS].extra["mine"] = "stays"
    manifest = infer(outlets=[MOODS, OTHERS], max_rounds=0, destination=Parquet(f"{tmp_path}/out.parquet"))
    extra = context["outlet_events"][MOODS].extra
    assert extra.pop("mine") == "stays"
    assert extra == context["outlet_events"][OTHERS].extra == json.loads(json.dumps(extra))
    assert extra == {
        "batch_id": manifest["batch_id"],
        "provider": "openai",
        "model": "gpt-5-nano",
        "status": "ended",
        "request_count": 5,
        "counts": {"pending": 0, "completed": 4, "failed": 1, "reasons": {"errored": 1}},
        "usage": manifest["usage"],
        "cost": {"batch": manifest["cost"]["batch"], "standard": manifest["cost"]["standard"], "is_estimated": False},
        "result_uri": manifest["result_uri"],
        "destination_uri": f"file://{tmp_path}/out.parquet",
    }
    assert float(extra["cost"]["batch"]) > 0
    assert extra["usage"]["input_tokens"] > 0


def test_a_batch_that_fails_its_task(infer, emulator, context):
    """Airflow makes no event of it, and a retry that succeeds tells all the same."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[1]))
    with pytest.raises(PartialBatchError):
        infer(outlets=[MOODS], max_rounds=0, max_failed_fraction=0.1)
    context["outlet_events"] = OutletEventAccessors()
    infer(outlets=[MOODS], max_rounds=0)
    assert context["outlet_events"][MOODS].extra["counts"]["failed"] == 1


def test_the_event_of_a_part(infer, context, emulator):
    """Tells of the part's rows."""
    batch = SubmitBatchOperator(task_id="s", **OPENAI, requests=ROWS).execute(context)
    BatchHook("openai_default").fetch_batch_status(batch["batch_id"])
    ApplyBatchResultsOperator(task_id="a", batch=batch, part=0, outlets=[MOODS]).execute(context)
    extra = context["outlet_events"][MOODS].extra
    assert (extra["part"], extra["first_row"], extra["counts"]["completed"]) == (0, 0, 5)


def test_the_outlets_of_a_group():
    """Are those of its last step, which knows how the batch ended."""
    with DAG("d") as dag:
        batch_group("g", **OPENAI, requests=REVIEWS, outlets=[MOODS])
    outlets = {task.task_id: (task.inlets, task.outlets) for task in dag.tasks}
    assert outlets == {"g.submit": ([REVIEWS], []), "g.wait": ([], []), "g.apply": ([], [MOODS])}


def test_rows_of_an_asset(infer, context, tmp_path):
    """Of the file at its URI; it is an inlet of the task."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    asset = Asset("reviews", uri=f"file://{tmp_path}/rows.jsonl")
    for run, events in enumerate((None, triggered_by(MOODS, {}), triggered_by(asset, {"mine": 1}))):
        context["ti"].run_id, context["triggering_asset_events"] = f"run {run}", events
        assert infer(requests=asset)["request_count"] == 2
    with DAG("d"):
        operator = SubmitBatchOperator(task_id="t", **OPENAI, requests=asset)
    assert operator.inlets == [asset]


def test_rows_where_the_event_says_they_are(infer, context, tmp_path):
    """A batch's answers are the next one's rows; of several events all, of several of one place each row once."""
    asset = Asset("moods", uri="s3://lake/moods")
    for name, rows in (("a", ROWS[:2]), ("b", ROWS[2:])):
        context["ti"].run_id = f"first {name}"
        columns = {"id": "custom_id", "text": "output"}
        infer(requests=rows, outlets=[asset], destination=Parquet(f"{tmp_path}/{name}.parquet", columns=columns))
    extras = [{"destination_uri": f"{tmp_path}/{name}.parquet", "result_uri": "not this"} for name in "aba"]
    context["ti"].run_id, context["triggering_asset_events"] = "second", triggered_by(asset, *extras)
    manifest = infer(requests=asset, id_column="id", prompt_template="Shorten: {{ text }}")
    assert [row["id"] for row in read_rows(manifest["result_uri"])] == [f"row {n}" for n in range(5)]
    (tmp_path / "c.jsonl").write_text('{"prompt": "a"}\n')
    context["ti"].run_id = "third"
    context["triggering_asset_events"] = triggered_by(asset, {"result_uri": f"{tmp_path}/c.jsonl"})
    assert infer(requests=asset)["request_count"] == 1


def test_an_asset_that_is_no_file(infer, emulator):
    """Is named."""
    with pytest.raises(AirflowFailException, match=r"'s3://lake/moods'; only the address of a .*\.parquet file"):
        infer(requests=MOODS)
    assert emulator.state.creates["openai"] == 0


@pytest.mark.parametrize("version", ["3.2", "3.3"])
def test_a_run_for_one_partition(infer, context, emulator, tmp_path, version):
    """The key is in the address, in the batch's metadata, at the provider, and in the event."""
    context["dag_run"] = SimpleNamespace(partition_key="oslo")
    if version == "3.3":
        context["partition_key"] = "oslo"
    (tmp_path / "oslo.jsonl").write_text('{"prompt": "a"}\n')
    manifest = infer(
        requests=f"{tmp_path}/{{{{ dag_run.partition_key }}}}.jsonl", outlets=[MOODS], batch_metadata={"team": "b"}
    )
    assert context["outlet_events"][MOODS].extra["partition_key"] == "oslo"
    (made,) = emulator.state.batches["openai"].values()
    assert (made.details["metadata"]["team"], made.details["metadata"]["partition_key"]) == ("b", "oslo")
    assert manifest["request_count"] == 1
    context["ti"].run_id = "another"
    infer(requests=ROWS, batch_metadata={"partition_key": "mine"})
    assert [made.details["metadata"]["partition_key"] for made in emulator.state.batches["openai"].values()] == [
        "oslo",
        "mine",
    ]
