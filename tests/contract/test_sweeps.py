"""Sweeps: what a task left behind is not lost, nothing is sent, and a live task is not disturbed."""

from __future__ import annotations

import pytest

from airflow_raif.domain.batch import Claim
from airflow_raif.domain.errors import InvalidRequestError, TransientProviderError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import RowFault
from airflow_raif.services.create import create_batch
from airflow_raif.services.start import start_batch
from airflow_raif.services.submit import submit_batch
from airflow_raif.store import Store
from tests.contract.world import HOUR, LATER, completed
from tests.support import defaults_of, rows

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


def test_a_lost_create_is_adopted(each, world):
    """What the provider made is taken, polled and fetched, and nothing is sent."""
    batch, made = world.lose_reply(each)
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
        other, made = world.lose_reply(each)
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
    batch, _ = world.lose_reply(each)
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
        assert "goes on; cancel_expired would have it canceled" in report.warnings[0]
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
    world.store.release_claim(batch, world.clock())
    world.passes(LATER)
    report = world.sweep(task_state=lambda claim: pytest.fail(f"asked for {claim}"))
    assert report.counts["resumed"] == 1
