"""Two attempts of one task at work on one batch: a worker taken for dead that is not, or a sweep beside a task."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import msgspec
import pytest

from airflow_raif.domain.errors import InvalidBatchError, TransientProviderError, UnavailableError
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.wire_id import make_wire_id
from airflow_raif.emulator.faults import RowFault
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.find import CREATE_SECONDS, LIST_LAG_SECONDS
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.rounds import open_round
from airflow_raif.services.start import start_batch
from airflow_raif.services.submit import submit_batch
from airflow_raif.store import AttemptLostError, ClaimTakenError
from tests.chaos.answers import paid_answers
from tests.support import CLAIM, PROVIDERS, defaults_of, folder, read_rows, rows, runtime_of

pytestmark = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture
def runtime(provider, emulator, store, tmp_path):
    with runtime_of(provider, emulator.url, store, tmp_path) as opened:
        yield opened


def first(monkeypatch, owner, method, action):
    """Let ``action`` happen right before the first call of a method: what the other attempt does meanwhile."""
    real = getattr(owner, method)

    def called(*arguments, **named):
        monkeypatch.setattr(owner, method, real)
        action()
        return real(*arguments, **named)

    monkeypatch.setattr(owner, method, called)


def ended(runtime, count, policy=None):
    """Start a batch that has ended at the provider and was not fetched."""
    batch = start_batch(
        runtime, lambda: rows(count), defaults=defaults_of(runtime.adapter.name), claim=CLAIM, round_policy=policy
    )
    assert fetch_batch_status(runtime, batch.batch_id) is BatchStatus.ENDED
    return batch


def statuses(runtime, batch, tmp_path):
    uri = apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri
    return [row["status"] for row in read_rows(uri)]


@pytest.mark.parametrize("step", ["record_upload", "record_intent"])
def test_both_submit(provider, runtime, emulator, store, monkeypatch, step):
    """The one that comes second sends nothing, and says that a retry goes on."""
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    if provider == "openai" or step == "record_intent":
        first(monkeypatch, store, step, lambda: submit_batch(runtime, batch.batch_id))
        with pytest.raises(UnavailableError, match="by another attempt of the task; retry it"):
            submit_batch(runtime, batch.batch_id)
    else:
        submit_batch(runtime, batch.batch_id)
    assert emulator.state.creates[provider] == 1


def test_the_other_submits_between_a_look_and_the_submission(provider, runtime, emulator, store, monkeypatch):
    """Nothing is left to do, which is no error."""
    create_batch(runtime, rows(3), defaults=defaults_of(provider), claim=CLAIM)
    held = store.find_by_claim(CLAIM)
    submit_batch(runtime, held.batch_id)
    monkeypatch.setattr(store, "find_by_claim", lambda _: held)
    with pytest.raises(UnavailableError, match="retry it"):
        start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
    monkeypatch.undo()
    batch = start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
    assert [batch.parts[0].provider_batch_id] == list(emulator.state.batches[provider])


@pytest.mark.parametrize("slept", [CREATE_SECONDS - 5, CREATE_SECONDS + 1, LIST_LAG_SECONDS + 1, 3600])
def test_an_attempt_that_slept_before_its_call(provider, runtime, emulator, store, monkeypatch, slept):
    """It wakes up when another attempt may have sent the part again, so its own call does not reach the provider."""
    asleep = [timedelta()]
    clock = runtime.clock
    runtime = dataclasses.replace(runtime, clock=lambda: clock() + asleep[0])
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    others: list[str] = []

    def sleep():
        asleep[0] = timedelta(seconds=slept)
        try:
            others.append(submit_batch(runtime, batch.batch_id).parts[0].provider_batch_id)
        except TransientProviderError:
            others.append("not yet")

    first(monkeypatch, runtime.adapter, "create", sleep)
    if slept < CREATE_SECONDS:
        submit_batch(runtime, batch.batch_id)
        assert others == ["not yet"]
    else:
        with pytest.raises(UnavailableError, match="could not be sent to .* in time.* nothing was made"):
            submit_batch(runtime, batch.batch_id)
        if slept < LIST_LAG_SECONDS:
            assert others == ["not yet"]
            submit_batch(runtime, batch.batch_id)
    assert emulator.state.creates[provider] == 1
    assert store.get_batch(batch.batch_id).parts[0].provider_batch_id in emulator.state.batches[provider]


def test_both_create(provider, runtime, emulator, store, monkeypatch):
    """The second finds the claim taken, and a retry takes up what the first made."""

    def other():
        start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)

    first(monkeypatch, store, "create_batch", other)
    with pytest.raises(ClaimTakenError) as told:
        start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
    assert told.value.retryable
    other()
    assert emulator.state.creates[provider] == 1


@pytest.mark.parametrize("step", ["add_part", "add_entries", "finish_spooling"])
def test_the_other_takes_a_half_made_batch_for_a_dead_one(provider, runtime, emulator, store, monkeypatch, step):
    """It makes the batch anew; the first writes nothing into that one, and a retry takes it up."""

    def other():
        start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)

    first(monkeypatch, store, step, other)
    with pytest.raises(AttemptLostError) as told:
        start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
    assert told.value.retryable
    batch = start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
    assert batch.request_count == 3
    assert store.count_entries(batch).pending == 3
    assert emulator.state.creates[provider] == 1


def test_both_fetch_and_get_the_rows_in_another_order(provider, runtime, emulator, tmp_path, monkeypatch):
    """Where a row lies is noted for the file of the one that came first, and that file stays."""
    batch = ended(runtime, 5)
    real = runtime.adapter.result_blocks

    def backwards(*arguments):
        fetch_batch_results(runtime, batch.batch_id)
        lines = b"".join(real(*arguments)).splitlines(keepends=True)
        yield from reversed(lines)

    def once(*arguments):
        monkeypatch.setattr(runtime.adapter, "result_blocks", real)
        return backwards(*arguments)

    monkeypatch.setattr(runtime.adapter, "result_blocks", once)
    batch = fetch_batch_results(runtime, batch.batch_id)
    found = read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri)
    (made,) = emulator.state.batches[provider].values()
    paid = paid_answers(provider, made.output.path.read_bytes())
    assert [row["output"] for row in found] == [paid[make_wire_id(batch.batch_id, n)][0] for n in range(5)]


def test_both_open_a_round(provider, runtime, emulator, store, tmp_path, monkeypatch):
    """One does; the other neither sends anything nor spoils the files that the first sends."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0, 2], batches=1))
    batch = ended(runtime, 3)
    seen = fetch_batch_results(runtime, batch.batch_id)
    first(monkeypatch, store, "open_round", lambda: advance_batch(runtime, batch.batch_id))
    assert not open_round(runtime, seen)
    assert not [name for name in (tmp_path / "spool" / batch.batch_id).iterdir() if "draft" in name.name]
    fetch_batch_status(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id)
    assert statuses(runtime, batch, tmp_path) == ["completed"] * 3
    assert emulator.state.creates[provider] == 2


