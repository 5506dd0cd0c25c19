"""Rounds: what goes out again, what does not, and that every answer that was paid for counts."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.apply import apply_results
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.rounds import open_round
from airflow_raif.services.start import start_batch
from airflow_raif.spool.files import requests_file
from tests.support import ANSWER, CLAIM, PROVIDERS, defaults_of, folder, read_rows, rows, runtime_of

NO_ROUNDS = RoundPolicy(max_rounds=0)


@pytest.fixture(params=PROVIDERS)
def provider(request):
    return request.param


@pytest.fixture
def runtime(provider, emulator, store, tmp_path):
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 4}) as opened:
        yield opened


def run(runtime, count, policy=None, **defaults):
    """Live a whole batch: start, then wait and advance until nothing is left to do."""
    provider = runtime.adapter.name
    batch = start_batch(
        runtime, lambda: rows(count), defaults=defaults_of(provider, **defaults), claim=CLAIM, round_policy=policy
    )
    while True:
        fetch_batch_status(runtime, batch.batch_id)
        batch = advance_batch(runtime, batch.batch_id)
        if batch.status.is_terminal:
            return batch


def results(runtime, batch, tmp_path):
    return read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri)


@pytest.mark.parametrize("kind", ["missing", "expired", "overloaded"])
def test_what_failed_in_passing_goes_out_again(provider, runtime, emulator, store, tmp_path, kind):
    """Only those rows, in one new part, as the bytes that were sent before."""
    emulator.state.faults.rows.append(RowFault(kind=kind, rows=[1, 3], batches=2))
    batch = run(runtime, 6)
    assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["completed"] * 6
    assert emulator.state.creates[provider] == 3
    assert [(part.round, part.request_count) for part in batch.parts] == [(0, 4), (0, 2), (1, 3)]
    spool = runtime.folder(batch.batch_id)
    sent = [b"".join(spool.blocks(requests_file(n))()).splitlines() for n in range(3)]
    assert sent[2] == [sent[0][1], sent[0][3], sent[1][1]]


@pytest.mark.parametrize("kind", ["errored", "refused", "truncated", "invalid_json"])
def test_what_would_fail_again_does_not_go_out_again(provider, runtime, emulator, tmp_path, kind):
    """An identical request would be refused, cut off or declined again, at the same price."""
    emulator.state.faults.rows.append(RowFault(kind=kind, rows=[0]))
    batch = run(runtime, 3, output_schema=ANSWER)
    assert emulator.state.creates[provider] == 1
    assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["failed", "completed", "completed"]


def test_a_round_of_more_parts_than_a_process_may_open_files(emulator, store, tmp_path):
    """As of a batch whose queue takes small parts only, all of which expired."""
    emulator.state.faults.rows.append(RowFault(kind="expired", rows=[0], batches=60))
    with runtime_of("openai", emulator.url, store, tmp_path, limits={"max_requests": 1}) as runtime:
        batch = start_batch(runtime, lambda: rows(60), defaults=defaults_of("openai"), claim=CLAIM)
        fetch_batch_status(runtime, batch.batch_id)
        batch = fetch_batch_results(runtime, batch.batch_id)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        open_files = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 20, hard))
        try:
            assert open_round(runtime, batch)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        while not (batch := advance_batch(runtime, batch.batch_id)).status.is_terminal:
            fetch_batch_status(runtime, batch.batch_id)
        found = results(runtime, batch, tmp_path)
    assert [(row["custom_id"], row["status"]) for row in found] == [(f"row {n}", "completed") for n in range(60)]


def test_rounds_end(provider, runtime, emulator, tmp_path):
    """After the most rounds the entry has failed; none at all can be asked for."""
    emulator.state.faults.rows.append(RowFault(kind="overloaded", rows=[0]))
    batch = run(runtime, 3, RoundPolicy(max_rounds=2))
    assert [part.request_count for part in batch.parts] == [3, 1, 1]
    assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["failed", "completed", "completed"]
    assert emulator.state.creates[provider] == 3


def test_no_rounds_if_the_user_wants_none(provider, runtime, emulator):
    """Then a failure is final."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0]))
    run(runtime, 3, NO_ROUNDS)
    assert emulator.state.creates[provider] == 1


