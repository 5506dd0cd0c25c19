"""Cancel at any moment: nothing is created after it, nothing runs unseen, and no answer that was paid is lost."""

from __future__ import annotations

import pytest

from airflow_raif.domain.batch import CANCEL_REQUESTED
from airflow_raif.domain.errors import (
    AmbiguousSubmitError,
    BatchStoppingError,
    EndingError,
    InvalidBatchError,
    UnavailableError,
)
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.outcome import check_outcome
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.settle import adopt_part, resend_part
from airflow_raif.services.start import start_batch
from airflow_raif.services.stragglers import LOST_AFTER
from airflow_raif.services.submit import submit_batch
from tests.contract.world import HOUR
from tests.support import CLAIM, PROVIDERS, defaults_of, later, rows, runtime_of, through

SYNCHRONOUS = {"openai": "/responses", "anthropic": "/messages", "gemini": ":generateContent"}


@pytest.fixture(params=PROVIDERS)
def provider(request):
    return request.param


@pytest.fixture
def emulator(emulator_of):
    return emulator_of(progress=Progress.parse("polls:1000"))


@pytest.fixture
def runtime(provider, emulator, store, tmp_path):
    """Parts hold two requests."""
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 2}) as opened:
        yield opened


def is_create(request):
    path = request.url.path
    return request.method == "POST" and path.endswith(("/batches", ":batchGenerateContent"))


def at_the_second_create(act):
    """Run something once, when the second create goes by."""
    seen = []

    def look(request, *_):
        if is_create(request):
            seen.append(request)
            if len(seen) == 2:
                act()

    return look


def lost_create(runtime, batch, number=0):
    """Send a part as a worker does that dies before it reads the reply; return its id at the provider."""
    part = batch.parts[number]
    spooled = runtime.spooled_part(batch, part)
    input_ref = runtime.adapter.upload(runtime.transport, spooled)
    runtime.store.record_intent(part.id, runtime.clock())
    return runtime.adapter.create(runtime.transport, spooled, input_ref).provider_batch_id


def statuses_at(emulator, provider):
    return [each.status for each in emulator.state.batches[provider].values()]


def test_parts_that_were_never_sent_never_are(provider, runtime, emulator, store):
    """A cancel between two creates stops what runs, and keeps the rest from being sent by anybody."""
    emulator.state.faults.http.append(HttpFault(route=f"{provider}.batches.create", status=500, skip=1, times=-1))
    batch = create_batch(runtime, rows(5), defaults=defaults_of(provider))
    with pytest.raises(UnavailableError):
        submit_batch(runtime, batch.batch_id)
    emulator.state.faults.http.clear()
    store.clear_intent(batch.parts[1].id, store.get_batch(batch.batch_id).parts[1].intent_at)
    assert cancel_batch(runtime, batch.batch_id) is BatchStatus.CANCELED
    parts = store.get_batch(batch.batch_id).parts
    assert [part.status for part in parts] == [BatchStatus.CANCELED] * 3
    assert [part.raw_status for part in parts][1:] == ["never submitted"] * 2
    with pytest.raises(InvalidBatchError, match="has nothing left to submit"):
        submit_batch(runtime, batch.batch_id)
    assert emulator.state.creates[provider] == 1
    fetch_batch_results(runtime, batch.batch_id)
    assert store.count_entries(batch).reasons == {"canceled": 5}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_cancel_in_the_middle_of_a_create(provider, runtime, emulator, store, moment):
    """By another process, before the create reaches the provider or before its reply comes back.

    The create is the last one, and whoever sent it cancels what it made if the other process could not know of it.
    """
    batch = create_batch(runtime, rows(5), defaults=defaults_of(provider))
    told = []

    def cancel():
        try:
            cancel_batch(runtime, batch.batch_id)
        except (AmbiguousSubmitError, UnavailableError) as error:
            told.append(error)

    hook = at_the_second_create(cancel)
    submitter = through(runtime, before=hook) if moment == "before" else through(runtime, change=hook)
    batch = submit_batch(submitter, batch.batch_id)
    assert emulator.state.creates[provider] == 2
    assert [part.provider_batch_id for part in batch.parts] == [*emulator.state.batches[provider], None]
    if moment == "before":
        assert "the provider does not list it" in str(told[0])
    elif provider == "anthropic":
        assert "only time and size tell that it is" in str(told[0])
    else:
        assert told == []
    assert fetch_batch_status(runtime, batch.batch_id) is BatchStatus.CANCELED
    assert statuses_at(emulator, provider) == ["canceled", "canceled"]


