"""A runtime whose codec knows pydantic-ai, and whole lives of rich rows."""

from __future__ import annotations

import dataclasses
from contextlib import closing, contextmanager
from types import SimpleNamespace

import msgspec
import pytest

from airflow_raif.rich.codec import RichCodec
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.submit import submit_batch
from tests.support import PROVIDERS, defaults_of, folder, need_pydantic_ai, read_rows, runtime_of


@pytest.fixture(params=PROVIDERS)
def provider(request):
    """Each provider that pydantic-ai can write requests for here."""
    need_pydantic_ai(request.param)
    return request.param


@pytest.fixture
def rich_runtime(emulator, store, tmp_path):
    """Open a runtime with a codec."""

    @contextmanager
    def opened(provider, agent=None, **settings):
        with (
            runtime_of(provider, emulator.url, store, tmp_path, **settings) as runtime,
            closing(RichCodec(agent)) as codec,
        ):
            yield dataclasses.replace(runtime, codec=codec)

    return opened


@pytest.fixture
def live(rich_runtime, tmp_path):
    """Bring rows through a whole life; return the bodies as they were sent, and the result rows."""

    def run(provider, rows, agent=None, *, between=lambda runtime: runtime, settings=None, **defaults):
        with rich_runtime(provider, agent, **(settings or {})) as runtime:
            batch = create_batch(runtime, rows, defaults=defaults_of(provider, **defaults))
            submit_batch(runtime, batch.batch_id)
            fetch_batch_status(runtime, batch.batch_id)
            runtime = between(runtime)
            fetch_batch_results(runtime, batch.batch_id)
            batch = apply_results(runtime, batch.batch_id, folder(tmp_path / "out"))
            lines = b"".join(runtime.spooled_part(batch, batch.parts[0]).blocks()).splitlines()
        bodies = [row.get("body") or row.get("params") or row["request"] for row in map(msgspec.json.decode, lines)]
        return SimpleNamespace(bodies=bodies, rows=read_rows(batch.result_uri), batch=batch)

    return run
