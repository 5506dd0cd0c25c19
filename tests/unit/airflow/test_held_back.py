"""Batches that wait for room in the provider's queue, through operators, sensor and trigger."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import timedelta

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_raif.emulator.faults import HttpFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks.batch import BatchHook
from airflow_raif.operators._waiting import HELD_BACK_WINDOW, MARGIN, UNTOLD_WINDOW
from airflow_raif.operators.batch import BatchInferenceOperator, CancelBatchOperator, SubmitBatchOperator
from airflow_raif.sensors.batch import WaitForBatchSensor
from airflow_raif.triggers.batch import BatchTrigger
from tests.support import read_rows

SLOW = Progress.parse("polls:100000")
FOUR = ["one", "two", "three", "four"]


@pytest.fixture
def emulator(emulator_of):
    return emulator_of(progress=SLOW)


@pytest.fixture
def small(emulator, providers, connection):
    """A connection that sends one request in a part and queues two."""
    providers(emulator)
    extra = {"max_requests": 1, "max_enqueued_requests": 2}
    connection("small", conn_type="raif_openai", password="k", host=f"{emulator.url}/v1", extra=extra)
    return {"conn_id": "small", "model": "gpt-5-nano"}


def end_all(emulator):
    object.__setattr__(emulator.settings, "progress", Progress())


def submit(small, context, requests, map_index=-1):
    context["ti"].map_index = map_index
    return SubmitBatchOperator(task_id="submit", **small, requests=requests).execute(context)


def statuses(manifest):
    return [part["status"] for part in manifest["parts"]]


def trigger_of(deferred):
    trigger = deferred.value.trigger
    return BatchTrigger(**{**trigger.serialize()[1], "poll_intervals": [0.02], "min_dwell": 0})


async def event_of(trigger):
    (event,) = [event.payload async for event in trigger.run()]
    return event


def test_submit_returns_with_what_is_held_back(small, emulator, context):
    """The manifest shows which parts wait; the task does not."""
    manifest = submit(small, context, FOUR)
    assert statuses(manifest) == ["in_progress", "in_progress", "pending", "pending"]
    assert submit(small, context, FOUR)["batch_id"] == manifest["batch_id"]
    assert emulator.state.creates["openai"] == 2


def test_a_create_that_is_refused_fails_no_task(small, emulator, context):
    """A full queue that nobody configured is waited out by the sensor."""
    emulator.state.faults.http.append(HttpFault(route="openai.batches.create", status=429, retry_after=1000))
    manifest = submit(small, context, ["one"])
    assert (manifest["status"], statuses(manifest)) == ("pending", ["pending"])
    with pytest.raises(TaskDeferred):
        WaitForBatchSensor(task_id="w", batch=manifest).execute(context)
    assert emulator.state.requests["openai.batches.create"] == 1


@pytest.mark.parametrize("composed", [True, False])
async def test_the_wait_is_deferred_and_comes_back_for_each_room(small, emulator, context, composed):
    """The trigger tells when parts can go; the worker sends them and defers again, until every row has its answer."""
    if composed:
        manifest = await asyncio.to_thread(submit, small, context, FOUR)
        task = WaitForBatchSensor(task_id="w", batch=manifest)
    else:
        task = BatchInferenceOperator(task_id="t", **small, requests=FOUR)
    with pytest.raises(TaskDeferred) as deferred:
        await asyncio.to_thread(task.execute, context)
    end_all(emulator)
    events = []
    for _ in range(5):
        event = await event_of(trigger_of(deferred))
        events.append(event["status"])
        try:
            with pytest.raises(TaskDeferred) as deferred:
                await asyncio.to_thread(task.execute_complete, context, event)
        except pytest.fail.Exception:
            break
    assert events == ["pending", "ended"]
    assert emulator.state.creates["openai"] == 4
    batch_id = event["batch_id"]
    done = await asyncio.to_thread(BatchHook("small").apply_batch_results, batch_id)
    assert [row["status"] for row in read_rows(done)] == ["completed"] * 4


async def test_a_batch_of_another_dag_is_woken_in_its_turn(small, emulator, context):
    """Nothing of it was ever sent: its trigger still waits, and comes back when the first one's parts have ended."""
    first = await asyncio.to_thread(submit, small, context, ["one", "two"], 1)
    second = await asyncio.to_thread(submit, small, context, ["three"], 2)
    assert statuses(second) == ["pending"]
    sensors = {each["batch_id"]: WaitForBatchSensor(task_id="w", batch=each) for each in (first, second)}
    waits = {}
    for batch_id, sensor in sensors.items():
        with pytest.raises(TaskDeferred) as deferred:
            await asyncio.to_thread(sensor.execute, context)
        waits[batch_id] = asyncio.create_task(event_of(trigger_of(deferred)))
    done, _ = await asyncio.wait(waits.values(), timeout=0.5)
    assert not done
    end_all(emulator)
    assert (await waits[first["batch_id"]])["status"] == "ended"
    event = await waits[second["batch_id"]]
    assert (event["batch_id"], event["status"]) == (second["batch_id"], "pending")
    with contextlib.suppress(TaskDeferred):
        await asyncio.to_thread(sensors[second["batch_id"]].execute_complete, context, event)
    assert emulator.state.creates["openai"] == 3


