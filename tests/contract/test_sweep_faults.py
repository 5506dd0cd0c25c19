"""Sweeps that meet errors, each other, and live tasks: one batch's trouble is its own, and nobody is disturbed."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_raif.adapters.http import AsyncHttpTransport
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.errors import StoreUnavailableError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import RowFault
from airflow_raif.services.poller import SharedPoller
from airflow_raif.services.report import MAX_LINES, SweepReport
from airflow_raif.store import Store
from tests.contract.world import DAY, HOUR, LATER, completed
from tests.support import PROVIDERS

# Connections and providers


def test_a_wrong_key_is_told_once_and_stops_nobody_else(world):
    """Of the connection's three batches one is tried; the other connections' are done."""
    world.connections["openai of others"] = {}
    lost = [world.submit("openai of others", count) for count in (1, 2, 3)]
    fine = [world.submit(provider) for provider in PROVIDERS]
    world.connections["openai of others"] = {"api_key": "bad-key"}
    world.end_all()
    world.passes(LATER)
    report = world.sweep()
    assert (report.counts["failed"], report.counts["skipped"], report.counts["fetched"]) == (1, 2, 3)
    assert "connection openai of others: skipped 2 batches that need something: " in report.warnings[1]
    assert "check the connection's password" in report.warnings[1]
    assert "bad-key" not in json.dumps(report.as_dict())
    assert all(world.read(batch).results_fetched_at for batch in fine)
    assert not any(world.read(batch).status.is_terminal for batch in lost)
    world.connections["openai of others"] = {}
    assert world.sweep().counts["fetched"] == 3


def test_a_missing_connection_is_told_and_stops_nobody_else(world):
    """Its batches are counted, and warned of in time before their results vanish."""
    lost, fine = world.submit("openai"), world.submit("anthropic")
    del world.connections["openai"]
    world.end_all()
    world.passes(LATER)
    report = world.sweep()
    (line,) = report.warnings
    assert line == ("connection openai: skipped 1 batches that need something: there is no connection 'openai'")
    assert world.read(fine).results_fetched_at is not None
    assert not report.is_futile
    world.passes(24 * DAY)
    report = world.sweep()
    assert report.is_futile
    assert (
        f"batch {lost.batch_id} of dag.openai[3] in run: its results were not fetched, and the provider may"
        in (report.warnings[1])
    )


@pytest.mark.parametrize("ended", [False, True])
def test_results_that_will_vanish_are_warned_of(each, world, ended):
    """Some days before the provider may delete them, whatever we know of the batch."""
    kept = {"openai": 30, "anthropic": 29, "gemini": 42}[each]
    batch = world.submit(each)
    if ended:
        world.end_all()
        world.poll(batch)
    world.fault(f"{each}.*", status=500, times=-1)
    world.passes((kept - 8) * DAY)
    assert world.sweep().counts["vanishing"] == 0
    world.passes(2 * DAY)
    report = world.sweep()
    assert report.counts["vanishing"] == 1
    assert f"{batch.submitted_at + kept * DAY:%Y-%m-%d %H:%M} UTC" in report.warnings[-1]
    assert world.sweep(warn_before=2 * DAY).counts["vanishing"] == 0


def test_a_provider_that_is_down_is_not_asked_for_every_batch(each, world):
    """One batch finds out, the others wait for the next pass; nothing is canceled and nothing is lost."""
    batches = [world.submit(each, count) for count in (1, 2, 3)]
    (fine,) = (world.submit(other) for other in PROVIDERS[PROVIDERS.index(each) - 1 :][:1])
    world.end_all()
    world.fault(f"{each}.*", status=503, times=-1)
    world.passes(LATER)
    report = world.sweep(max_age=HOUR, cancel_expired=True)
    assert (report.counts["failed"], report.counts["skipped"], report.counts["fetched"]) == (1, 2, 1)
    assert world.read(fine).results_fetched_at is not None
    world.emulator.state.faults.http.clear()
    assert world.sweep().counts["fetched"] == 3
    assert [completed(world.finish(batch)) for batch in batches] == [1, 2, 3]
    assert world.emulator.state.creates[each] == 3


def test_a_pass_that_can_do_nothing_says_so(world):
    """Every provider is down; a pass without anything to do is none of that kind."""
    assert not world.sweep().is_futile
    world.submit("openai")
    world.fault("*", drop="before", times=-1)
    world.passes(LATER)
    assert world.sweep().is_futile


def test_a_broken_spool_stops_nobody_else(each, world):
    """An error that nobody foresaw is that one batch's."""
    broken, fine = world.submit(each, 2), world.submit(each, 3)
    place = world.path / "spool" / broken.batch_id
    place.rename(place.with_suffix(".away"))
    place.write_text("no folder")
    world.end_all()
    world.passes(LATER)
    report = world.sweep()
    assert (report.counts["failed"], report.counts["fetched"]) == (1, 1)
    assert f"batch {broken.batch_id} of dag.{each}[2] in run: " in report.warnings[0]
    assert world.read(fine).results_fetched_at is not None
    place.unlink()
    place.with_suffix(".away").rename(place)
    world.passes(LATER)
    assert world.sweep().counts["fetched"] == 1
    assert completed(world.finish(broken)) == 2


