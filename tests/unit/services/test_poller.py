"""The shared poller at its edges: outages, hints, strangers, its end."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime

import pytest

from airflow_raif.adapters.http import AsyncHttpTransport
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.errors import AuthenticationError, BatchNotFoundError, StoreError, StoreUnavailableError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.services.create import create_batch
from airflow_raif.services.poller import SharedPoller
from airflow_raif.services.submit import submit_batch
from airflow_raif.store import BatchMissingError
from tests.support import defaults_of, runtime_of, settings_of

FAST = (0.01,)


@pytest.fixture
def make(store, tmp_path):
    """Submit batches, and make a poller over the same store."""

    def submitted(emulator, count=1, **settings):
        with runtime_of("openai", emulator.url, store, tmp_path, **settings) as runtime:
            batches = [create_batch(runtime, ["a", "b", "c"], defaults=defaults_of("openai")) for _ in range(count)]
            return [submit_batch(runtime, batch.batch_id) for batch in batches]

    def poller(emulator, **values):
        adapter = make_adapter(settings_of("openai", emulator.url, **values))
        return SharedPoller(adapter, AsyncHttpTransport(adapter), store)

    return submitted, poller


async def test_several_batches_are_asked_for_with_the_list(make, emulator_of):
    """One list call tells about all of them."""
    submitted, poller_of = make
    emulator = emulator_of(progress=Progress.parse("polls:2"))
    batches = submitted(emulator, 3)
    poller = poller_of(emulator)
    found = await asyncio.gather(*(poller.wait(batch.batch_id, FAST) for batch in batches))
    assert found == [BatchStatus.ENDED] * 3
    assert emulator.state.requests["openai.batches.list"] >= 1


async def test_batch_missing_from_the_list_is_asked_for_by_id(make, emulator_of, monkeypatch):
    """With more strangers than the poller reads pages for, single calls find ours."""
    monkeypatch.setattr("airflow_raif.services.ask.MAX_PAGES", 0)
    submitted, poller_of = make
    emulator = emulator_of()
    batches = submitted(emulator, 3)
    poller = poller_of(emulator)
    await asyncio.gather(*(poller.wait(batch.batch_id, FAST) for batch in batches))
    assert emulator.state.requests["openai.batches.list"] == 0
    assert emulator.state.requests["openai.batches.get"] == 3


async def test_one_unknown_batch_does_not_stop_the_others(make, emulator):
    """A batch that was deleted at the provider fails its own wait only."""
    submitted, poller_of = make
    gone, other = submitted(emulator, 2)
    del emulator.state.batches["openai"][gone.parts[0].provider_batch_id]
    poller = poller_of(emulator)
    lost, found = await asyncio.gather(
        poller.wait(gone.batch_id, FAST), poller.wait(other.batch_id, FAST), return_exceptions=True
    )
    assert isinstance(lost, BatchNotFoundError)
    assert found is BatchStatus.ENDED


async def test_single_calls_that_fail_are_tried_again(make, emulator):
    """A 429 or 500 to a single call is waited out, with the provider's hint as the least pause."""
    submitted, poller_of = make
    (batch,) = submitted(emulator)
    emulator.state.faults.http += [
        HttpFault(route="openai.batches.get", status=429, retry_after=0.05),
        HttpFault(route="openai.batches.get", status=500),
        HttpFault(route="openai.batches.get", drop="before"),
    ]
    assert await poller_of(emulator).wait(batch.batch_id, FAST) is BatchStatus.ENDED
    assert emulator.state.requests["openai.batches.get"] == 4


async def test_refused_key_fails_every_wait(make, emulator):
    """Without a valid key nobody can be told anything."""
    submitted, poller_of = make
    batches = submitted(emulator, 2)
    poller = poller_of(emulator, api_key="bad-key")
    found = await asyncio.gather(*(poller.wait(each.batch_id, FAST) for each in batches), return_exceptions=True)
    assert all(isinstance(each, AuthenticationError) for each in found)


async def test_batch_that_is_terminal_already_costs_no_call(make, emulator, store, tmp_path):
    """What the store knows to be over is told at once."""
    submitted, poller_of = make
    (batch,) = submitted(emulator)
    part = batch.parts[0]
    adapter = make_adapter(settings_of("openai", emulator.url))
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        content = runtime.transport.send(adapter.get_request(part.provider_batch_id)).content
    store.record_states({part.id: adapter.parse_part(content)}, datetime.now(UTC))
    before = sum(emulator.state.requests.values())
    assert await poller_of(emulator).wait(batch.batch_id, FAST) is BatchStatus.ENDED
    assert sum(emulator.state.requests.values()) == before


