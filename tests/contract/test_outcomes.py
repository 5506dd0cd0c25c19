"""However a batch and its rows end, every row is accounted for and what was paid is applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_raif.adapters.base import unknown_status
from airflow_raif.domain.errors import (
    CanceledBatchError,
    ExpiredBatchError,
    FailedBatchError,
    InvalidBatchError,
    PartialBatchError,
    ProviderError,
    RaifError,
)
from airflow_raif.domain.request import RequestDefaults
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.manifest import manifest_of
from airflow_raif.services.outcome import check_outcome
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.resume import resume_batch
from airflow_raif.services.start import start_batch
from airflow_raif.services.submit import submit_batch
from airflow_raif.spool.files import results_file
from tests.support import ANSWER, CLAIM, PROVIDERS, defaults_of, folder, later, read_rows, rows, runtime_of

EACH = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture
def runtime(provider, emulator, store, tmp_path):
    with runtime_of(provider, emulator.url, store, tmp_path) as opened:
        yield opened


def run(runtime, given, round_policy=None, **defaults):
    """Create, submit, poll and fetch."""
    defaults = defaults_of(runtime.adapter.name, **defaults)
    batch = create_batch(runtime, given, defaults=defaults, claim=CLAIM, round_policy=round_policy)
    submit_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    return fetch_batch_results(runtime, batch.batch_id)


def applied(runtime, batch, tmp_path):
    return read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri)


@EACH
@pytest.mark.parametrize(
    ("kind", "reason", "has_text"),
    [
        ("errored", "errored", False),
        ("overloaded", "errored", False),
        ("expired", "expired", False),
        ("canceled", "canceled", False),
        ("truncated", "truncated", True),
        ("refused", "refused", None),
        ("invalid_json", "invalid_output", True),
        ("missing", "missing", False),
    ],
)
def test_rows_that_fail(provider, runtime, emulator, tmp_path, kind, reason, has_text):
    """One row goes wrong in one way: it fails with that reason, the others are answered."""
    emulator.state.faults.rows.append(RowFault(kind=kind, rows=[1]))
    batch = run(runtime, rows(3), output_schema=ANSWER)
    found = applied(runtime, batch, tmp_path)
    assert [row["status"] for row in found] == ["completed", "failed", "completed"]
    bad = found[1]
    assert bad["output"] is None
    assert bad["error"]["message"]
    if not (provider == "gemini" and kind in ("expired", "canceled")):
        assert bad["reason"] == reason
    if has_text is not None:
        assert bool(bad["raw_output"]) is has_text
    if kind in ("truncated", "invalid_json"):
        # It was paid for, so it is accounted for.
        assert bad["usage"]["output_tokens"] > 0
        assert bad["cost"]["batch"] > 0


@EACH
@pytest.mark.parametrize("kind", ["duplicated", "malformed", "blank", "line_separator", "in_both_files"])
def test_odd_files_lose_nothing(provider, runtime, emulator, tmp_path, kind):
    """Doubled rows, broken and empty lines, and line separators inside strings change no outcome."""
    if (provider, kind) == ("gemini", "malformed"):
        pytest.skip("small Gemini batches come inline, where a broken row is no JSON at all")
    emulator.state.faults.rows.append(RowFault(kind=kind, fraction=0.5))
    batch = run(runtime, rows(6))
    found = applied(runtime, batch, tmp_path)
    assert [row["status"] for row in found] == ["completed"] * 6
    assert [row["custom_id"] for row in found] == [f"row {n}" for n in range(6)]


@EACH
def test_windows_line_ends_and_shuffled_rows(provider, runtime, emulator, tmp_path):
    """CRLF and another order change nothing."""
    emulator.state.faults.crlf = True
    emulator.state.faults.shuffle = True
    batch = run(runtime, rows(30))
    assert [row["status"] for row in applied(runtime, batch, tmp_path)] == ["completed"] * 30


@EACH
def test_torn_last_line(provider, runtime, emulator, store, tmp_path):
    """A result file that ends in the middle of a row loses that row only, which was answered and is not paid again."""
    if provider == "gemini":
        pytest.skip("small Gemini batches come inline, where the torn line is no JSON at all")
    emulator.state.faults.torn_last_line = True
    batch = run(runtime, rows(4))
    counts = store.count_entries(batch)
    assert (counts.completed, counts.reasons) == (3, {"invalid_output": 1})


@EACH
def test_row_without_usage_has_no_cost(provider, runtime, emulator, tmp_path):
    """An unknown price is null, never zero."""
    emulator.state.faults.rows.append(RowFault(kind="no_usage", rows=[0]))
    found = applied(runtime, run(runtime, rows(2)), tmp_path)
    assert found[0]["usage"] is None
    assert found[0]["cost"] is None
    assert found[1]["cost"]["batch"] > 0


@EACH
def test_expired_batch_keeps_what_finished(provider, runtime, emulator, store, tmp_path):
    """What was answered before the expiry is applied; the rest failed as expired."""
    emulator.state.faults.expire_after = 0.5
    batch = run(runtime, rows(4))
    assert batch.status is BatchStatus.EXPIRED
    counts = store.count_entries(batch)
    assert counts.completed == (0 if provider == "gemini" else 2)
    assert counts.reasons == {"expired": 4 - counts.completed}
    assert len(applied(runtime, batch, tmp_path)) == 4
    if provider == "gemini":
        with pytest.raises(ExpiredBatchError, match="0 of 4 entries completed, 4 expired"):
            check_outcome(runtime, batch)
    else:
        check_outcome(runtime, batch)
        with pytest.raises(PartialBatchError):
            check_outcome(runtime, batch, max_failed_fraction=0.4)


@EACH
def test_canceled_at_the_provider(provider, runtime, emulator, store):
    """A batch that somebody canceled at the provider is canceled here, with its finished rows."""
    emulator.state.faults.cancel_after = 0.5
    batch = run(runtime, rows(4))
    assert batch.status is BatchStatus.CANCELED
    with pytest.raises(CanceledBatchError, match=rf"retry {batch.batch_id}` .* a clear of its task alone starts a new"):
        check_outcome(runtime, batch)
    assert resume_batch(runtime, CLAIM) is None


@EACH
def test_failed_batch_is_told_with_the_providers_words(provider, runtime, emulator, store):
    """A batch that failed as a whole has no result; its entries carry the reason, and a retry starts anew."""
    if provider == "anthropic":
        pytest.skip("Anthropic's batches do not fail as a whole")
    emulator.state.faults.failed_batches = 1
    batch = run(runtime, rows(2), round_policy=RoundPolicy(max_rounds=0))
    assert batch.status is BatchStatus.FAILED
    with pytest.raises(FailedBatchError, match="failed: 0 of 2 entries completed, 2 errored"):
        check_outcome(runtime, batch)
    entries = next(store.iter_entries(batch))
    assert all(entry.error for entry in entries)
    assert resume_batch(runtime, CLAIM) is None


def test_enqueued_token_limit_of_openai(emulator, store, tmp_path):
    """OpenAI's queue limit fails a batch without cost; to us it is a refusal, and no outcome of anything."""
    emulator.state.faults.token_limit_exceeded = 1
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        batch = start_batch(runtime, lambda: rows(2), defaults=defaults_of("openai"), claim=CLAIM)
        assert not fetch_batch_status(runtime, batch.batch_id).is_terminal
        with pytest.raises(InvalidBatchError, match="has not ended"):
            fetch_batch_results(runtime, batch.batch_id)
        assert resume_batch(runtime, CLAIM).batch_id == batch.batch_id
        advance_batch(later(runtime), batch.batch_id)
        fetch_batch_status(runtime, batch.batch_id)
        assert store.count_entries(advance_batch(runtime, batch.batch_id)).completed == 2