@pytest.mark.parametrize("step", ["mark_fetched", "open_round"])
def test_the_other_opens_a_round_while_one_advances(provider, runtime, emulator, store, tmp_path, monkeypatch, step):
    """The batch is not over for either of them, and nothing is sent twice."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    batch = ended(runtime, 3)
    first(monkeypatch, store, step, lambda: advance_batch(runtime, batch.batch_id))
    assert not advance_batch(runtime, batch.batch_id).status.is_terminal
    fetch_batch_status(runtime, batch.batch_id)
    assert advance_batch(runtime, batch.batch_id).status.is_terminal
    assert statuses(runtime, batch, tmp_path) == ["completed"] * 3
    assert emulator.state.creates[provider] == 2


@pytest.mark.parametrize("step", ["mark_fetched", "iter_repeatable", "release_claim"])
def test_the_other_opens_a_round_while_one_gives_up_the_batch(provider, runtime, emulator, store, monkeypatch, step):
    """Nothing came of the batch, and one attempt is about to make a new one: it waits for the other's round instead."""
    emulator.state.faults.expire_after = 0.0
    policy = RoundPolicy(max_rounds=0 if step == "release_claim" else 1)
    arguments = {"defaults": defaults_of(provider), "claim": CLAIM, "round_policy": policy}
    batch = start_batch(runtime, lambda: rows(3), **arguments)
    assert fetch_batch_status(runtime, batch.batch_id).is_terminal

    def other_opens_a_round():
        emulator.state.faults.expire_after = None
        fetched = fetch_batch_results(runtime, batch.batch_id)
        assert open_round(runtime, msgspec.structs.replace(fetched, round_policy=RoundPolicy(max_rounds=1)))

    first(monkeypatch, store, step, other_opens_a_round)
    again = start_batch(runtime, lambda: rows(3), **arguments)
    assert again.batch_id == batch.batch_id
    assert [part.round for part in again.parts] == [0, 1]
    assert store.find_by_claim(CLAIM).batch_id == batch.batch_id


def test_who_fetches_while_the_other_opens_a_round_is_to_try_again(provider, runtime, emulator, store):
    """That the batch runs once more is no fault of the task."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    batch = ended(runtime, 3)
    advance_batch(runtime, batch.batch_id)
    with pytest.raises(InvalidBatchError, match="part 1 has not ended") as told:
        fetch_batch_results(runtime, batch.batch_id)
    assert told.value.retryable


def test_one_applies_while_the_other_opens_a_round(provider, runtime, emulator, store, tmp_path, monkeypatch):
    """What it wrote is not all, so it does not count as applied; what the round brings is in the file at the end."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    batch = ended(runtime, 3, RoundPolicy(max_rounds=1))
    fetch_batch_results(runtime, batch.batch_id)

    def round_to_its_end():
        advance_batch(runtime, batch.batch_id)
        fetch_batch_status(runtime, batch.batch_id)
        advance_batch(runtime, batch.batch_id)
        assert statuses(runtime, batch, tmp_path) == ["completed"] * 3

    first(monkeypatch, store, "mark_applied", round_to_its_end)
    assert statuses(runtime, batch, tmp_path) == ["completed"] * 3
    assert emulator.state.creates[provider] == 2
