"""What services do in the cases that a provider or a crash makes rarely."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import sqlalchemy

from airflow_raif.adapters.base import Request
from airflow_raif.adapters.openai import OpenAIAdapter
from airflow_raif.domain.errors import (
    AuthenticationError,
    InvalidBatchError,
    MalformedResponseError,
    RejectedError,
    UnavailableError,
)
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.services.apply import apply_results
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.resume import resume_batch
from airflow_raif.services.start import start_batch
from airflow_raif.services.submit import submit_batch
from airflow_raif.spool.files import results_file
from airflow_raif.store import NewBatch
from tests.support import ANSWER, CLAIM, defaults_of, folder, read_rows, rows, runtime_of


@pytest.fixture
def runtime(emulator, store, tmp_path):
    with runtime_of("openai", emulator.url, store, tmp_path) as opened:
        yield opened


def half_made(store, runtime, claim=CLAIM):
    """What a worker leaves that was killed while it spooled."""
    batch_id = "half" * 8
    return store.create_batch(
        NewBatch(
            batch_id=batch_id, provider="openai", conn_id="c", model="gpt-5-nano", endpoint="/v1/responses",
            claim=claim, spool_uri=runtime.folder(batch_id).uri, output_schema=None, metadata={},
            created_at=datetime.now(UTC),
        )
    )  # fmt: skip


def test_a_batch_killed_while_spooling_is_made_anew(runtime, store, emulator):
    """Nothing of it can have been sent, so it is discarded and its files go."""
    left = half_made(store, runtime)
    with runtime.folder(left.batch_id).write("part-00000.requests.jsonl") as file:
        file.write(b"half")
    batch = start_batch(runtime, lambda: rows(2), defaults=defaults_of("openai"), claim=CLAIM)
    assert batch.batch_id != left.batch_id
    assert not runtime.folder(left.batch_id).exists("part-00000.requests.jsonl")
    assert emulator.state.creates["openai"] == 1


def test_a_batch_that_is_not_whole_is_never_submitted(runtime, store, emulator):
    """A part of the rows is not what the author asked for."""
    left = half_made(store, runtime)
    with pytest.raises(InvalidBatchError, match="was never created whole"):
        submit_batch(runtime, left.batch_id)
    assert emulator.state.creates["openai"] == 0


def test_results_of_strangers_are_not_taken(runtime, store, emulator, caplog):
    """A row with an id that is not of this batch is counted, warned about and left in the spool."""
    batch = create_batch(runtime, rows(2), defaults=defaults_of("openai"))
    submit_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    with runtime.folder(batch.batch_id).write(results_file(0)) as file:
        file.write(b'{"custom_id": "somebody-else", "response": null, "error": null}\n')
        file.write(b'{"custom_id": "' + b"f" * 16 + b'-0", "response": null, "error": null}\n')
    fetched = fetch_batch_results(runtime, batch.batch_id)
    assert store.count_entries(fetched).reasons == {"missing": 2}
    assert "2 results with an id that is not of this batch" in caplog.text


def test_a_fetch_that_was_interrupted_goes_on(runtime, store, emulator):
    """Results that are in the spool are not downloaded again, and no entry is counted twice."""
    batch = create_batch(runtime, rows(3), defaults=defaults_of("openai"))
    submit_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    part = store.get_batch(batch.batch_id).parts[0]
    with runtime.folder(batch.batch_id).write(results_file(0)) as file:
        path = f"/files/{part.refs['output_file_id']}/content"
        file.write(runtime.transport.send(Request(method="GET", path=path)).content)
    before = emulator.state.requests["openai.files.content"]
    fetched = fetch_batch_results(runtime, batch.batch_id)
    assert store.count_entries(fetched).completed == 3
    assert emulator.state.requests["openai.files.content"] == before


def test_some_parts_fetched_already(emulator, store, tmp_path):
    """A fetch that died between two parts takes up the second."""
    with runtime_of("openai", emulator.url, store, tmp_path, limits={"max_requests": 2}) as runtime:
        batch = create_batch(runtime, rows(4), defaults=defaults_of("openai"))
        submit_batch(runtime, batch.batch_id)
        fetch_batch_status(runtime, batch.batch_id)
        batch = fetch_batch_results(runtime, batch.batch_id)
        assert store.count_entries(batch).completed == 4
        assert fetch_batch_results(runtime, batch.batch_id) == batch


def test_a_provider_that_cannot_cancel_says_so(emulator_of, store, tmp_path, monkeypatch):
    """The batch goes on until it ends."""
    monkeypatch.setattr(OpenAIAdapter, "can_cancel", False)
    emulator = emulator_of(progress=Progress.parse("polls:99"))
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        batch = create_batch(runtime, rows(1), defaults=defaults_of("openai"))
        submit_batch(runtime, batch.batch_id)
        with pytest.raises(InvalidBatchError, match="openai cannot cancel a batch; it runs until it ends or expires"):
            cancel_batch(runtime, batch.batch_id)


def test_invalid_output_keeps_its_text(runtime, emulator, tmp_path):
    """An answer that does not follow the schema was paid for: its text is in the row."""
    emulator.state.faults.rows.append(RowFault(kind="invalid_json", rows=[0]))
    batch = create_batch(runtime, rows(1), defaults=defaults_of("openai", output_schema=ANSWER))
    submit_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    fetch_batch_results(runtime, batch.batch_id)
    (row,) = read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri)
    assert (row["reason"], row["output"]) == ("invalid_output", None)
    assert row["raw_output"].startswith("{")
    assert "not JSON" in row["error"]["message"]


def test_a_retry_after_everything_was_applied_takes_the_same_results(runtime, store, emulator):
    """Clearing a finished task does not pay again."""
    batch = start_batch(runtime, lambda: rows(2), defaults=defaults_of("openai"), claim=CLAIM)
    fetch_batch_status(runtime, batch.batch_id)
    fetch_batch_results(runtime, batch.batch_id)
    again = start_batch(runtime, lambda: rows(2), defaults=defaults_of("openai"), claim=CLAIM)
    assert again.batch_id == batch.batch_id
    assert resume_batch(runtime, CLAIM).batch_id == batch.batch_id
    assert emulator.state.creates["openai"] == 1


def test_values_of_any_kind_in_columns(runtime, tmp_path):
    """Dates and decimals of a table's row come back as text."""
    from decimal import Decimal

    given = [{"prompt": "x", "day": datetime(2026, 1, 2, tzinfo=UTC), "price": Decimal("1.50"), "n": None}]
    batch = create_batch(runtime, given, defaults=defaults_of("openai"))
    submit_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    fetch_batch_results(runtime, batch.batch_id)
    (row,) = read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri)
    assert row["day"].startswith("2026-01-02")
    assert (row["price"], row["n"]) == ("1.50", None)


