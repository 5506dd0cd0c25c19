"""Connections to an emulator."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import pytest

from airflow_raif.emulator.server import EmulatorServer
from tests.support import base_url


@pytest.fixture(scope="session", autouse=True)
def one_execution_api() -> Iterator[None]:
    """Let ``dag.test()`` make its API server once, as Airflow 3.3 does: 3.2 takes two seconds to for each task."""
    from airflow.sdk.execution_time import supervisor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "in_process_api_server", lru_cache(maxsize=1)(supervisor.in_process_api_server))
        yield


@pytest.fixture(scope="session")
def new_home(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make further homes with Airflow's tables, and ours, for programs of a test's own."""

    def make(name: str) -> Path:
        home = tmp_path_factory.mktemp(name)
        for file in ("airflow.db", "raif.db"):
            # Not by its file: what was written last may still lie beside it.
            with closing(sqlite3.connect(migrated / file)) as old, closing(sqlite3.connect(home / file)) as new:
                old.backup(new)
        return home

    return make


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Point the default connections at an emulator."""

    def point(emulator: EmulatorServer, **limits: int) -> None:
        for provider in ("openai", "anthropic", "gemini"):
            connection = {
                "conn_type": f"raif_{provider}",
                "password": "good-key",
                "host": base_url(provider, emulator.url),
                "extra": limits,
            }
            monkeypatch.setenv(f"AIRFLOW_CONN_{provider.upper()}_DEFAULT", json.dumps(connection))

    return point
