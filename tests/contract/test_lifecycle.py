"""The whole life of a batch, from rows to result rows, for every adapter against the emulator."""

from __future__ import annotations

import pytest

from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.submit import submit_batch
from tests.support import ANSWER, PROVIDERS, defaults_of, folder, read_rows, rows, runtime_of


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_row_comes_back_in_input_order_with_its_columns(provider, emulator, store, tmp_path):
    """Rows go out and come back answered, priced and in order, however the provider ordered them."""
    emulator.state.faults.shuffle = True
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        batch = create_batch(runtime, rows(25), defaults=defaults_of(provider, output_schema=ANSWER, system="Be brief"))
        assert batch.status is BatchStatus.PENDING
        batch = submit_batch(runtime, batch.batch_id)
        assert batch.status in (BatchStatus.SUBMITTED, BatchStatus.IN_PROGRESS)
        assert fetch_batch_status(runtime, batch.batch_id) is BatchStatus.ENDED
        batch = fetch_batch_results(runtime, batch.batch_id)
        batch = apply_results(runtime, batch.batch_id, folder(tmp_path / "out"))
        counts = store.count_entries(batch)
    assert (counts.completed, counts.failed, counts.pending) == (25, 0, 0)
    found = read_rows(batch.result_uri)
    assert [row["custom_id"] for row in found] == [f"row {n}" for n in range(25)]
    assert [row["shelf"] for row in found] == list(range(25))
    for row in found:
        assert row["status"] == "completed"
        assert set(row["output"]) == {"summary", "category"}
        assert row["usage"]["input_tokens"] > 0
        assert 0 < row["cost"]["batch"] < row["cost"]["standard"]
    assert batch.cost.batch * 2 == pytest.approx(batch.cost.standard, rel=0.35)
    assert emulator.state.creates[provider] == 1