def two_parts(runtime):
    batch = create_batch(runtime, rows(4), defaults=defaults_of("openai"))
    submit_batch(runtime, batch.batch_id)
    return batch


def test_a_part_that_cannot_be_canceled_does_not_save_the_others(emulator_of, store, tmp_path):
    """Each part is asked to stop; the one that still runs is told about."""
    emulator = emulator_of(progress=Progress.parse("polls:99"))
    with runtime_of("openai", emulator.url, store, tmp_path, limits={"max_requests": 2}) as runtime:
        batch = two_parts(runtime)
        emulator.state.faults.http.append(HttpFault(route="openai.batches.cancel", status=400, times=1))
        with pytest.raises(RejectedError):
            cancel_batch(runtime, batch.batch_id)
        emulator.state.faults.http.clear()
        first, second = store.get_batch(batch.batch_id).parts
        assert not first.status.is_terminal
        assert cancel_batch(runtime, batch.batch_id).is_terminal
        assert second.raw_status in ("cancelling", "cancelled")


def test_a_part_that_ended_just_before_its_cancel_is_no_error(emulator_of, store, tmp_path):
    """The provider refuses to cancel what has ended; what it answered is fetched as usual."""
    emulator = emulator_of()
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        batch = two_parts(runtime)
        emulator.state.faults.http.append(HttpFault(route="openai.batches.cancel", status=400))
        assert cancel_batch(runtime, batch.batch_id) is BatchStatus.ENDED
        assert store.count_entries(fetch_batch_results(runtime, batch.batch_id)).completed == 4


def test_parts_that_were_never_sent_are_canceled_with_the_rest(emulator_of, store, tmp_path):
    """A cancel between two submits leaves nothing that a retry would send."""
    emulator = emulator_of(progress=Progress.parse("polls:99"))
    with runtime_of("openai", emulator.url, store, tmp_path, limits={"max_requests": 2}) as runtime:
        batch = create_batch(runtime, rows(4), defaults=defaults_of("openai"))
        emulator.state.faults.http.append(HttpFault(route="openai.batches.create", status=400, skip=1))
        with pytest.raises(RejectedError):
            submit_batch(runtime, batch.batch_id)
        cancel_batch(runtime, batch.batch_id)
        assert store.get_batch(batch.batch_id).parts[1].raw_status == "never submitted"
        assert emulator.state.creates["openai"] == 1


