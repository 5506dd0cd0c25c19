"""S3 through Airflow's own file system and connection, over HTTP, in the worker's process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_raif.hooks.spool import folder_at
from airflow_raif.operators.batch import BatchInferenceOperator
from tests.aws import BUCKET, Aws, aws_server

OPENAI = {"conn_id": "openai_default", "model": "gpt-5-nano", "deferrable": False, "poll_interval": 0.01}


@pytest.fixture(scope="module")
def server() -> Iterator[Aws]:
    with aws_server() as aws:
        yield aws


@pytest.fixture
def aws(server: Aws, connection, providers, emulator, monkeypatch) -> Aws:
    """An empty bucket, which only the connection ``aws_default`` leads to."""
    connection("aws_default", **server.connection)
    providers(emulator)
    monkeypatch.setenv("AIRFLOW__RAIF__SPOOL_PATH", f"s3://{BUCKET}/spool")
    monkeypatch.setenv("AIRFLOW__RAIF__RESULT_PATH", f"s3://{BUCKET}/results")
    monkeypatch.setenv("AIRFLOW__RAIF__SPOOL_CONN_ID", "aws_default")
    server.clear()
    return server


def test_rows_of_a_csv_file(aws, context):
    """A CSV file in a bucket is read as a stream, by the connection in its address."""
    aws.put("in/rows.csv", "id,body\n1,fine\n2,bad\n")
    manifest = BatchInferenceOperator(
        task_id="t", requests=f"s3://aws_default@{BUCKET}/in/rows.csv", prompt_template="{{ body }}", id_column="id",
        **OPENAI,
    ).execute(context)  # fmt: skip
    assert manifest["result_uri"] == f"s3://aws_default@{BUCKET}/results/{manifest['batch_id']}/results.jsonl"
    assert [(row["custom_id"], row["body"]) for row in aws.rows(manifest["result_uri"])] == [
        ("1", "fine"),
        ("2", "bad"),
    ]


@pytest.mark.parametrize("address", [f"s3://{BUCKET}/mine", f"s3://aws_default@{BUCKET}/mine"])
def test_a_destination_of_the_tasks_own(address, aws, context):
    """``output_path`` may be any folder, with the spool's connection or with one in its address."""
    manifest = BatchInferenceOperator(task_id="t", requests=["a"], output_path=address, **OPENAI).execute(context)
    assert len(aws.rows(manifest["result_uri"])) == 1
    assert "mine/results.jsonl" in aws.names()


def test_requests_larger_than_a_block_of_an_upload(aws, context):
    """A spool of many megabytes goes up in pieces, and comes back whole and in order."""
    rows = [{"custom_id": str(n), "prompt": f"{n} {'é' * 20_000}"} for n in range(300)]
    manifest = BatchInferenceOperator(task_id="t", requests=rows, **OPENAI).execute(context)
    assert [row["custom_id"] for row in aws.rows(manifest["result_uri"])] == [row["custom_id"] for row in rows]


def test_a_retry_reads_the_spool(aws, context):
    """A second attempt writes elsewhere from the spool alone, and pays nothing."""
    first = BatchInferenceOperator(task_id="t", requests=["a", "b"], **OPENAI).execute(context)
    second = BatchInferenceOperator(
        task_id="t", requests=["a", "b"], output_path=f"s3://{BUCKET}/again", **OPENAI
    ).execute(context)
    assert second["batch_id"] == first["batch_id"]
    assert aws.rows(second["result_uri"]) == aws.rows(first["result_uri"])


def test_a_file_that_is_not_there(aws, context, emulator):
    """Nothing is sent, and the error names the file; a retry may find it."""
    with pytest.raises(FileNotFoundError, match="missing.jsonl"):
        BatchInferenceOperator(task_id="t", requests=f"s3://aws_default@{BUCKET}/missing.jsonl", **OPENAI).execute(
            context
        )
    assert emulator.state.creates["openai"] == 0


def test_a_file_that_cannot_be_written_whole_is_not_there(aws):
    """What breaks off while it is written leaves no file under its name."""
    folder = folder_at(f"s3://{BUCKET}/half")
    with pytest.raises(RuntimeError, match="the worker"), folder.write("results.jsonl") as file:
        file.write(b"x" * 6_000_000)
        raise RuntimeError("the worker died")
    assert "half/results.jsonl" not in aws.names()
