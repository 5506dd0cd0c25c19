"""The world that sweeps and retention look after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.store import Store
from tests.contract.world import World
from tests.support import PROVIDERS


@pytest.fixture(params=PROVIDERS)
def each(request: pytest.FixtureRequest) -> str:
    """Each provider; a connection of that name is there."""
    return str(request.param)


@pytest.fixture
def world(
    emulator_of: Callable[..., EmulatorServer], store: Store, tmp_path: Path, no_backoff: None
) -> Iterator[World]:
    """All three providers, whose batches run until they are let end."""
    made = World(emulator_of, store, tmp_path)
    with made.closing:
        yield made
