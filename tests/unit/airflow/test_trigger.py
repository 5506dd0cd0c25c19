"""The trigger: one event, no secret, no cancel unless a user ended the task."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from airflow.sdk import BaseHook

from airflow_raif.emulator.faults import HttpFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks import runtime
from airflow_raif.hooks.batch import BatchHook
from airflow_raif.triggers import batch as trigger_module
from airflow_raif.triggers import pace
from airflow_raif.triggers.batch import BatchTrigger
from tests.support import MODELS, PROVIDERS


def submitted(provider: str, prompts: int = 1) -> str:
    hook = BatchHook(f"{provider}_default", f"{provider}:{MODELS[provider]}")
    batch_id = hook.create_batch([f"prompt {n}" for n in range(prompts)], max_tokens=50).batch_id
    hook.submit_batch(batch_id)
    return batch_id


def trigger_of(provider: str, batch_id: str, **values) -> BatchTrigger:
    values.setdefault("poll_intervals", [0.02])
    return BatchTrigger(
        conn_id=f"{provider}_default", batch_id=batch_id, model=f"{provider}:{MODELS[provider]}", **values
    )


async def events_of(trigger: BatchTrigger) -> list[dict]:
    return [event.payload async for event in trigger.run()]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_yields_once_when_the_batch_ends(provider, emulator_of, providers):
    """The event names the batch and its status, for each provider."""
    providers(emulator_of(progress=Progress.parse("polls:3")))
    batch_id = await asyncio.to_thread(submitted, provider)
    assert await events_of(trigger_of(provider, batch_id)) == [
        {"batch_id": batch_id, "status": "ended", "message": f"batch {batch_id} is ended"}
    ]


async def test_many_triggers_share_the_calls(emulator_of, providers):
    """Twenty waiting batches cost list pages, not a call each."""
    emulator = emulator_of(progress=Progress.parse("polls:4"))
    providers(emulator)
    ids = [await asyncio.to_thread(submitted, "openai") for _ in range(20)]
    found = await asyncio.gather(*(events_of(trigger_of("openai", batch_id)) for batch_id in ids))
    assert [event["status"] for (event,) in found] == ["ended"] * 20
    assert emulator.state.requests["openai.batches.get"] + emulator.state.requests["openai.batches.list"] < 40


async def test_many_triggers_share_the_lookup(emulator, providers, monkeypatch):
    """Triggers that start together ask Airflow once for the connection, and once for the store's."""
    providers(emulator)
    ids = [await asyncio.to_thread(submitted, "openai") for _ in range(5)]
    asked = []
    lookup = BaseHook.aget_connection

    async def count(conn_id):
        asked.append(conn_id)
        await asyncio.sleep(0.02)
        return await lookup(conn_id)

    monkeypatch.setattr(BaseHook, "aget_connection", count)
    found = await asyncio.gather(*(events_of(trigger_of("openai", batch_id)) for batch_id in ids))
    assert [event["status"] for (event,) in found] == ["ended"] * 5
    assert asked.count("openai_default") == 1


async def test_databases_that_are_away_are_waited_out(emulator, providers, airflow_database, monkeypatch):
    """A trigger that starts while Airflow's database is away waits until it can look its connections up."""
    providers(emulator)
    batch_id = await asyncio.to_thread(submitted, "openai")
    monkeypatch.setattr(runtime, "OPEN_PAUSE_SECONDS", 0.01)
    airflow_database.away = 3
    (event,) = await events_of(trigger_of("openai", batch_id))
    assert event["status"] == "ended"
    assert airflow_database.away == 0


async def test_the_deadline_holds_while_databases_are_away(emulator, providers, airflow_database):
    """A trigger that cannot even look its connections up still ends in time."""
    providers(emulator)
    batch_id = await asyncio.to_thread(submitted, "openai")
    airflow_database.away = 10**6
    (event,) = await events_of(trigger_of("openai", batch_id, end_time=time.time() + 0.2))
    assert event["status"] == "timeout"


