"""A migrated Airflow database, and connections to an emulator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_raif.emulator.server import EmulatorServer
from tests.support import base_url


@pytest.fixture(scope="session")
def migrated(airflow_home: Path) -> Path:
    """Airflow's own tables and, by the provider's manager, ours."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return airflow_home


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