def test_an_expired_batch_goes_on_with_what_it_did_not_finish(provider, runtime, emulator, tmp_path):
    """What finished is not asked for, nor paid, again; Gemini gives no results of an expired batch, nor bills them."""
    emulator.state.faults.expire_after = 0.5
    batch = start_batch(runtime, lambda: rows(4), defaults=defaults_of(provider), claim=CLAIM)
    fetch_batch_status(runtime, batch.batch_id)
    emulator.state.faults.expire_after = None
    batch = advance_batch(runtime, batch.batch_id)
    assert not batch.status.is_terminal
    fetch_batch_status(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id)
    assert [(part.round, part.request_count) for part in batch.parts] == [(0, 4), (1, 4 if provider == "gemini" else 2)]
    assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["completed"] * 4


def test_invalid_output_by_option_and_its_price(provider, runtime, emulator, tmp_path):
    """The answer that could not be used was billed: the batch's usage holds it, and the new one."""
    emulator.state.faults.rows.append(RowFault(kind="invalid_json", rows=[1], batches=1))
    batch = run(runtime, 3, RoundPolicy(repeat_invalid_output=True), output_schema=ANSWER)
    found = results(runtime, batch, tmp_path)
    assert [row["status"] for row in found] == ["completed"] * 3
    assert batch.usage == batch.parts[0].usage + batch.parts[1].usage
    assert batch.cost.batch == batch.parts[0].cost.batch + batch.parts[1].cost.batch
    assert batch.parts[1].usage.output_tokens > 0
    assert batch.usage.output_tokens > sum(row["usage"]["output_tokens"] for row in found)


@pytest.mark.parametrize(("kind", "reason"), [("missing", "missing"), ("errored", "errored")])
def test_a_paid_answer_stays_if_its_repetition_brings_none(provider, runtime, emulator, tmp_path, kind, reason):
    """The first text could not be parsed, the second try was lost: the user still gets what was paid for, once."""
    emulator.state.faults.rows += [
        RowFault(kind="invalid_json", rows=[1], batches=1),
        RowFault(kind=kind, rows=[0], batches=-1),
    ]
    emulator.state.faults.rows[1].batches = 0
    batch = start_batch(
        runtime,
        lambda: rows(3),
        defaults=defaults_of(provider, output_schema=ANSWER),
        claim=CLAIM,
        round_policy=RoundPolicy(max_rounds=1, repeat_invalid_output=True),
    )
    fetch_batch_status(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id)
    emulator.state.faults.rows[1].batches = 1
    fetch_batch_status(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id)
    row = results(runtime, batch, tmp_path)[1]
    assert (row["status"], row["reason"]) == ("failed", reason)
    assert row["raw_output"].startswith("{")
    assert row["usage"]
    assert row["cost"]
    assert "not JSON" not in row["error"]["message"]
    assert batch.usage == batch.parts[0].usage


def test_a_paid_answer_stays_through_several_repetitions(provider, runtime, emulator, tmp_path):
    """However often the provider fails after it."""
    emulator.state.faults.rows += [
        RowFault(kind="invalid_json", rows=[1], batches=1),
        RowFault(kind="overloaded", rows=[0], batches=0),
    ]
    policy = RoundPolicy(max_rounds=2, repeat_invalid_output=True)
    batch = start_batch(
        runtime, lambda: rows(3), defaults=defaults_of(provider, output_schema=ANSWER), claim=CLAIM, round_policy=policy
    )
    for _ in range(3):
        fetch_batch_status(runtime, batch.batch_id)
        batch = advance_batch(runtime, batch.batch_id)
        emulator.state.faults.rows[1].batches = 1
    assert [part.request_count for part in batch.parts] == [3, 1, 1]
    row = results(runtime, batch, tmp_path)[1]
    assert (row["status"], row["reason"], row["raw_output"][:1]) == ("failed", "errored", "{")
    assert row["cost"]


def test_truncated_answers_with_a_higher_limit(provider, runtime, emulator, tmp_path):
    """They go out again with the user's higher limit, and only if it is higher."""
    emulator.state.faults.rows.append(RowFault(kind="truncated", rows=[2], batches=1))
    batch = run(runtime, 3, RoundPolicy(truncated_max_tokens=2000), max_tokens=500)
    assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["completed"] * 3
    (line,) = b"".join(runtime.folder(batch.batch_id).blocks(requests_file(1))()).splitlines()
    sent = json.loads(line)
    limits = {"openai": ("body", "max_output_tokens"), "anthropic": ("params", "max_tokens")}
    outer, name = limits.get(provider, ("request", "generationConfig"))
    limit = sent[outer][name]
    assert (limit["maxOutputTokens"] if isinstance(limit, dict) else limit) == 2000
    assert "Sum up number 2" in line.decode()


