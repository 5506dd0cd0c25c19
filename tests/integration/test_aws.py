"""Amazon S3 and AWS Secrets Manager, as Airflow speaks to them over HTTP: nothing of a secret lies anywhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from sqlalchemy import make_url

from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import EmulatorSettings
from airflow_raif.store import migrate
from tests.aws import aws_server
from tests.leaks import Leaks
from tests.support import base_url

pytestmark = pytest.mark.postgres
API_KEY = "sk-proj-0nly-in-the-secrets-manager"
AWS_SECRET = "aws/s3cret+0nly-in-the-environment"
STORE_PASSWORD = "st0re:only/in@the secrets"


@pytest.fixture(scope="module")
def night(new_home: Callable[[str], Path], postgres) -> SimpleNamespace:
    """One run of the DAG, whose only settings are where the secrets are and where the spool is."""
    home = new_home("aws")
    (home / "raif.db").unlink()
    address = make_url(postgres.create_database())
    migrate.upgrade(address.render_as_string(hide_password=False))
    dags = Path(__file__).parent / "dags"
    backend = "airflow.providers.amazon.aws.secrets.secrets_manager.SecretsManagerBackend"
    with EmulatorServer(EmulatorSettings()) as emulator, aws_server("key", AWS_SECRET) as aws:
        aws.put(
            "in/rows.jsonl", "".join(json.dumps({"custom_id": f"row {n}", "prompt": f"é {n}"}) + "\n" for n in range(5))
        )
        aws.keep_connection("aws_default", **aws.connection)
        aws.keep_connection(
            "openai_default", conn_type="raif_openai", password=API_KEY, host=base_url("openai", emulator.url),
            extra=json.dumps({"max_requests": 2}),
        )  # fmt: skip
        aws.keep_connection(
            "raif_state", conn_type="postgres", host=address.host, port=address.port, login=address.username,
            # The server asks no password on loopback; it is to be seen nowhere all the same.
            password=STORE_PASSWORD, schema=address.database,
        )  # fmt: skip
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__SECRETS__BACKEND": backend,
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_prefix": "airflow/connections"}),
            "AWS_ENDPOINT_URL": aws.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": AWS_SECRET,
            "AIRFLOW__RAIF__STATE_CONN_ID": "raif_state",
            "AIRFLOW__RAIF__SPOOL_PATH": "s3://raif/spool",
            "AIRFLOW__RAIF__RESULT_PATH": "s3://raif/results",
            "AIRFLOW__RAIF__SPOOL_CONN_ID": "aws_default",
        }
        done = subprocess.run(
            [sys.executable, str(dags / "aws.py"), str(home / "seen.json")],
            capture_output=True, text=True, env=environment, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        files = {name: aws.get(name) for name in aws.names()}
        seen = json.loads((home / "seen.json").read_text())
        rows = [aws.rows(seen["returned"][f"night.apply {n}"]["result_uri"]) for n in range(3)]
    return SimpleNamespace(
        files=files, rows=rows, log=done.stdout + done.stderr, home=home, emulator=emulator,
        store=address.render_as_string(hide_password=False), **seen,
    )  # fmt: skip


def test_from_s3_to_s3(night):
    """Rows, spool and results are in the bucket, each answer in its place; nothing of them lies on a disk."""
    assert night.state == "success"
    found = [row for part in night.rows for row in part]
    assert [(row["custom_id"], row["status"]) for row in found] == [(f"row {n}", "completed") for n in range(5)]
    batch_id = night.returned["night.submit -1"]["batch_id"]
    assert [name for name in night.files if name.startswith("results/")] == [
        f"results/{batch_id}/results-{n:012d}.jsonl" for n in (0, 2, 4)
    ]
    assert [name for name in night.files if name.startswith(f"spool/{batch_id}/")]
    assert not list(night.home.rglob("*.jsonl"))
    assert not (night.home / "raif.db").exists()


def test_nothing_unfinished_is_left_in_the_bucket(night):
    """What is written under a temporary name is renamed, as on a disk."""
    assert [name for name in night.files if "tmp" in name or "part" in Path(name).suffix] == []


def test_secrets_are_nowhere(night):
    """Keys and passwords are in no table, spool, result, XCom, log or file of Airflow's."""
    leaks = Leaks(API_KEY, AWS_SECRET, STORE_PASSWORD, quote(STORE_PASSWORD))
    leaks.see("log", night.log)
    leaks.see("XCom", night.returned)
    for name, content in night.files.items():
        leaks.see(f"s3 {name}", content.decode())
    leaks.see_files(night.home)
    leaks.see_tables(night.store)
    leaks.see_tables(f"sqlite:///{night.home}/airflow.db")
    assert leaks.saw("raif_batch_id")
    assert leaks.found() == []
