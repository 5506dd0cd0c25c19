"""Connections in AWS Secrets Manager: found there, missing there, and away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from airflow.sdk import configuration

from airflow_raif.domain.errors import ConfigurationError, ConnectionUnavailableError
from airflow_raif.hooks.connections import aresolve, resolve
from airflow_raif.hooks.store import find_store_url
from tests.aws import Aws, aws_server

BACKEND = "airflow.providers.amazon.aws.secrets.secrets_manager.SecretsManagerBackend"
WAYS = pytest.mark.parametrize("look", [resolve, lambda name: asyncio.run(aresolve(name))], ids=["worker", "triggerer"])


def forget_backends() -> None:
    """Have Airflow read its configuration anew; from 3.3 a process keeps its backends."""
    getattr(configuration, "clear_secrets_backends_cache", lambda: None)()


@pytest.fixture(scope="module")
def server() -> Iterator[Aws]:
    with aws_server() as aws:
        aws.keep_connection("openai_nightly", conn_type="raif_openai", password="key-in-aws", host="http://127.0.0.1:9")
        aws.keep_connection("raif_state", conn_type="postgres", host="db", login="raif", password="p", schema="raif")
        yield aws


@pytest.fixture
def secrets_manager(server, monkeypatch, airflow_database) -> Iterator[Aws]:
    """Airflow's configuration says that secrets are there."""
    settings = {
        "AIRFLOW__SECRETS__BACKEND": BACKEND,
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_prefix": "airflow/connections"}),
        "AIRFLOW__RAIF__STORE_TIMEOUT": "0",
        "AWS_ENDPOINT_URL": server.url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    forget_backends()
    yield server
    forget_backends()


@pytest.fixture
def away(secrets_manager, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")


@WAYS
def test_a_providers_connection(secrets_manager, look):
    """The key comes from there, in workers and triggerers."""
    assert look("openai_nightly").settings.api_key == "key-in-aws"


def test_the_stores_connection(secrets_manager):
    """The metadata tables are found by what is there."""
    address, is_embedded = find_store_url()
    assert not is_embedded
    assert address.startswith("postgresql://raif:p@db")


@WAYS
def test_a_connection_that_is_not_there(secrets_manager, look):
    """That is said at once, and no retry helps."""
    with pytest.raises(ConfigurationError, match="there is no connection 'nowhere'"):
        look("nowhere")


@WAYS
def test_a_backend_that_is_away(away, look):
    """It is not taken for one without the connection, which would fail the task for good: a retry goes on."""
    with pytest.raises(ConnectionUnavailableError, match="secrets backend does not answer") as told:
        look("openai_nightly")
    assert told.value.retryable


def test_no_other_store_is_taken_while_the_backend_is_away(away, raif_home):
    """Otherwise batches that run would be unknown, and paid again."""
    with pytest.raises(ConnectionUnavailableError):
        find_store_url()
    assert not (raif_home / "raif.db").exists()


def test_a_secret_that_may_not_be_read(secrets_manager, raif_home, monkeypatch):
    """A policy may name each secret; what it does not name is not there, and nothing waits for it."""
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "tests.aws.DenyingBackend")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", "{}")
    forget_backends()
    assert find_store_url() == (f"sqlite:///{raif_home}/raif.db", True)
    with pytest.raises(ConfigurationError, match="there is no connection 'openai_nightly'"):
        resolve("openai_nightly")