def test_truncated_answers_are_never_repeated_as_they_were(provider, runtime, emulator):
    """A limit that is not higher would cut them off at the same place."""
    emulator.state.faults.rows.append(RowFault(kind="truncated", rows=[2]))
    run(runtime, 3, RoundPolicy(truncated_max_tokens=500), max_tokens=500)
    assert emulator.state.creates[provider] == 1


def test_a_canceled_batch_is_not_repeated(provider, emulator_of, store, tmp_path):
    """Somebody wanted it to stop."""
    emulator = emulator_of()
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        batch = start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
        emulator.state.faults.done_at_cancel = 0.4
        cancel_batch(runtime, batch.batch_id)
        fetch_batch_status(runtime, batch.batch_id)
        assert advance_batch(runtime, batch.batch_id).status is BatchStatus.CANCELED
        assert emulator.state.creates[provider] == 1


def test_a_crash_before_the_rounds_submission(provider, runtime, emulator, store, tmp_path):
    """The round is in the store and was not sent: the next attempt sends it, once."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=1))
    batch = start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
    fetch_batch_status(runtime, batch.batch_id)
    emulator.state.faults.http.append(HttpFault(route=f"{provider}.*create*", status=401))
    with pytest.raises(Exception, match="key"):
        advance_batch(runtime, batch.batch_id)
    emulator.state.faults.http.clear()
    again = start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
    assert again.batch_id == batch.batch_id
    advance_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id)
    assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["completed"] * 3
    assert [part.round for part in batch.parts] == [0, 1]
    assert emulator.state.creates[provider] == 2


def test_a_refused_round_costs_no_answer_of_the_first(provider, runtime, emulator, tmp_path):
    """The round ends as failed, and what was paid for before it is applied."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=1))
    batch = start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
    fetch_batch_status(runtime, batch.batch_id)
    emulator.state.faults.http.append(HttpFault(route=f"{provider}.*create*", status=400, times=-1))
    batch = advance_batch(runtime, batch.batch_id)
    assert batch.status.is_terminal
    found = results(runtime, batch, tmp_path)
    assert [row["status"] for row in found] == ["failed", "completed", "completed"]
    assert found[0]["error"]["message"]


def test_a_refused_round_keeps_what_may_be_at_the_provider(provider, emulator, store, tmp_path):
    """Of its two parts the first is refused, and the second was made by an attempt that died: that one is found."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=2))
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 1}) as runtime:
        batch = start_batch(runtime, lambda: rows(2), defaults=defaults_of(provider), claim=CLAIM)
        fetch_batch_status(runtime, batch.batch_id)
        assert open_round(runtime, fetch_batch_results(runtime, batch.batch_id))
        batch = store.get_batch(batch.batch_id)
        last = batch.parts[3]
        spooled = runtime.spooled_part(batch, last)
        store.record_upload(last.id, runtime.adapter.upload(runtime.transport, spooled))
        assert store.record_intent(last.id, runtime.clock())
        runtime.adapter.create(runtime.transport, spooled, store.get_batch(batch.batch_id).parts[3].input_ref)
        emulator.state.faults.http.append(HttpFault(route=f"{provider}.batches.create", status=400, times=2))
        while not (batch := advance_batch(runtime, batch.batch_id)).status.is_terminal:
            fetch_batch_status(runtime, batch.batch_id)
        assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["failed", "completed"]
    assert emulator.state.creates[provider] == 3


def test_two_processes_open_one_round(provider, runtime, emulator, store):
    """The second finds the round of the first."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=1))
    batch = start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
    fetch_batch_status(runtime, batch.batch_id)
    first = fetch_batch_results(runtime, batch.batch_id)
    assert open_round(runtime, first)
    assert not open_round(runtime, first)
    assert len(store.get_batch(batch.batch_id).parts) == 2


def test_each_model_repeats_in_its_own_part(emulator, store, tmp_path):
    """A part holds one model, in a round as well."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=2))
    given = [{"prompt": f"Say {n}", "model": ("gpt-5-nano", "gpt-5-mini")[n % 2]} for n in range(4)]
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        batch = start_batch(runtime, lambda: given, defaults=defaults_of("openai"), claim=CLAIM)
        fetch_batch_status(runtime, batch.batch_id)
        batch = advance_batch(runtime, batch.batch_id)
        assert [(part.round, part.model) for part in batch.parts] == [
            (0, "gpt-5-nano"),
            (0, "gpt-5-mini"),
            (1, "gpt-5-nano"),
            (1, "gpt-5-mini"),
        ]
        fetch_batch_status(runtime, batch.batch_id)
        batch = advance_batch(runtime, batch.batch_id)
        assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["completed"] * 4
