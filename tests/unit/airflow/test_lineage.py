"""Lineage as Airflow's OpenLineage provider asks for it: files, tables, and what was paid."""

from __future__ import annotations

import pytest
from airflow.providers.openlineage.extractors.base import DefaultExtractor
from sqlalchemy import create_engine, make_url

from airflow_raif.destinations.parquet import Parquet
from airflow_raif.destinations.sql import SqlTable
from airflow_raif.domain.errors import FailedBatchError
from airflow_raif.emulator.faults import RowFault
from airflow_raif.operators._lineage import lineage_of
from airflow_raif.operators.batch import ApplyBatchResultsOperator, BatchInferenceOperator, SubmitBatchOperator

OPENAI = {"conn_id": "openai_default", "model": "gpt-5-nano"}
MOOD = {
    "type": "object",
    "properties": {"mood": {"type": "string"}},
    "required": ["mood"],
    "additionalProperties": False,
}


def lineage(operator, *, failed=False):
    """Ask as the provider does; it never sees an error, so none may be swallowed here."""
    extractor = DefaultExtractor(operator)
    found = extractor.extract_on_failure(None) if failed else extractor.extract_on_complete(None)
    assert found is not None
    return found


def names(datasets):
    return [(each.namespace, each.name) for each in datasets]


@pytest.mark.parametrize(
    ("address", "dataset"),
    [
        ("s3://bucket/in/rows.jsonl", ("s3://bucket", "in/rows.jsonl")),
        ("s3://aws_default@bucket/in/rows.jsonl", ("s3://bucket", "in/rows.jsonl")),
        ("gs://bucket/rows.csv", ("gs://bucket", "rows.csv")),
        ("file:///data/rows.jsonl", ("file", "/data/rows.jsonl")),
        ("/data/rows.jsonl", ("file", "/data/rows.jsonl")),
    ],
)
def test_names_of_files(address, dataset):
    """As OpenLineage names them, so that they meet those of other tools; the connection is no part of the name."""
    assert names(lineage_of(None, address=address).inputs) == [dataset]


def test_from_a_list(emulator, providers, context):
    """Rows of a list are no dataset; the batch is told of all the same."""
    providers(emulator)
    operator = SubmitBatchOperator(task_id="t", requests=["a", "b"], **OPENAI)
    manifest = operator.execute(context)
    found = lineage(operator)
    assert found.inputs == found.outputs == []
    assert found.run_facets["raif_batch"].batchId == manifest["batch_id"]
    assert found.run_facets["raif_batch"].cost is None


def test_results_with_their_number_of_rows(emulator, providers, context):
    """The task that applies tells of the file, and of usage and cost."""
    providers(emulator)
    batch = BatchInferenceOperator(
        task_id="t", requests=["a", "b"], deferrable=False, poll_interval=0.01, **OPENAI
    ).execute(context)
    operator = ApplyBatchResultsOperator(task_id="a", batch=batch)
    manifest = operator.execute(context)
    found = lineage(operator)
    (output,) = found.outputs
    assert f"file://{output.name}" == manifest["result_uri"]
    assert output.outputFacets["outputStatistics"].rowCount == 2
    facet = found.run_facets["raif_batch"]
    assert (facet.usage, facet.counts) == (manifest["usage"], manifest["counts"])
    assert facet.cost == float(manifest["cost"]["batch"]) < facet.standardCost


@pytest.mark.parametrize(("failed", "rows"), [(True, 3), (False, 2)])
def test_into_a_parquet_file(emulator, providers, context, tmp_path, failed, rows):
    """It is an output beside the result file, with the rows that are in it; each part's file is one of its own."""
    pytest.importorskip("pyarrow")
    emulator.state.faults.rows.append(RowFault(kind="refused", rows=[1]))
    providers(emulator)
    where = {"destination": Parquet(f"{tmp_path}/moods.parquet", failed=failed), "max_failed_fraction": 0.5}
    batch = BatchInferenceOperator(
        task_id="t", requests=["a", "b", "c"], deferrable=False, poll_interval=0.01, **where, **OPENAI
    )
    manifest = batch.execute(context)
    whole = lineage(batch).outputs
    assert names(whole)[1:] == [("file", f"{tmp_path}/moods.parquet")]
    assert [each.outputFacets["outputStatistics"].rowCount for each in whole] == [3, rows]
    part = ApplyBatchResultsOperator(task_id="a", batch=manifest, part=0, **where)
    part.execute(context)
    assert names(lineage(part).outputs)[1:] == [("file", f"{tmp_path}/moods-000000000000.parquet")]