async def test_an_outage_is_waited_out(emulator_of, providers):
    """Server errors and dropped connections end no wait and cancel nothing."""
    emulator = emulator_of()
    providers(emulator)
    batch_id = await asyncio.to_thread(submitted, "anthropic")
    emulator.state.faults.http += [
        HttpFault(route="anthropic.batches.*", status=529, times=2, retry_after=0.01),
        HttpFault(route="anthropic.batches.*", drop="before", times=2),
    ]
    (event,) = await events_of(trigger_of("anthropic", batch_id))
    assert event["status"] == "ended"
    assert emulator.state.requests["anthropic.batches.cancel"] == 0


async def test_events_leave_one_after_another(monkeypatch):
    """The first of many at once may leave at once, each of the others a little after the one before."""
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(pace, "sleep", sleep)
    monkeypatch.setattr(pace, "EVENT_PAUSE_SECONDS", 1000.0)
    for _ in range(4):
        await pace.take_turn()
    assert [round(each, -3) for each in pauses] == [1000, 2000, 3000]


async def test_loops_do_not_wait_for_each_other(monkeypatch):
    """Each triggerer has its own turn."""
    monkeypatch.setattr(pace, "EVENT_PAUSE_SECONDS", 1000.0)
    await pace.take_turn()
    await asyncio.to_thread(asyncio.run, pace.take_turn())


async def test_own_deadline(emulator_of, providers):
    """The trigger ends by itself at its deadline, which no clock of Airflow's does across a deferral."""
    providers(emulator_of(progress=Progress.parse("polls:9999")))
    batch_id = await asyncio.to_thread(submitted, "openai")
    (event,) = await events_of(trigger_of("openai", batch_id, end_time=time.time() + 0.2))
    assert event["status"] == "timeout"


async def test_deadline_in_the_past(emulator_of, providers):
    """A restart after the deadline ends at once."""
    providers(emulator_of(progress=Progress.parse("polls:9999")))
    batch_id = await asyncio.to_thread(submitted, "openai")
    (event,) = await events_of(trigger_of("openai", batch_id, end_time=1.0))
    assert event["status"] == "timeout"


async def test_minimum_dwell(emulator, providers):
    """No event comes before the scheduler can have seen the deferral."""
    providers(emulator)
    batch_id = await asyncio.to_thread(submitted, "openai")
    started = time.monotonic()
    await events_of(trigger_of("openai", batch_id, min_dwell=0.3))
    assert time.monotonic() - started >= 0.3


async def test_a_wrong_connection_is_an_event(emulator, providers, raif_home):
    """An error that waiting cannot mend comes as an event, so that the task can say it."""
    providers(emulator)
    batch_id = await asyncio.to_thread(submitted, "openai")
    (event,) = await events_of(BatchTrigger(conn_id="nowhere", batch_id=batch_id, model="openai:gpt-5-nano"))
    assert event["status"] == "error"
    assert "there is no connection 'nowhere'" in event["message"]


async def test_a_revoked_key_is_an_event_and_cancels_nothing(emulator_of, providers):
    """A key that the provider refuses while waiting fails the wait with the reason."""
    emulator = emulator_of(progress=Progress.parse("polls:9999"))
    providers(emulator)
    batch_id = await asyncio.to_thread(submitted, "gemini")
    providers(emulator, key="bad-key-123456")
    (event,) = await events_of(trigger_of("gemini", batch_id))
    assert event["status"] == "error"
    assert "bad-key-123456" not in event["message"]
    assert emulator.state.requests["gemini.batches.cancel"] == 0


def test_serialised_form_makes_the_same_trigger():
    """The triggerer can make it anew from what is stored, and nothing of it is secret."""
    trigger = trigger_of("openai", "b", end_time=5.0, min_dwell=1, cancel_on_kill=False)
    path, kwargs = trigger.serialize()
    assert path == "airflow_raif.triggers.batch.BatchTrigger"
    assert BatchTrigger(**kwargs).serialize() == (path, kwargs)
    assert set(kwargs) == {
        "conn_id", "batch_id", "model", "end_time", "poll_intervals", "min_dwell", "cancel_on_kill", "cancel_on_success"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "map_index", "cancels"),
    [
        ("failed", -1, 1),
        ("success", -1, 1),
        ("skipped", -1, 1),
        ("failed", 3, 1),
        ("deferred", -1, 0),
        (None, -1, 0),
        ("running", -1, 0),
        ("restarting", 3, 0),
    ],
)
async def test_kill_cancels_only_for_a_task_that_ended(
    emulator_of, providers, answer_states, state, map_index, cancels
):
    """Mark-failed cancels the batch; a lost lease or a clear leaves it running."""
    emulator = emulator_of(progress=Progress.parse("polls:9999"))
    providers(emulator)
    trigger = trigger_of("openai", await asyncio.to_thread(submitted, "openai"))
    trigger.task_instance = SimpleNamespace(dag_id="dag", run_id="run", task_id="wait", map_index=map_index)
    answer_states({"wait" if map_index < 0 else f"wait_{map_index}": state})
    await trigger.on_kill()
    assert emulator.state.requests["openai.batches.cancel"] == cancels