async def test_store_that_is_away_is_waited_out(make, emulator, store, monkeypatch):
    """An outage of the store ends no wait."""
    submitted, poller_of = make
    (batch,) = submitted(emulator)
    statuses, failures = store.statuses, iter((StoreUnavailableError("away"), StoreUnavailableError("away")))

    def flaky(ids):
        for failure in failures:
            raise failure
        return statuses(ids)

    monkeypatch.setattr(store, "statuses", flaky)
    assert await poller_of(emulator).wait(batch.batch_id, FAST) is BatchStatus.ENDED


async def test_unexpected_error_reaches_the_waiters(make, emulator, store, monkeypatch):
    """A defect does not leave triggers waiting for ever."""
    submitted, poller_of = make
    (batch,) = submitted(emulator)

    def broken(_):
        raise ZeroDivisionError

    monkeypatch.setattr(store, "statuses", broken)
    poller = poller_of(emulator)
    with pytest.raises(ZeroDivisionError):
        await poller.wait(batch.batch_id, FAST)
    with pytest.raises(ZeroDivisionError):
        await poller._task
    assert poller.is_closed


async def test_two_waiters_of_one_batch(make, emulator_of):
    """Both are told; one that gives up leaves the other."""
    submitted, poller_of = make
    emulator = emulator_of(progress=Progress.parse("polls:5"))
    (batch,) = submitted(emulator)
    poller = poller_of(emulator)
    first = asyncio.create_task(poller.wait(batch.batch_id, FAST))
    second = asyncio.create_task(poller.wait(batch.batch_id, FAST))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is BatchStatus.ENDED
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_closes_when_nobody_waits(make, emulator_of):
    """The last waiter gone, the poller ends and closes its connections."""
    submitted, poller_of = make
    emulator = emulator_of(progress=Progress.parse("polls:9999"))
    (batch,) = submitted(emulator)
    closed = asyncio.Event()
    poller = poller_of(emulator)

    async def on_close():
        closed.set()

    poller.on_close = on_close
    waiter = asyncio.create_task(poller.wait(batch.batch_id, (30.0,)))
    while not emulator.state.requests["openai.batches.get"]:  # noqa: ASYNC110 - the server is another thread
        await asyncio.sleep(0.01)
    waiter.cancel()
    await asyncio.wait_for(closed.wait(), 10)
    assert poller.is_closed


async def test_those_who_end_together_are_told_in_turn(make, emulator_of, monkeypatch):
    """Many ends at once are told some at a time, in the order in which they were waited for."""
    monkeypatch.setattr("airflow_raif.services.poller.SETTLED_AT_ONCE", 2)
    submitted, poller_of = make
    emulator = emulator_of()
    batches = submitted(emulator, 9)
    poller, told = poller_of(emulator), []

    async def wait(batch):
        await poller.wait(batch.batch_id, (0.5,))
        told.append(batch.batch_id)

    await asyncio.gather(*(wait(batch) for batch in batches))
    assert told == [batch.batch_id for batch in batches]
    assert emulator.state.requests["openai.batches.list"] == 1


async def test_one_write_for_all_that_was_said(make, emulator_of, store, monkeypatch):
    """Progress of all waiting batches is noted together, once for each look at the list."""
    submitted, poller_of = make
    emulator = emulator_of(progress=Progress.parse("polls:4"))
    batches = submitted(emulator, 6)
    record, writes = store.record_states, []
    monkeypatch.setattr(store, "record_states", lambda states, at: writes.append(len(states)) or record(states, at))
    poller = poller_of(emulator)
    await asyncio.gather(*(poller.wait(batch.batch_id, (0.5,)) for batch in batches))
    assert len(writes) == emulator.state.requests["openai.batches.list"]
    assert set(writes) == {6}


async def test_nothing_is_left_of_those_who_leave(make, emulator_of):
    """Waits that are given up, also while the provider is being asked, leave no trace, and hold up nobody."""
    submitted, poller_of = make
    emulator = emulator_of(progress=Progress.parse("polls:12"))
    batches = submitted(emulator, 6)
    poller = poller_of(emulator)
    tasks = [asyncio.create_task(poller.wait(batch.batch_id, FAST)) for batch in batches]
    for number, task in enumerate(tasks[:5]):
        while emulator.state.requests["openai.batches.list"] <= number:  # noqa: ASYNC110 - the server is another thread
            await asyncio.sleep(0.001)
        task.cancel()
    assert await tasks[5] is BatchStatus.ENDED
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*tasks[:5], return_exceptions=True)
    )
    await poller._task
    assert poller._watches == {}
    assert poller.is_closed