def test_a_part_that_ended_before_it_is_told_to_stop(provider, emulator_of, store, tmp_path):
    """It was canceled while it was submitted, and the provider was faster: what it brought is no error, and fetched."""
    emulator = emulator_of()
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 2}) as runtime:
        batch = create_batch(runtime, rows(4), defaults=defaults_of(provider))

        def cancel():
            with pytest.raises(UnavailableError, match="the provider does not list it"):
                cancel_batch(runtime, batch.batch_id)

        at_create = at_the_second_create(cancel)

        def look(request):
            at_create(request)
            if request.url.path.endswith("cancel"):
                for provider_batch_id in list(emulator.state.batches[provider]):
                    runtime.transport.send(runtime.adapter.get_request(provider_batch_id))

        batch = submit_batch(through(runtime, before=look), batch.batch_id)
        assert emulator.state.requests[f"{provider}.batches.cancel"] > 0
        assert fetch_batch_status(runtime, batch.batch_id).is_terminal
        assert fetch_batch_results(runtime, batch.batch_id).results_fetched_at is not None
        assert store.count_entries(batch).pending == 0


def test_cancel_of_a_create_whose_worker_died(provider, runtime, emulator, store):
    """What the create made is found and stopped; without a mark of ours on it a person decides, or its results do."""
    batch = create_batch(runtime, rows(2), defaults=defaults_of(provider))
    made = lost_create(runtime, batch)
    if runtime.adapter.has_tag:
        cancel_batch(runtime, batch.batch_id)
    else:
        with pytest.raises(UnavailableError, match=f"{made}.* Retry the task"):
            cancel_batch(runtime, batch.batch_id)
        for _ in range(2):
            with pytest.raises(AmbiguousSubmitError, match=f"adopt {batch.batch_id} 0 .* and cancels it") as told:
                cancel_batch(later(runtime), batch.batch_id)
            assert made in str(told.value)
        assert statuses_at(emulator, provider) == ["in_progress"]
        assert adopt_part(runtime, batch.batch_id, 0, made).parts[0].is_canceling
    assert fetch_batch_status(runtime, batch.batch_id) is BatchStatus.CANCELED
    assert store.get_batch(batch.batch_id).parts[0].provider_batch_id == made
    assert statuses_at(emulator, provider) == ["canceled"]
    assert emulator.state.creates[provider] == 1


def test_a_lost_create_that_ended_before_its_cancel_is_fetched(provider, emulator_of, store, tmp_path):
    """It was paid for, and its results tell whose they are."""
    emulator = emulator_of()
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
        made = lost_create(runtime, batch)
        runtime.transport.send(runtime.adapter.get_request(made))
        assert cancel_batch(runtime, batch.batch_id) is BatchStatus.ENDED
        fetch_batch_results(runtime, batch.batch_id)
    assert store.count_entries(batch).completed == 3
    assert emulator.state.requests[f"{provider}.batches.cancel"] == 0


def test_cancel_of_a_create_that_never_arrived(provider, runtime, emulator, store):
    """Until a lagging list would show it, it may still come; then it is canceled here. In between nothing sends it."""
    batch = create_batch(runtime, rows(2), defaults=defaults_of(provider))
    store.record_intent(batch.parts[0].id, runtime.clock())
    for attempt in (cancel_batch, submit_batch, cancel_batch):
        with pytest.raises(UnavailableError, match="the provider does not list it"):
            attempt(runtime, batch.batch_id)
        assert store.get_batch(batch.batch_id).is_cancel_requested
    submit_batch(later(runtime), batch.batch_id)
    assert store.get_batch(batch.batch_id).status is BatchStatus.CANCELED
    assert emulator.state.creates[provider] == 0


def test_a_person_says_that_a_create_to_be_canceled_made_nothing(provider, runtime, emulator, store):
    """Taken as never sent, it is canceled and not sent again."""
    batch = create_batch(runtime, rows(2), defaults=defaults_of(provider))
    store.record_intent(batch.parts[0].id, runtime.clock())
    with pytest.raises(UnavailableError):
        cancel_batch(runtime, batch.batch_id)
    assert resend_part(later(runtime), batch.batch_id, 0).status is BatchStatus.CANCELED
    assert emulator.state.creates[provider] == 0


