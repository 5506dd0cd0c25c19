"""Connections to an emulator."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from airflow_raif.emulator.server import EmulatorServer
from tests.support import base_url


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