@EACH
def test_all_rows_failed_is_a_failed_outcome(provider, runtime, emulator):
    """An ended batch may hold only failures."""
    emulator.state.faults.rows.append(RowFault(kind="errored", fraction=1))
    batch = run(runtime, rows(3))
    assert batch.status is BatchStatus.ENDED
    told = "0 of 3 entries completed, 3 errored; the most frequent error is: .+. Nothing of it was billed: a retry"
    with pytest.raises(FailedBatchError, match=told):
        check_outcome(runtime, batch)


@EACH
def test_what_failed_most_is_told(provider, runtime, emulator):
    """The error alone says why, and what has rows sent again whose answers were paid: a retry of the task does not."""
    emulator.state.faults.rows += [RowFault(kind="errored", rows=[0]), RowFault(kind="invalid_json", fraction=1)]
    batch = run(runtime, rows(3), output_schema=ANSWER)
    with pytest.raises(FailedBatchError, match=f"is: .*JSON.*. `airflow raif batches retry {batch.batch_id}` has"):
        check_outcome(runtime, batch)


@EACH
def test_unknown_status_keeps_polling(provider, emulator, runtime, caplog):
    """A status that is not documented is in progress, with a warning."""
    unknown_status.cache_clear()
    emulator.state.faults.unknown_status = "DAYDREAMING"
    batch = create_batch(runtime, rows(1), defaults=defaults_of(provider))
    batch = submit_batch(runtime, batch.batch_id)
    assert not batch.status.is_terminal
    assert "DAYDREAMING" in caplog.text
    assert fetch_batch_status(runtime, batch.batch_id) is BatchStatus.ENDED