def test_of_a_batch_that_failed(emulator, providers, context):
    """What failed the task was paid for, and its rows say why."""
    emulator.state.faults.rows.append(RowFault(kind="refused", fraction=1.0))
    providers(emulator)
    operator = BatchInferenceOperator(task_id="t", requests=["a"], deferrable=False, poll_interval=0.01, **OPENAI)
    with pytest.raises(FailedBatchError):
        operator.execute(context)
    found = lineage(operator, failed=True)
    assert found.run_facets["raif_batch"].counts["reasons"] == {"refused": 1}
    assert len(found.outputs) == 1


def test_before_anything_was_done():
    """A task that failed early has nothing to tell but its input."""
    operator = SubmitBatchOperator(task_id="t", requests="s3://bucket/rows.jsonl", **OPENAI)
    found = lineage(operator, failed=True)
    assert names(found.inputs) == [("s3://bucket", "rows.jsonl")]
    assert found.run_facets == {}


@pytest.mark.postgres
def test_from_tables_into_a_table(emulator, providers, context, connection, postgres):
    """The tables that the query reads, and the one that the answers are written into, by their full names."""
    address = make_url(postgres.create_database())
    connection(
        "warehouse", conn_type="postgres", host=address.host, port=address.port, login=address.username,
        password=address.password, schema=address.database,
    )  # fmt: skip
    engine = create_engine(address)
    with engine.begin() as opened:
        opened.exec_driver_sql("CREATE TABLE review (id INTEGER PRIMARY KEY, body TEXT, mood TEXT)")
        opened.exec_driver_sql("CREATE TABLE shop (id INTEGER PRIMARY KEY)")
        opened.exec_driver_sql("INSERT INTO review VALUES (1, 'fine', NULL)")
        opened.exec_driver_sql("INSERT INTO shop VALUES (1)")
    engine.dispose()
    providers(emulator)
    operator = BatchInferenceOperator(
        task_id="t", sql="SELECT review.id, body FROM review JOIN shop ON shop.id = review.id ORDER BY 1",
        sql_conn_id="warehouse", prompt_template="{{ body }}", id_column="id", output_type=MOOD,
        destination=SqlTable("warehouse", "review", keys=["id"], columns={"mood": "output.mood"}),
        deferrable=False, poll_interval=0.01, **OPENAI,
    )  # fmt: skip
    operator.execute(context)
    found = lineage(operator)
    server = f"postgres://{address.host}:{address.port}"
    database = address.database
    assert sorted(names(found.inputs)) == [
        (server, f"{database}.public.review"),
        (server, f"{database}.public.shop"),
    ]
    assert names(found.outputs)[1:] == [(server, f"{database}.public.review")]
    assert "SELECT review.id" in found.job_facets["sql"].query
    assert address.password is None or address.password not in str(found)


def test_a_database_that_cannot_tell(emulator, providers, context, connection, tmp_path):
    """Where the hook knows no names, or the database is away, the batch is told of without them."""
    providers(emulator)
    connection("warehouse", conn_type="sqlite", host=f"{tmp_path}/warehouse.db")
    table = SqlTable("warehouse", "review", keys=["id"], columns={"mood": "output"})
    manifest = {
        "batch_id": "b", "provider": "openai", "model": "m", "endpoint": "/v1/responses", "conn_id": "c",
        "result_uri": "s3://bucket/results.jsonl", "request_count": 1,
    }  # fmt: skip
    found = lineage_of(manifest, sql="SELECT 1 FROM review", sql_conn_id="warehouse", destination=table)
    assert names(found.outputs) == [("s3://bucket", "results.jsonl")]
    connection("warehouse", conn_type="postgres", host="127.0.0.1", port=9, login="u", password="s3cret")
    found = lineage_of(manifest, sql="SELECT 1 FROM review", sql_conn_id="warehouse", destination=table)
    assert names(found.outputs) == [("s3://bucket", "results.jsonl")]
    assert found.run_facets["raif_batch"].batchId == "b"
