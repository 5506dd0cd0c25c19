"""Sweeps: what a task left behind is not lost, nothing is sent, and a live task is not disturbed."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_raif.adapters.http import AsyncHttpTransport
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.batch import Claim
from airflow_raif.domain.errors import InvalidRequestError, StoreUnavailableError, TransientProviderError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import RowFault
from airflow_raif.services.create import create_batch
from airflow_raif.services.poller import SharedPoller
from airflow_raif.services.report import MAX_LINES, SweepReport
from airflow_raif.services.start import start_batch
from airflow_raif.services.submit import submit_batch
from airflow_raif.store import Store
from tests.contract.world import DAY, HOUR
from tests.support import PROVIDERS, defaults_of, rows

LATER = 3 * HOUR


def completed(found):
    return [row["status"] for row in found].count("completed")


# The waiting task is gone


def test_a_batch_that_nobody_waits_for_is_polled_and_fetched(each, world):
    """Its task applies the results when it comes back, without asking the provider for anything again."""
    batch = world.submit(each)
    world.end_all()
    world.passes(LATER)
    report = world.sweep()
    assert (report.counts["resumed"], report.counts["fetched"], report.warnings) == (1, 1, [])
    swept = world.read(batch)
    assert swept.status is BatchStatus.ENDED
    assert swept.usage.output_tokens > 0
    assert swept.cost.batch > 0
    assert swept.applied_at is None
    calls = world.calls()
    assert completed(world.finish(batch)) == 3
    assert world.calls() == calls
    assert world.emulator.state.creates[each] == 1


def test_what_somebody_is_at_is_left_alone(each, world):
    """Within the grace no connection is even opened."""
    world.submit(each)
    world.passes(LATER)
    world.poll(world.submit(each))
    world.passes(HOUR)
    calls, world.opened = world.calls(), []
    assert dict(world.sweep().counts) == {"open": 1}
    assert (world.calls(), world.opened) == (calls, [])


def test_a_batch_that_runs_on_is_polled_once_in_a_while(each, world):
    """A second pass soon after finds that it was polled."""
    batch = world.submit(each)
    world.passes(LATER)
    assert world.sweep().counts["resumed"] == 1
    assert world.read(batch).status is BatchStatus.IN_PROGRESS
    assert world.sweep().counts["resumed"] == 0


def test_no_round_is_opened(each, world):
    """What failed in passing is for the task to send again, and it still does."""
    world.emulator.state.faults.rows.append(RowFault(kind="overloaded", rows=[1], batches=1))
    batch = world.submit(each)
    world.end_all()
    world.passes(LATER)
    assert world.sweep().counts["fetched"] == 1
    assert world.emulator.state.creates[each] == 1
    world.passes(LATER)
    assert world.sweep().counts["open"] == 0
    assert completed(world.finish(batch)) == 3
    assert world.emulator.state.creates[each] == 2


def test_a_round_that_was_opened_and_not_sent_is_told(each, world):
    """The worker died between opening a round and sending it: only its task may pay for it."""
    world.emulator.state.faults.rows.append(RowFault(kind="overloaded", rows=[1], batches=1))
    batch = world.submit(each)
    world.end_all()
    world.fault(f"{each}.batches.create", status=500)
    with pytest.raises(TransientProviderError):
        world.finish(batch)
    world.passes(LATER)
    report = world.sweep()
    assert (report.counts["cleared"], world.emulator.state.creates[each]) == (1, 1)
    report = world.sweep()
    assert "part 1 was not sent, and nobody is at it; clear its task to go on" in report.warnings[0]
    assert completed(world.finish(batch)) == 3


def test_parts_that_ended_are_fetched_though_others_were_never_sent(each, world):
    """A half-submitted batch never ends by itself; the answers that were paid for are brought home."""
    world.connections[each] = {"limits": {"max_requests": 2}}
    world.fault(f"{each}.batches.create", status=400, skip=1)
    with pytest.raises(Exception, match="400"):
        world.submit(each, 4)
    world.end_all()
    world.passes(LATER)
    report = world.sweep()
    assert (report.counts["fetched"], report.counts["stalled"]) == (1, 0)
    assert "2 completed, 0 failed, 2 to come" in report.done[-1]
    world.passes(LATER)
    report = world.sweep()
    assert (report.counts["fetched"], report.counts["stalled"]) == (0, 1)
    batch = world.submit(each, 4)
    assert completed(world.finish(batch)) == 4
    assert world.emulator.state.creates[each] == 2


def test_a_batch_whose_input_was_not_read_to_its_end(each, world):
    """What was sent of it is polled and fetched, nothing is discarded, and its task goes on after it."""
    world.connections[each] = {"limits": {"max_requests": 2}}
    given = [*rows(4), {"custom_id": "row 4", "prompt": 7}]
    with world.open(each) as runtime, pytest.raises(InvalidRequestError, match="1 parts of batch"):
        start_batch(runtime, lambda: given, defaults=defaults_of(each), claim=Claim("dag", "run", each, 5))
    world.end_all()
    world.passes(LATER)
    assert world.sweep(delete_spools_after=HOUR).counts["resumed"] == 1
    report = world.sweep(delete_spools_after=HOUR)
    assert report.counts["fetched"] + report.counts["discarded"] == 0
    assert "its input was not read to the end, and nobody is at it; clear its task to go on" in report.warnings[0]
    batch = world.submit(each, 5)
    assert completed(world.finish(batch)) == 5
    assert world.emulator.state.creates[each] == 3


# Workers die


WRITES = ("record_states", "record_outcomes", "fail_without_result", "mark_part_fetched", "mark_fetched")


def test_a_sweep_that_dies_is_made_up_for(each, world, monkeypatch):
    """Killed between any two writes, the next pass leads to the same end, by way of the same creates."""
    world.connections[each] = {"limits": {"max_requests": 2}}
    world.end_all()
    for count, step in enumerate(WRITES, 3):
        world.emulator.state.faults.rows = [RowFault(kind="missing", rows=[0], batches=1)]
        creates = world.emulator.state.creates[each]
        batch = world.submit(each, count)
        world.passes(LATER)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Store, step, killed)
            world.sweep()
        world.passes(LATER)
        world.sweep()
        swept = world.read(batch)
        assert swept.results_fetched_at is not None, step
        tally = world.store.count_entries(swept)
        assert (tally.pending, tally.completed, tally.reasons) == (0, count - 1, {"missing": 1}), step
        assert world.emulator.state.creates[each] == creates + len(swept.parts), step
        assert completed(world.finish(batch)) == count, step
        assert world.emulator.state.creates[each] == creates + len(swept.parts) + 1, step


def killed(*args, **kwargs):
    """What a write is replaced with when the worker dies before it."""
    raise KeyboardInterrupt


# Lost creates


def lose_reply(world, provider, count=3):
    """The provider made the batch, the worker died before it read the reply."""
    with world.open(provider) as runtime:
        claim = Claim("dag", "run", provider, count)
        batch = create_batch(runtime, rows(count), defaults=defaults_of(provider), claim=claim)
        (part,) = batch.parts
        spooled = runtime.spooled_part(batch, part)
        part.input_ref = runtime.adapter.upload(runtime.transport, spooled)
        if part.input_ref:
            world.store.record_upload(part.id, part.input_ref)
        world.store.record_intent(part.id, world.clock())
        made = runtime.adapter.create(runtime.transport, spooled, part.input_ref)
    return batch, made.provider_batch_id


def test_a_lost_create_is_adopted(each, world):
    """What the provider made is taken, polled and fetched, and nothing is sent."""
    batch, made = lose_reply(world, each)
    assert world.sweep().counts["adopted"] == 0
    world.passes(LATER)
    report = world.sweep()
    if each == "anthropic":
        assert f"may have made {made}; its results will tell" in report.warnings[0]
        assert world.read(batch).parts[0].provider_batch_id is None
    world.end_all()
    with world.open(each) as runtime:
        runtime.transport.send(runtime.adapter.get_request(made))
    world.passes(LATER)
    world.sweep()
    assert world.read(batch).parts[0].provider_batch_id == made
    assert world.read(batch).results_fetched_at is not None
    assert completed(world.finish(batch)) == 3
    assert world.emulator.state.creates[each] == 1


def test_a_batch_that_is_being_submitted_is_not_mistaken_for_a_lost_one(each, world):
    """Another task's create is on its way, of the same size: it keeps its batch, and nobody's is taken."""
    with world.open(each) as runtime:
        lost = create_batch(runtime, rows(3), defaults=defaults_of(each))
        world.store.record_intent(lost.parts[0].id, world.clock())
        world.passes(LATER)
        other, made = lose_reply(world, each)
        world.sweep()
        assert world.read(lost).parts[0].provider_batch_id is None
        world.passes(HOUR)
        submit_batch(runtime, other.batch_id)
    assert world.read(other).parts[0].provider_batch_id == made
    assert world.emulator.state.creates[each] == 1


def test_a_create_that_made_nothing_is_for_the_task_to_send(each, world):
    """The sweep makes sure and sends nothing; the next attempt does."""
    with world.open(each) as runtime:
        batch = create_batch(runtime, rows(3), defaults=defaults_of(each), claim=Claim("dag", "run", each, 3))
    world.store.record_intent(batch.parts[0].id, world.clock())
    world.passes(LATER)
    report = world.sweep()
    assert "made nothing; clear its task to have it sent" in report.done[0]
    assert (world.emulator.state.creates[each], world.read(batch).parts[0].intent_at) == (0, None)
    assert world.submit(each).batch_id == batch.batch_id
    assert world.emulator.state.creates[each] == 1


def test_a_doubt_is_told_with_what_decides_it(each, world):
    """Two batches may be the lost one: none is taken, the commands are named, other batches go on."""
    batch, _ = lose_reply(world, each)
    with world.open(each) as runtime:
        part = world.read(batch).parts[0]
        runtime.adapter.create(runtime.transport, runtime.spooled_part(batch, part), part.input_ref)
    other = world.submit(each, 2)
    world.end_all()
    world.passes(LATER)
    report = world.sweep()
    assert report.counts["undecided"] == 1
    assert f"'airflow raif batches adopt {batch.batch_id} 0 <provider batch id>'" in report.warnings[0]
    assert world.read(batch).parts[0].provider_batch_id is None
    assert world.read(other).results_fetched_at is not None
    assert not report.is_futile


# Time is up


def test_a_batch_past_its_age_is_asked_about_first(each, world):
    """It ended meanwhile: it is fetched, and nothing is canceled."""
    batch = world.submit(each)
    world.end_all()
    world.passes(26 * HOUR)
    world.poll(world.submit(each, 2))
    report = world.sweep(max_age=25 * HOUR, cancel_expired=True)
    assert (report.counts["fetched"], report.counts["canceled"]) == (1, 0)
    assert world.emulator.state.requests[f"{each}.batches.cancel"] == 0
    assert completed(world.finish(batch)) == 3


def test_a_batch_past_its_age_is_canceled_and_what_it_finished_is_fetched(each, world):
    """However recently it was polled; a live task finds what was done before the cancel."""
    world.emulator.state.faults.done_at_cancel = 0.5
    batch = world.submit(each, 4)
    world.passes(2 * HOUR)
    world.poll(batch)
    report = world.sweep(max_age=HOUR, cancel_expired=True)
    assert report.counts["canceled"] == 1
    assert "it is older than 1:00:00; it was told to stop and is" in report.done[0]
    world.sweep(max_age=HOUR, cancel_expired=True)
    assert world.read(batch).status is BatchStatus.CANCELED
    assert completed(world.finish(batch)) == (0 if each == "gemini" else 2)
    assert world.sweep(max_age=HOUR, cancel_expired=True).counts["open"] == 0


def test_nothing_is_canceled_by_default(each, world):
    """Without leave a batch past its age is told of, pass by pass, and goes on."""
    batch = world.submit(each)
    world.passes(2 * HOUR)
    for _ in range(2):
        report = world.sweep(max_age=HOUR)
        assert "it goes on, since nothing lets it be canceled" in report.warnings[0]
    assert world.sweep().counts["late"] == 0
    assert world.emulator.state.requests[f"{each}.batches.cancel"] == 0
    assert world.read(batch).status is BatchStatus.IN_PROGRESS


# The task is over


def test_the_batch_of_a_task_that_is_over_is_canceled(each, world):
    """If that is wished for, nobody polls it, and its task failed or is no more; one that only submits succeeded."""
    states = {}
    for count, state in enumerate(["failed", "removed", "success", "deferred", "up_for_retry", None], 1):
        states[world.submit(each, count).claim] = state
    asked = []

    def task_state(claim):
        asked.append(claim)
        return states[claim]

    world.sweep(task_state=task_state)
    assert asked == []
    world.passes(LATER)
    report = world.sweep(task_state=task_state)
    assert set(asked) == set(states)
    assert (report.counts["canceled"], report.counts["resumed"]) == (2, 4)
    assert "nobody waited for it and its task is failed; it was told to stop" in report.done[0]
    assert world.emulator.state.requests[f"{each}.batches.cancel"] == 2


def test_a_batch_that_its_task_gave_up_does_not_speak_for_the_task(world):
    """The task instance has another batch by now, so its state says nothing about this one."""
    batch = world.submit("openai")
    world.store.release_claim(batch.batch_id, world.clock())
    world.passes(LATER)
    report = world.sweep(task_state=lambda claim: pytest.fail(f"asked for {claim}"))
    assert report.counts["resumed"] == 1


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
    assert "connection openai of others: 2 batches that need something were skipped" in report.warnings[1]
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
    assert line == ("connection openai: 1 batches that need something were skipped: there is no connection 'openai'")
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
    lost, _ = lose_reply(world, each, 5)
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