def test_a_store_that_is_away_ends_the_pass(world, monkeypatch):
    """Nothing can be done for any batch then."""
    world.submit("openai")
    world.passes(LATER)

    def away(*args):
        raise StoreUnavailableError("the store does not answer")

    monkeypatch.setattr(Store, "record_states", away)
    with pytest.raises(StoreUnavailableError):
        world.sweep()


# At the same time


def test_two_sweeps_at_once(each, world):
    """Both do what both see; every batch comes out once, and neither fails."""
    batches = [world.submit(each, count) for count in (1, 2, 3, 4)]
    lost, _ = world.lose_reply(each, 5)
    world.end_all()
    with world.open(each) as runtime:
        for at_provider in world.emulator.state.batches[each]:
            runtime.transport.send(runtime.adapter.get_request(at_provider))
    world.passes(LATER)
    start = threading.Barrier(2)

    def sweep():
        start.wait()
        return world.sweep()

    with ThreadPoolExecutor(2) as pool:
        reports = [each.result() for each in [pool.submit(sweep), pool.submit(sweep)]]
    assert [report.warnings for report in reports] == [[], []]
    assert [completed(world.finish(batch)) for batch in [*batches, lost]] == [1, 2, 3, 4, 5]
    assert world.emulator.state.creates[each] == 5


async def test_a_sweep_beside_a_live_task(each, world):
    """A task waits while sweeps that take everybody for gone get at its batch all the time: it is applied once."""
    world.emulator.state.faults.rows.append(RowFault(kind="overloaded", rows=[1], batches=1))
    batch = await asyncio.to_thread(world.submit, each, 4)
    world.progress("polls:6")
    with world.open(each) as runtime:
        adapter = make_adapter(runtime.adapter.settings)
    is_over = threading.Event()

    def sweep_on():
        reports = []
        while not is_over.is_set():
            reports.append(world.sweep(grace=-HOUR))
        return reports

    sweeping = asyncio.create_task(asyncio.to_thread(sweep_on))
    poller = SharedPoller(adapter, AsyncHttpTransport(adapter), world.store)
    assert await poller.wait(batch.batch_id, [0.01]) is BatchStatus.ENDED
    found = await asyncio.to_thread(world.finish, batch)
    is_over.set()
    reports = await sweeping
    assert completed(found) == 4
    assert world.emulator.state.creates[each] == 2
    assert sum(report.counts["resumed"] for report in reports) > 0


def test_reports_stay_small():
    """A report travels through XCom; the log has every line."""
    report = SweepReport()
    for n in range(MAX_LINES + 7):
        report.warn("failed", f"line {n}")
    assert len(report.as_dict()["warnings"]) == MAX_LINES + 1
    assert report.as_dict()["warnings"][-1] == "... and 7 more, see the log"
    assert report.as_dict()["counts"] == {"failed": MAX_LINES + 7}