async def test_kill_survives_being_canceled_itself(emulator_of, providers, answer_states):
    """The supervisor cancels on_kill every second; the cancellation at the provider happens all the same."""
    emulator = emulator_of(progress=Progress.parse("polls:9999"))
    providers(emulator)
    trigger = trigger_of("openai", await asyncio.to_thread(submitted, "openai"))
    trigger.task_instance = SimpleNamespace(dag_id="dag", run_id="run", task_id="wait", map_index=-1)
    answer_states({"wait": "failed"})
    kill = asyncio.create_task(trigger.on_kill())
    await asyncio.sleep(0)
    kill.cancel()
    with pytest.raises(asyncio.CancelledError):
        await kill
    await asyncio.gather(*trigger_module._BACKGROUND)
    assert emulator.state.requests["openai.batches.cancel"] == 1


async def test_kill_of_a_batch_that_ended(emulator, providers, answer_states):
    """Nothing is left to cancel, and nothing is raised."""
    providers(emulator)
    trigger = trigger_of("openai", await asyncio.to_thread(submitted, "openai"))
    await events_of(trigger)
    trigger.task_instance = SimpleNamespace(dag_id="dag", run_id="run", task_id="wait", map_index=-1)
    answer_states({"wait": "failed"})
    await trigger.on_kill()
    assert emulator.state.requests["openai.batches.cancel"] == 0


async def test_kill_while_the_provider_is_away(emulator_of, providers, answer_states, caplog, no_backoff):
    """A cancellation that cannot be made is logged."""
    emulator = emulator_of(progress=Progress.parse("polls:9999"))
    providers(emulator)
    trigger = trigger_of("openai", await asyncio.to_thread(submitted, "openai"))
    trigger.task_instance = SimpleNamespace(dag_id="dag", run_id="run", task_id="wait", map_index=-1)
    answer_states({"wait": "failed"})
    emulator.state.faults.http.append(HttpFault(route="openai.*", status=500, times=-1))
    await trigger.on_kill()
    assert "may go on at the provider" in caplog.text


@pytest.mark.parametrize(("state", "cancels"), [("success", 0), ("failed", 1)])
async def test_kill_of_a_task_that_leaves_its_batch_running(emulator_of, providers, answer_states, state, cancels):
    """A triggerer that wakes after the submission went on elsewhere, and succeeded, keeps the batch."""
    emulator = emulator_of(progress=Progress.parse("polls:9999"))
    providers(emulator)
    trigger = trigger_of("openai", await asyncio.to_thread(submitted, "openai"), cancel_on_success=False)
    trigger.task_instance = SimpleNamespace(dag_id="dag", run_id="run", task_id="submit", map_index=-1)
    answer_states({"submit": state})
    await trigger.on_kill()
    assert emulator.state.requests["openai.batches.cancel"] == cancels


async def test_kill_without_leave_to_cancel(emulator_of, providers, answer_states):
    """cancel_on_kill=False keeps the batch."""
    emulator = emulator_of(progress=Progress.parse("polls:9999"))
    providers(emulator)
    trigger = trigger_of("openai", await asyncio.to_thread(submitted, "openai"), cancel_on_kill=False)
    trigger.task_instance = SimpleNamespace(dag_id="dag", run_id="run", task_id="wait", map_index=-1)
    answer_states({"wait": "failed"})
    await trigger.on_kill()
    assert emulator.state.requests["openai.batches.cancel"] == 0
