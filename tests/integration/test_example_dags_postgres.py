"""Every example DAG once more, with the metadata tables in PostgreSQL."""

from __future__ import annotations

import pytest

from airflow_raif.hooks.store import find_store_url
from airflow_raif.store.migrate import upgrade
from tests.integration.test_example_dags import (  # noqa: F401 - tests and what they need
    run_dag,
    test_agent,
    test_budget,
    test_decorator,
    test_embeddings,
    test_handler,
    test_images,
    test_maintenance,
    test_mapped_providers,
    test_nightly_docstrings,
    test_one_task,
    test_parquet,
    test_sql_to_sql,
    warehouse,
)

pytestmark = pytest.mark.postgres


@pytest.fixture(autouse=True)
def in_postgres(postgres, monkeypatch):
    """The tables of every process of a test."""
    address = postgres.create_database()
    upgrade(address)
    monkeypatch.setenv("AIRFLOW__RAIF__SQL_ALCHEMY_CONN", address)
    assert find_store_url() == (address, False)