@EACH
def test_every_step_may_be_called_again(provider, runtime, emulator, store, tmp_path):
    """Poll, fetch and apply do only what is left to do."""
    batch = run(runtime, rows(3))
    first = applied(runtime, batch, tmp_path)
    calls = sum(emulator.state.requests.values())
    assert fetch_batch_status(runtime, batch.batch_id) is BatchStatus.ENDED
    again = fetch_batch_results(runtime, batch.batch_id)
    assert applied(runtime, again, tmp_path) == first
    assert sum(emulator.state.requests.values()) == calls
    assert again.cost == batch.cost


@EACH
def test_download_that_breaks_is_taken_up_again(provider, runtime, emulator, store, tmp_path):
    """A failed download loses nothing: the next call fetches."""
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    submit_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    emulator.state.faults.http.append(HttpFault(route=f"{provider}.*", status=503, times=-1))
    with pytest.raises(ProviderError):
        fetch_batch_results(runtime, batch.batch_id)
    assert store.count_entries(store.get_batch(batch.batch_id)).pending == 3
    emulator.state.faults.http.clear()
    batch = fetch_batch_results(runtime, batch.batch_id)
    assert store.count_entries(batch).completed == 3


@EACH
def test_results_that_were_deleted_at_the_provider(provider, runtime, emulator, store):
    """Results that are gone are an error that says so, not a batch of silent failures."""
    batch = create_batch(runtime, rows(2), defaults=defaults_of(provider))
    submit_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    emulator.state.batches[provider].clear()
    for file_id in list(emulator.state.files[provider]):
        del emulator.state.files[provider][file_id]
    with pytest.raises(ProviderError):
        fetch_batch_results(runtime, batch.batch_id)
    assert store.count_entries(store.get_batch(batch.batch_id)).pending == 2