@pytest.mark.parametrize("provider", ["openai", "gemini"])
def test_an_upload_that_the_provider_forgot_is_made_anew(provider, store, emulator, tmp_path, monkeypatch):
    """A retry days later finds its upload gone, or forbidden: it uploads again instead of failing for good."""
    monkeypatch.setattr("airflow_raif.adapters.gemini.INLINE_MAX_BYTES", 0)
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        batch = create_batch(runtime, rows(2), defaults=defaults_of(provider))
        emulator.state.faults.http.append(HttpFault(route=f"{provider}.batches.create", status=401))
        with pytest.raises(AuthenticationError):
            submit_batch(runtime, batch.batch_id)
        for file in list(emulator.state.files[provider].values()):
            emulator.state.remove_file(provider, file)
        batch = submit_batch(runtime, batch.batch_id)
    assert batch.parts[0].provider_batch_id is not None
    assert emulator.state.creates[provider] == 1


def test_a_forbidden_create_is_told_and_its_upload_kept(runtime, store, emulator):
    """A key that may upload but not create is no reason to upload again and again."""
    batch = create_batch(runtime, rows(2), defaults=defaults_of("openai"))
    emulator.state.faults.http.append(HttpFault(route="openai.batches.create", status=403))
    with pytest.raises(AuthenticationError, match="check the connection's password"):
        submit_batch(runtime, batch.batch_id)
    submit_batch(runtime, batch.batch_id)
    assert emulator.state.uploads["openai"] == 1


def test_results_that_are_not_there_yet_are_asked_for_again(runtime, store, emulator, tmp_path):
    """Some servers say that a batch is complete before they name its file; no answer is called missing for that."""
    batch = create_batch(runtime, rows(2), defaults=defaults_of("openai"))
    submit_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    (part,) = store.get_batch(batch.batch_id).parts
    with sqlalchemy.create_engine(f"sqlite:///{tmp_path}/raif.db").begin() as connection:
        connection.exec_driver_sql("UPDATE raif_part SET refs = '{}'")
    assert part.refs
    assert store.count_entries(fetch_batch_results(runtime, batch.batch_id)).completed == 2


def test_results_that_never_come_are_told_and_not_called_missing(runtime, store, emulator, monkeypatch):
    """Counts say that rows were answered, so the task may be retried until they are there."""
    batch = create_batch(runtime, rows(2), defaults=defaults_of("openai"))
    submit_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    real = OpenAIAdapter.result_blocks
    monkeypatch.setattr(OpenAIAdapter, "result_blocks", lambda *_: iter(()))
    with pytest.raises(MalformedResponseError, match="counts 2 answers of .* but gives no results yet"):
        fetch_batch_results(runtime, batch.batch_id)
    monkeypatch.setattr(OpenAIAdapter, "result_blocks", real)
    assert store.count_entries(fetch_batch_results(runtime, batch.batch_id)).completed == 2


def test_a_batch_without_anything_billed_gives_up_its_claim(runtime, store, emulator):
    """It failed as a whole, so clearing its task starts anew."""
    emulator.state.faults.failed_batches = 1
    first = start_batch(runtime, lambda: rows(2), defaults=defaults_of("openai"), claim=CLAIM)
    fetch_batch_status(runtime, first.batch_id)
    second = start_batch(runtime, lambda: rows(2), defaults=defaults_of("openai"), claim=CLAIM)
    assert second.batch_id != first.batch_id
    assert store.get_batch(first.batch_id).results_fetched_at is not None


def test_an_ended_batch_is_known_by_its_ids_whatever_it_counts(emulator, store, tmp_path):
    """Counters are for progress only: a lost batch whose results lack rows is still found by the ids in them."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0]))
    emulator.state.faults.http += [
        HttpFault(route="anthropic.batches.create", drop="after"),
        HttpFault(route="anthropic.batches.list", status=500, times=-1),
    ]
    with runtime_of("anthropic", emulator.url, store, tmp_path) as runtime:
        with pytest.raises(UnavailableError):
            start_batch(runtime, lambda: rows(3), defaults=defaults_of("anthropic"), claim=CLAIM)
        emulator.state.faults.http.clear()
        (made,) = emulator.state.batches["anthropic"]
        # Any look lets it end.
        runtime.transport.send(runtime.adapter.get_request(made))
        batch = start_batch(runtime, lambda: rows(3), defaults=defaults_of("anthropic"), claim=CLAIM)
    assert [part.provider_batch_id for part in batch.parts] == [made]