def test_a_cancel_that_the_provider_did_not_get_is_not_forgotten(provider, runtime, emulator, store):
    """Polls in between do not make it so; the next call cancels, and only what still runs."""
    batch = create_batch(runtime, rows(5), defaults=defaults_of(provider))
    submit_batch(runtime, batch.batch_id)
    route = f"{provider}.batches.cancel"
    emulator.state.faults.http.append(HttpFault(route=route, status=500, skip=1, times=-1))
    with pytest.raises(UnavailableError):
        cancel_batch(runtime, batch.batch_id)
    emulator.state.faults.http.clear()
    fetch_batch_status(runtime, batch.batch_id)
    parts = store.get_batch(batch.batch_id).parts
    assert [part.raw_status == CANCEL_REQUESTED for part in parts] == [False, True, True]
    calls = emulator.state.requests[route]
    assert cancel_batch(runtime, batch.batch_id) is BatchStatus.CANCELED
    assert emulator.state.requests[route] == calls + 2
    assert statuses_at(emulator, provider) == ["canceled"] * 3


def test_a_batch_that_is_being_canceled_keeps_its_place_until_it_has_stopped(provider, runtime, emulator, store):
    """The next attempt is given the old batch to wait for, and once it has stopped a new one, in the same attempt."""
    emulator.state.faults.cancel_looks = 9
    emulator.state.faults.done_at_cancel = 0.5

    def start():
        return start_batch(runtime, lambda: rows(2), defaults=defaults_of(provider), claim=CLAIM)

    old = start()
    cancel_batch(runtime, old.batch_id)
    for _ in range(2):
        with pytest.raises(BatchStoppingError, match=f"batch {old.batch_id} is being canceled"):
            start()
    assert emulator.state.creates[provider] == 1
    emulator.state.faults.cancel_looks = 0
    assert start().batch_id != old.batch_id
    assert emulator.state.creates[provider] == 2
    if provider != "gemini":  # which has no word for it, so that it is told again
        assert emulator.state.requests[f"{provider}.batches.cancel"] == 1
    old = store.get_batch(old.batch_id)
    assert old.results_fetched_at is not None
    assert store.count_entries(old).pending == 0


def test_a_batch_that_ended_before_its_cancel_is_taken_up(provider, runtime, emulator, store):
    """A cancel that came too late canceled nothing: the next attempt finds a whole batch, and pays nothing."""

    def start():
        return start_batch(runtime, lambda: rows(2), defaults=defaults_of(provider), claim=CLAIM)

    batch = start()
    (at_provider,) = emulator.state.batches[provider].values()
    emulator.state.faults.http.append(HttpFault(route=f"{provider}.batches.cancel", status=500, times=-1))
    with pytest.raises(UnavailableError):
        cancel_batch(runtime, batch.batch_id)
    at_provider.looks = 1000
    assert start().batch_id == batch.batch_id
    assert store.count_entries(batch).completed == 2
    assert emulator.state.creates[provider] == 1


def test_a_batch_canceled_in_part_is_a_canceled_one(provider, runtime, emulator, store):
    """What ended before is kept; the task is told that the batch was canceled, and a clear starts a new one."""
    start = {"defaults": defaults_of(provider), "claim": CLAIM}
    old = start_batch(runtime, lambda: rows(5), **start)
    first = next(iter(emulator.state.batches[provider].values()))
    first.looks = 1000
    fetch_batch_status(runtime, old.batch_id)
    cancel_batch(runtime, old.batch_id)
    old = fetch_batch_results(runtime, old.batch_id)
    assert old.status is BatchStatus.ENDED
    assert store.count_entries(old).completed == 2
    with pytest.raises(Exception, match="was canceled: 2 of 5 entries completed, 3 canceled"):
        check_outcome(runtime, old)
    assert start_batch(runtime, lambda: rows(5), **start).batch_id != old.batch_id
    assert store.count_entries(store.get_batch(old.batch_id)).completed == 2


def test_cancel_of_a_round_keeps_what_the_first_submission_brought(provider, emulator_of, store, tmp_path):
    """A kill in a round stops the round; the answers before it are taken up again and not paid anew."""
    emulator = emulator_of()
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        start = {"defaults": defaults_of(provider), "claim": CLAIM}
        batch = start_batch(runtime, lambda: rows(3), **start)
        fetch_batch_status(runtime, batch.batch_id)
        batch = advance_batch(runtime, batch.batch_id)
        assert [part.round for part in batch.parts] == [0, 1]
        assert cancel_batch(runtime, batch.batch_id) is BatchStatus.ENDED
        again = advance_batch(runtime, start_batch(runtime, lambda: rows(3), **start).batch_id)
    assert again.batch_id == batch.batch_id
    counts = store.count_entries(again)
    assert (counts.completed, counts.reasons) == (2, {"canceled": 1})
    assert emulator.state.creates[provider] == 2