async def test_a_batch_that_the_store_does_not_know_fails_alone(make, emulator):
    """Another store's batch, or a deleted one, is told so; the others go on."""
    submitted, poller_of = make
    (batch,) = submitted(emulator)
    poller = poller_of(emulator)
    lost, found = await asyncio.gather(
        poller.wait("nowhere", FAST), poller.wait(batch.batch_id, FAST), return_exceptions=True
    )
    assert isinstance(lost, BatchMissingError)
    assert found is BatchStatus.ENDED


async def test_a_state_that_cannot_be_noted_stops_no_other(make, emulator, store, monkeypatch, caplog):
    """What the database refuses of one batch is left out; the others end."""
    submitted, poller_of = make
    batches = submitted(emulator, 5)
    refused, record = batches[2].parts[0].id, store.record_states

    def refusing(states, at):
        if refused in states:
            raise StoreError("value out of range")
        return record(states, at)

    monkeypatch.setattr(store, "record_states", refusing)
    poller = poller_of(emulator)
    tasks = [asyncio.create_task(poller.wait(batch.batch_id, FAST)) for batch in batches]
    bad = tasks.pop(2)
    assert await asyncio.gather(*tasks) == [BatchStatus.ENDED] * 4
    assert not bad.done()
    bad.cancel()
    assert "cannot be noted: value out of range" in caplog.text


async def test_a_store_that_goes_away_while_writing(make, emulator, store, monkeypatch):
    """What the provider said is asked for again, and the end is not lost."""
    submitted, poller_of = make
    batches = submitted(emulator, 2)
    record, failures = store.record_states, iter((StoreUnavailableError("away"), StoreUnavailableError("away")))

    def flaky(states, at):
        for failure in failures:
            raise failure
        return record(states, at)

    monkeypatch.setattr(store, "record_states", flaky)
    poller = poller_of(emulator)
    found = await asyncio.gather(*(poller.wait(batch.batch_id, FAST) for batch in batches))
    assert found == [BatchStatus.ENDED] * 2
    assert emulator.state.requests["openai.batches.list"] == 3


async def test_no_call_before_the_pause_that_the_provider_wants_is_over(make, emulator_of):
    """Neither the batches that were refused nor one that comes later is asked about."""
    submitted, poller_of = make
    emulator = emulator_of()
    first, second, late = submitted(emulator, 3)
    before = sum(emulator.state.requests.values())
    emulator.state.faults.http.append(HttpFault(route="openai.batches.list", status=429, retry_after=1000))
    poller = poller_of(emulator)
    tasks = [asyncio.create_task(poller.wait(batch.batch_id, FAST)) for batch in (first, second)]
    while not poller._rests_until:  # noqa: ASYNC110 - what is waited for is the end of a tick
        await asyncio.sleep(0.01)
    tasks.append(asyncio.create_task(poller.wait(late.batch_id, FAST)))
    await asyncio.sleep(0.2)
    assert sum(emulator.state.requests.values()) == before + 1
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()


async def test_a_batch_of_which_nothing_is_at_the_provider_yet(make, emulator, store, tmp_path):
    """It is waited for without a call, and polled once it was sent."""
    _, poller_of = make
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        batch = create_batch(runtime, ["a"], defaults=defaults_of("openai"))
        poller = poller_of(emulator)
        wait = asyncio.create_task(poller.wait(batch.batch_id, FAST))
        while not poller._rests_until:  # noqa: ASYNC110 - what is waited for is the end of a tick
            await asyncio.sleep(0.01)
        assert sum(emulator.state.requests.values()) == 0
        await asyncio.to_thread(submit_batch, runtime, batch.batch_id)
        assert await wait is BatchStatus.ENDED


async def test_store_work_leaves_the_loop_alone(make, emulator, store, monkeypatch):
    """The event loop's own pool, which others fill, is not used: with it blocked, polling goes on."""
    submitted, poller_of = make
    batches = submitted(emulator, 2)
    loop, release = asyncio.get_running_loop(), threading.Event()
    blocked = [loop.run_in_executor(None, release.wait) for _ in range(40)]
    poller = poller_of(emulator)
    try:
        found = await asyncio.gather(*(poller.wait(batch.batch_id, FAST) for batch in batches))
    finally:
        release.set()
    assert found == [BatchStatus.ENDED] * 2
    await asyncio.gather(*blocked)
