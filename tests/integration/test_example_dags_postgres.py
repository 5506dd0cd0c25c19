"""Every example DAG once more, with the metadata tables in PostgreSQL."""

from __future__ import annotations

from contextlib import closing

import pytest
from sqlalchemy import func, select

from airflow_raif.store import Store
from airflow_raif.store.migrate import upgrade
from airflow_raif.store.tables import batch
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
    test_the_second_night_of_ten_thousand_rows,
    warehouse,
)

pytestmark = pytest.mark.postgres


@pytest.fixture(autouse=True)
def in_postgres(postgres, monkeypatch):
    """The tables of every process of a test."""
    address = postgres.create_database()
    upgrade(address)
    monkeypatch.setenv("AIRFLOW__RAIF__SQL_ALCHEMY_CONN", address)
    yield
    with closing(Store.open(address)) as store, store._transaction() as connection:
        assert connection.scalar(select(func.count()).select_from(batch)) > 0