def test_cancel_before_a_round_is_sent(provider, emulator_of, store, tmp_path):
    """A round that was opened and not sent is not sent any more."""
    emulator = emulator_of()
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        batch = start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
        fetch_batch_status(runtime, batch.batch_id)
        emulator.state.faults.http.append(HttpFault(route=f"{provider}.batches.create", status=429, times=1))
        assert advance_batch(runtime, batch.batch_id).is_held_back
        assert cancel_batch(runtime, batch.batch_id) is BatchStatus.ENDED
        advance_batch(runtime, batch.batch_id)
    assert emulator.state.creates[provider] == 1


def test_a_task_that_was_told_to_end_sends_nothing_more(provider, runtime, emulator, store):
    """Neither a part nor a synchronous call: what is sent now is answered when nobody is there."""
    told = []
    ending = through(runtime, change=at_the_second_create(lambda: told.append(True)))
    object.__setattr__(ending, "is_ending", lambda: bool(told))
    batch = create_batch(runtime, rows(5), defaults=defaults_of(provider))
    with pytest.raises(EndingError, match="nothing more was sent"):
        submit_batch(ending, batch.batch_id)
    assert emulator.state.creates[provider] == 2
    assert [bool(part.provider_batch_id) for part in store.get_batch(batch.batch_id).parts] == [True, True, False]
    submit_batch(runtime, batch.batch_id)
    assert emulator.state.creates[provider] == 3


def test_cancel_between_synchronous_calls(provider, emulator_of, store, tmp_path):
    """Answers that came are paid and stay; the calls that were not made are not made any more."""
    emulator = emulator_of()
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0, 1, 2], batches=1))
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        policy = RoundPolicy(synchronous_stragglers=3)
        batch = start_batch(runtime, lambda: rows(4), defaults=defaults_of(provider), claim=CLAIM, round_policy=policy)
        fetch_batch_status(runtime, batch.batch_id)
        told = []

        def cancel(request, _response):
            if request.method == "POST" and request.url.path.endswith(SYNCHRONOUS[provider]) and not told:
                with pytest.raises(UnavailableError, match="1 synchronous calls of batch .* are on their way") as error:
                    cancel_batch(runtime, batch.batch_id)
                told.append(error)

        batch = advance_batch(through(runtime, change=cancel), batch.batch_id)
        assert told
        counts = store.count_entries(batch)
        assert (counts.completed, counts.reasons) == (2, {"canceled": 2})
        assert batch.parts[1].status is BatchStatus.CANCELED
        assert batch.parts[1].usage.output_tokens > 0


def test_cancel_of_a_synchronous_call_whose_worker_died(provider, emulator_of, store, tmp_path):
    """Its answer may be paid and is lost; the entry says so, and the batch comes to its end."""
    emulator = emulator_of()
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0, 1], batches=1))
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        policy = RoundPolicy(synchronous_stragglers=3)
        batch = start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM, round_policy=policy)
        fetch_batch_status(runtime, batch.batch_id)

        def die(request):
            if request.url.path.endswith(SYNCHRONOUS[provider]):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            advance_batch(through(runtime, before=die), batch.batch_id)
        with pytest.raises(UnavailableError):
            cancel_batch(runtime, batch.batch_id)
        assert cancel_batch(later(runtime, LOST_AFTER), batch.batch_id) is BatchStatus.ENDED
        fetch_batch_results(runtime, batch.batch_id)
    assert store.count_entries(batch).reasons == {"canceled": 1, "errored": 1}


def test_a_sweep_finishes_a_cancel_that_did_not_get_through(each, world):
    """The provider was away when the task was killed; nobody has to come back for it."""
    batch = world.submit(each)
    world.fault(f"{each}.batches.cancel", status=500, times=-1)
    with world.open(each) as runtime, pytest.raises(UnavailableError):
        cancel_batch(runtime, batch.batch_id)
    world.emulator.state.faults.http.clear()
    world.passes(3 * HOUR)
    report = world.sweep()
    assert report.counts["canceled"] == 1
    assert statuses_at(world.emulator, each) == ["canceled"]
    assert world.store.count_entries(batch).reasons == {"canceled": 3}


def test_a_sweep_cancels_what_a_lost_create_made(each, world):
    """The worker was killed with a create on its way; without a mark of ours on it a person decides."""
    with world.open(each) as runtime:
        batch = create_batch(runtime, rows(2), defaults=defaults_of(each), claim=CLAIM)
        world.fault(f"{each}.batches.list", status=500, times=-1)
        lost_create(runtime, batch)
        with pytest.raises(UnavailableError):
            cancel_batch(runtime, batch.batch_id)
    world.emulator.state.faults.http.clear()
    world.passes(3 * HOUR)
    report = world.sweep()
    if each == "anthropic":
        assert "and cancels it" in report.warnings[0]
    else:
        assert report.counts["canceled"] == 1
        assert statuses_at(world.emulator, each) == ["canceling"]
