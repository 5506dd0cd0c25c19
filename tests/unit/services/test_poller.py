"""The shared poller at its edges: outages, hints, strangers, its end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from airflow_raif.adapters.http import AsyncHttpTransport
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.errors import AuthenticationError, BatchNotFoundError, StoreUnavailableError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.services.create import create_batch
from airflow_raif.services.poller import SharedPoller
from airflow_raif.services.submit import submit_batch
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