def test_waiting_in_the_worker_sends_what_was_held_back(small, emulator, context):
    """deferrable=False does the same without a trigger."""
    end_all(emulator)
    operator = BatchInferenceOperator(task_id="t", **small, requests=FOUR, deferrable=False, poll_interval=0.01)
    assert operator.execute(context)["counts"]["completed"] == 4


def test_who_waits_in_line_has_a_week(small, emulator, context, monkeypatch):
    """The providers' window does not run for what was not sent; who waits in vain for long is told in the end."""
    running = submit(small, context, ["one", "two"], 1)
    waiting = submit(small, context, ["three"], 2)
    sensor, ahead = WaitForBatchSensor(task_id="w", batch=waiting), (UNTOLD_WINDOW + 2 * MARGIN).total_seconds()
    monkeypatch.setattr("airflow_raif.operators._waiting.time", lambda: time.time() + ahead)
    event = {"batch_id": waiting["batch_id"], "status": "timeout"}
    with pytest.raises(TaskDeferred):
        sensor.execute_complete(context, event)
    assert emulator.state.requests["openai.batches.cancel"] == 0
    assert WaitForBatchSensor(task_id="w", batch=running).execute(context)["status"] == "canceled"
    emulator.state.faults.http.append(HttpFault(route="openai.batches.create", status=429))
    with pytest.raises(TaskDeferred):
        sensor.execute_complete(context, event)
    ahead = (HELD_BACK_WINDOW + MARGIN).total_seconds()
    assert sensor.execute_complete(context, event)["status"] == "canceled"


def test_a_deadline_passes_while_parts_are_held_back(small, emulator, context):
    """The user's own time is up: what ran is stopped, what waited is not sent, what finished is applied."""
    emulator.state.faults.done_at_cancel = 1.0
    manifest = submit(small, context, FOUR)
    operator = BatchInferenceOperator(task_id="t", **small, requests=FOUR, timeout=timedelta(seconds=0.001))
    with pytest.raises(AirflowFailException, match="CanceledBatchError: .*2 of 4 entries completed, 2 canceled"):
        operator.execute_complete(context, {"batch_id": manifest["batch_id"], "status": "timeout"})
    assert emulator.state.creates["openai"] == 2
    assert len(read_rows(context["pushed"]["raif_manifest"]["result_uri"])) == 4


def test_a_deadline_passes_before_anything_was_sent(small, emulator, context):
    """A batch that never had its turn ends as canceled, with every row accounted for."""
    submit(small, context, ["one", "two"], 1)
    waiting = submit(small, context, ["three"], 2)
    done = WaitForBatchSensor(task_id="w", batch=waiting, timeout=0).execute(context)
    assert (done["status"], done["counts"]["reasons"]) == ("canceled", {"canceled": 1})
    assert emulator.state.requests["openai.batches.cancel"] == 0


def test_a_kill_takes_a_held_back_batch_out_of_the_line(small, emulator, context):
    """What the user ended is not sent later by anybody."""
    submit(small, context, ["one", "two"], 1)
    context["ti"].map_index = 2
    operator = SubmitBatchOperator(task_id="submit", **small, requests=["three"])
    manifest = operator.execute(context)
    operator.on_kill()
    assert CancelBatchOperator(task_id="c", batch=manifest).execute(context) == "canceled"
    end_all(emulator)
    assert BatchHook("small").advance_batch(manifest["batch_id"]).status.value == "canceled"
    assert emulator.state.creates["openai"] == 2
