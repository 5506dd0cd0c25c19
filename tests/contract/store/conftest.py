"""The databases a store runs on: an embedded file, and a PostgreSQL server that the tests start themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_raif.store import Store, migrate
from tests.postgres import PostgresServer


@pytest.fixture
def server_url(postgres: PostgresServer) -> str:
    """A fresh database on the server, without tables."""
    return postgres.create_database()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/raif.db"
    return request.getfixturevalue("server_url")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A migrated store on each database."""
    migrate.upgrade(url)
    opened = Store.open(url)
    yield opened
    opened.close()