@EACH
def test_apply_is_whole_or_not_at_all(provider, runtime, store, tmp_path):
    """A result file appears under its name only when it is complete."""
    batch = run(runtime, rows(3))
    results = Path(runtime.folder(batch.batch_id).uri_of(results_file(0)).removeprefix("file://"))
    content = results.read_bytes()
    results.write_bytes(b"x" * len(content))
    with pytest.raises(ProviderError):
        apply_results(runtime, batch.batch_id, folder(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []
    results.write_bytes(content)
    assert len(applied(runtime, batch, tmp_path)) == 3


@EACH
def test_manifest_is_small_and_exact(provider, runtime, store, tmp_path):
    """Counts, usage and cost of the manifest are the sums of the rows."""
    batch = run(runtime, rows(20))
    found = applied(runtime, batch, tmp_path)
    manifest = manifest_of(runtime, store.get_batch(batch.batch_id))
    assert manifest["counts"] == {"pending": 0, "completed": 20, "failed": 0, "reasons": {}}
    for name in ("input_tokens", "output_tokens", "cached_tokens"):
        assert manifest["usage"][name] == sum(row["usage"][name] for row in found)
    assert float(manifest["cost"]["batch"]) == pytest.approx(sum(row["cost"]["batch"] for row in found))
    assert manifest["result_uri"].endswith("/out/results.jsonl")


@EACH
def test_parts_within_the_providers_limits(provider, emulator, store, tmp_path):
    """A batch larger than a part goes out as several, and comes back as one file."""
    limits = {"max_requests": 4, "max_bytes": 3000}
    with runtime_of(provider, emulator.url, store, tmp_path, limits=limits) as runtime:
        batch = run(runtime, rows(10))
        found = applied(runtime, batch, tmp_path)
    assert len(batch.parts) >= 3
    assert all(part.request_count <= 4 and part.request_bytes <= 3000 for part in batch.parts)
    assert emulator.state.creates[provider] == len(batch.parts)
    assert [row["custom_id"] for row in found] == [f"row {n}" for n in range(10)]


@pytest.mark.parametrize(
    ("provider", "endpoint", "model", "size"),
    [
        ("openai", "/v1/embeddings", "text-embedding-3-small", 1536),
        ("gemini", "asyncBatchEmbedContent", "gemini-embedding-001", 3072),
    ],
)
def test_embeddings(provider, endpoint, model, size, emulator, store, tmp_path):
    """Vectors come back as the rows' output."""
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        batch = create_batch(runtime, ["a", "b"], defaults=RequestDefaults(model=model, endpoint=endpoint))
        submit_batch(runtime, batch.batch_id)
        fetch_batch_status(runtime, batch.batch_id)
        fetch_batch_results(runtime, batch.batch_id)
        found = applied(runtime, batch, tmp_path)
    assert [len(row["output"]) for row in found] == [size, size]
    assert all(row["usage"]["input_tokens"] > 0 for row in found)


def test_embedding_inputs_of_openai_are_counted(emulator, store, tmp_path):
    """A part holds at most 50,000 embedding inputs, however few requests they come in."""
    defaults = RequestDefaults(model="text-embedding-3-small", endpoint="/v1/embeddings")
    given = [{"body": {"input": [f"x{n}"] * 3}} for n in range(4)]
    with runtime_of("openai", emulator.url, store, tmp_path, limits={"max_embedding_inputs": 6}) as runtime:
        batch = create_batch(runtime, given, defaults=defaults)
    assert [part.request_count for part in batch.parts] == [2, 2]


def test_chat_completions(emulator, store, tmp_path):
    """OpenAI's older endpoint, with a schema."""
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        batch = run(runtime, rows(2), endpoint="/v1/chat/completions", output_schema=ANSWER)
        found = applied(runtime, batch, tmp_path)
    assert [set(row["output"]) for row in found] == [{"summary", "category"}] * 2


def test_gemini_file_mode(emulator, store, tmp_path, monkeypatch):
    """Above the inline limit the requests go through a file, in chunks, and the responses come as one."""
    monkeypatch.setattr("airflow_raif.adapters.gemini.INLINE_MAX_BYTES", 1000)
    monkeypatch.setattr("airflow_raif.adapters.gemini.UPLOAD_CHUNK_BYTES", 256 * 1024)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    # The connection breaks in the middle of the upload: it starts anew.
    emulator.state.faults.http.append(HttpFault(route="gemini.files.upload", drop="before", skip=2))
    given = [{"prompt": f"{n} " + "x" * 5000} for n in range(120)]
    with runtime_of("gemini", emulator.url, store, tmp_path) as runtime:
        batch = run(runtime, given, output_schema=ANSWER)
        found = applied(runtime, batch, tmp_path)
    assert [row["status"] for row in found] == ["completed"] * 120
    assert emulator.state.uploads["gemini"] == 1
    assert emulator.state.requests["gemini.files.upload"] > 3


def test_unfetched_batch_of_another_claim_is_untouched(emulator, store, tmp_path):
    """A claim without a batch finds nothing."""
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        assert resume_batch(runtime, CLAIM) is None
        with pytest.raises(RaifError, match="the store knows no batch 'nope'"):
            fetch_batch_results(runtime, "nope")
