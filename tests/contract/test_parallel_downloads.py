"""Results of several parts on their way at the same time, within one task."""

from __future__ import annotations

import dataclasses
from threading import Barrier

import pytest

from airflow_raif.domain.errors import ProviderError
from airflow_raif.emulator.faults import HttpFault
from airflow_raif.services.apply import apply_results
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.start import start_batch
from tests.support import CLAIM, defaults_of, folder, read_rows, rows, runtime_of, through


@pytest.fixture
def runtime(emulator, store, tmp_path):
    with runtime_of("openai", emulator.url, store, tmp_path, limits={"max_requests": 3}) as opened:
        yield dataclasses.replace(opened, parallel_downloads=2)


@pytest.fixture
def batch(runtime):
    batch = start_batch(runtime, lambda: rows(12), defaults=defaults_of("openai"), claim=CLAIM)
    fetch_batch_status(runtime, batch.batch_id)
    return batch


def test_two_downloads_at_a_time(runtime, batch, emulator, tmp_path):
    """Each waits for another one before it is sent; the rows are those of the input, in its order."""
    both = Barrier(2)

    def meet(request):
        if request.url.path.endswith("/content"):
            both.wait(30)

    fetch_batch_results(through(runtime, before=meet), batch.batch_id)
    found = read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri)
    assert [(row["custom_id"], row["status"]) for row in found] == [(f"row {n}", "completed") for n in range(12)]
    assert emulator.state.requests["openai.files.content"] == 4


def test_an_outage_in_the_middle(runtime, batch, emulator, tmp_path):
    """What came before it is kept, and only what did not come is asked for again."""
    emulator.state.faults.http.append(HttpFault(route="openai.files.content", status=503, skip=2, times=-1))
    with pytest.raises(ProviderError):
        fetch_batch_results(runtime, batch.batch_id)
    assert len(list((tmp_path / "spool" / batch.batch_id).glob("*.results.jsonl"))) == 2
    emulator.state.faults.http.clear()
    before = emulator.state.requests["openai.files.content"]
    assert fetch_batch_results(runtime, batch.batch_id).results_fetched_at is not None
    assert emulator.state.requests["openai.files.content"] == before + 2
