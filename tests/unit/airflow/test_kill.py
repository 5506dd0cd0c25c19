"""A task that is ended cancels its batch if a user meant that, at any moment, and sends nothing more."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferred
from sqlalchemy import event

from airflow_raif.domain.errors import EndingError
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.operators import _ending
from airflow_raif.operators.batch import BatchInferenceOperator, SubmitBatchOperator
from airflow_raif.sensors.batch import WaitForBatchSensor
from airflow_raif.store import BatchFilter
from tests.support import MODELS, PROVIDERS, base_url

FIVE = [f"prompt {n}" for n in range(5)]
SLOW = {"progress": Progress.parse("polls:1000")}


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch):
    """What the handler waits for is awaited by the tests, see :func:`ended`."""
    monkeypatch.setattr(_ending, "PATIENCE_SECONDS", 0.01)


@pytest.fixture
def provider():
    return "openai"


@pytest.fixture
def emulator(emulator_of, connection, raif_home, provider):
    """Parts hold one request, and nothing ends."""
    emulator = emulator_of(**SLOW)
    connection(
        f"{provider}_default",
        conn_type=f"raif_{provider}",
        password="good-key",
        host=base_url(provider, emulator.url),
        extra={"max_requests": 1},
    )
    return emulator


def ended():
    """Wait until what the handlers began is done."""
    for thread in threading.enumerate():
        if thread.name == "raif-on-kill":
            thread.join(60)


def kill(operator):
    """End the task as Airflow does: a signal, whose handler calls ``on_kill`` wherever the task is."""
    before = signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def operator_of(provider="openai", kind=SubmitBatchOperator, **arguments):
    arguments = {"requests": FIVE, "max_tokens": 50, **arguments}
    return kind(task_id="task", conn_id=f"{provider}_default", model=MODELS[provider], **arguments)


def statuses(emulator, provider="openai"):
    return [batch.status for batch in emulator.state.batches[provider].values()]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_kill_in_the_middle_of_a_submission(provider, emulator, raif_store, context, answer_states, at_create, moment):
    """Killed while part 3 of 5 is sent: parts 1 to 3 are canceled at the provider, 4 and 5 are never sent."""
    answer_states({"task": "failed"})
    operator = operator_of(provider)

    def act():
        kill(operator)
        ended()

    at_create(3, act, moment)
    with suppress(EndingError):
        operator.execute(context)
    (batch,) = raif_store.newest_batches(BatchFilter(), 9)
    assert emulator.state.creates[provider] == 3
    assert emulator.state.requests[f"{provider}.batches.cancel"] == 3
    assert set(statuses(emulator, provider)) <= {"canceling", "canceled"}
    assert [part.provider_batch_id for part in batch.parts][:3] == list(emulator.state.batches[provider])
    assert batch.was_canceled


@pytest.mark.parametrize("state", ["restarting", "running", None])
def test_a_clear_and_a_worker_that_goes_down_cancel_nothing(
    emulator, raif_store, context, answer_states, at_create, state
):
    """The next attempt goes on with the batch where this one stopped; each part is sent once."""
    answer_states({"task": state})
    operator = operator_of()
    at_create(3, lambda: kill(operator), "after")
    with pytest.raises(EndingError):
        operator.execute(context)
    ended()
    assert statuses(emulator) == ["validating"] * 3
    manifest = operator_of().execute(context)
    assert [part["provider_batch_id"] for part in manifest["parts"]] == list(emulator.state.batches["openai"])
    assert emulator.state.creates["openai"] == 5
    assert emulator.state.requests["openai.batches.cancel"] == 0


@pytest.mark.parametrize("state", ["success", "failed"])
def test_a_worker_that_was_given_up_cancels_nothing(emulator, raif_store, context, answer_states, at_create, state):
    """A worker that was silent for so long that a retry took its place: what became of that is not its to end."""
    answer_states({"task": state}, given_up=True)
    operator = operator_of()
    at_create(3, lambda: kill(operator), "after")
    with pytest.raises(EndingError):
        operator.execute(context)
    ended()
    assert emulator.state.creates["openai"] == 3
    assert emulator.state.requests["openai.batches.cancel"] == 0


def test_kill_without_leave_to_cancel(emulator, raif_store, context, answer_states, at_create):
    """cancel_on_kill=False keeps what runs; a task that is ended sends no more all the same."""
    answer_states({"task": "failed"})
    operator = operator_of(cancel_on_kill=False)
    at_create(3, lambda: kill(operator), "after")
    with pytest.raises(EndingError):
        operator.execute(context)
    assert emulator.state.creates["openai"] == 3
    assert emulator.state.requests["openai.batches.cancel"] == 0


def test_kill_in_the_middle_of_a_transaction(emulator, raif_store, context, answer_states):
    """The signal comes while the task holds the store's lock: the handler gives it time to let go, and cancels then."""
    answer_states({"task": "failed"})
    operator = operator_of()
    seen = []

    @event.listens_for(raif_store._engine, "after_cursor_execute")
    def kill_once(connection, cursor, statement, parameters, *_):
        if "provider_batch_id=?" in statement.split("WHERE")[0] and not seen:
            seen.append(statement)
            kill(operator)

    with suppress(EndingError):
        operator.execute(context)
    ended()
    assert seen
    assert emulator.state.creates["openai"] == 1
    assert emulator.state.requests["openai.batches.cancel"] == 1


def test_clear_after_a_kill_starts_anew_in_the_same_attempt(emulator, raif_store, context, answer_states, at_create):
    """Also where the killed attempt left a create on its way."""
    answer_states({"task": "failed"})
    operator = operator_of()

    def die():
        kill(operator)
        ended()
        raise KeyboardInterrupt

    at_create(2, die, "after")
    with pytest.raises(KeyboardInterrupt):
        operator.execute(context)
    (old,) = raif_store.newest_batches(BatchFilter(), 9)
    manifest = operator_of().execute(context)
    assert manifest["batch_id"] != old.batch_id
    assert emulator.state.creates["openai"] == 2 + 5
    assert statuses(emulator)[:2] == ["canceled"] * 2


def test_clear_while_the_old_batch_is_being_canceled(emulator, raif_store, context, answer_states):
    """The task waits for it, deferred, and then makes its own; a worker that waits itself does so too."""
    answer_states({"task": "failed"})
    emulator.state.faults.cancel_looks = 6
    for map_index, deferrable in enumerate([True, False]):
        context["ti"].map_index = map_index
        answer_states({f"task_{map_index}": "failed"})
        operator = operator_of(requests=["one"])
        old = operator.execute(context)
        operator.on_kill()
        ended()
        again = operator_of(requests=["one"], deferrable=deferrable)
        creates = emulator.state.creates["openai"]
        if deferrable:
            for _ in range(2):
                with pytest.raises(TaskDeferred) as deferred:
                    again.execute(context)
                assert deferred.value.method_name == "execute_anew"
                assert deferred.value.trigger.batch_id == old["batch_id"]
            assert emulator.state.creates["openai"] == creates
            emulator.state.faults.cancel_looks = 0
            manifest = again.execute_anew(context, {"batch_id": old["batch_id"], "status": "canceled"})
            emulator.state.faults.cancel_looks = 4
        else:
            manifest = again.execute(context)
        assert manifest["batch_id"] != old["batch_id"]
        assert emulator.state.creates["openai"] == creates + 1


@pytest.mark.parametrize("composed", [True, False])
def test_kill_during_a_round(emulator_of, providers, raif_store, context, answer_states, at_create, composed):
    """The round's part is canceled, whoever waits; what the first submission brought stays."""
    answer_states({"task": "failed"})
    emulator = emulator_of(progress=Progress.parse("polls:2"))
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    providers(emulator)
    task = operator_of(kind=BatchInferenceOperator)
    if composed:
        task = WaitForBatchSensor(task_id="task", batch=operator_of().execute(context))

    def act():
        kill(task)
        ended()

    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    at_create(1, act, "after")
    manifest = task.execute_complete(context, {"batch_id": deferred.value.trigger.batch_id, "status": "ended"})
    assert manifest["counts"]["reasons"] == {"canceled": 1}
    (batch,) = raif_store.newest_batches(BatchFilter(), 9)
    assert [part.round for part in batch.parts] == [0, 1]
    assert statuses(emulator) == ["ended", "canceled"]
    assert raif_store.count_entries(batch).completed == 4


def test_kill_before_a_round_is_sent(emulator_of, providers, raif_store, context, answer_states, no_backoff):
    """The task was about to open a round; nothing of it is sent any more."""
    answer_states({"task": "failed"})
    emulator = emulator_of()
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    providers(emulator)
    task = BatchInferenceOperator(
        task_id="task", conn_id="openai_default", model=MODELS["openai"], requests=FIVE, max_tokens=50
    )

    @event.listens_for(raif_store._engine, "before_cursor_execute")
    def kill_once(connection, cursor, statement, *_):
        if "results_fetched_at" in statement and statement.startswith("UPDATE raif_batch") and not task._is_ending:
            kill(task)

    # Either the task sees that it is to end, or that its round was canceled.
    with suppress(EndingError):
        task.execute(context)
    ended()
    assert task._is_ending
    assert emulator.state.creates["openai"] == 1


def test_an_execution_timeout_cancels(emulator, raif_store, context, at_create):
    """The user's own limit on the attempt; Airflow raises it anywhere and then says so."""
    operator = operator_of()

    def late():
        raise AirflowTaskTimeout

    at_create(2, late, "after")
    with pytest.raises(AirflowTaskTimeout):
        try:
            operator.execute(context)
        except AirflowTaskTimeout:
            operator.on_kill()
            raise
    ended()
    assert statuses(emulator) == ["canceled"] * 2


def test_kill_of_a_waiting_task(emulator, raif_store, context, answer_states):
    """A task that waits, or that comes back from waiting, cancels its batch; so does the sensor."""
    for map_index, come_back in enumerate([False, True]):
        context["ti"].map_index = map_index
        answer_states({f"task_{map_index}": "success"})
        task = operator_of(kind=BatchInferenceOperator)
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(context)
        if come_back:
            task = operator_of(kind=BatchInferenceOperator)
            with pytest.raises(TaskDeferred):
                task.execute_complete(context, {"batch_id": deferred.value.trigger.batch_id, "status": "ended"})
        task.on_kill()
        ended()
        assert emulator.state.requests["openai.batches.cancel"] == 5 * (map_index + 1)
    context["ti"].map_index = -1
    answer_states({"task": "failed"})
    sensor = WaitForBatchSensor(task_id="task", batch=operator_of().execute(context))
    with pytest.raises(TaskDeferred):
        sensor.execute(context)
    sensor.on_kill()
    ended()
    assert emulator.state.requests["openai.batches.cancel"] == 15


def test_kill_when_there_is_nothing_to_cancel(emulator, raif_store, context, answer_states, caplog):
    """Before the task began, before it had a batch, and after its batch has ended: nothing is raised."""
    answer_states({"task": "failed"})
    operator = operator_of()
    operator.on_kill()
    operator._begin(context)
    operator.on_kill()
    ended()
    assert "The task has no batch to cancel" in caplog.text
    sensor = WaitForBatchSensor(task_id="task", batch=None)
    sensor._begin(context)
    sensor.on_kill()
    ended()
    assert emulator.state.requests == {}


def test_kill_of_a_batch_that_ended(emulator_of, providers, raif_store, context, answer_states, caplog):
    """It is left as it is."""
    emulator = emulator_of()
    providers(emulator)
    answer_states({"task": "failed"})
    task = operator_of(kind=BatchInferenceOperator)
    task.execute(context)
    task.on_kill()
    ended()
    assert "Nothing to cancel: batch" in caplog.text
    assert emulator.state.requests["openai.batches.cancel"] == 0


def test_kill_while_the_provider_is_away_raises_nothing(emulator, context, answer_states, caplog, no_backoff):
    """A dying task says that its batch may go on."""
    answer_states({"task": "failed"})
    operator = operator_of()
    operator.execute(context)
    emulator.state.faults.http.append(HttpFault(route="openai.*", status=500, times=-1))
    operator.on_kill()
    ended()
    assert "may go on at the provider" in caplog.text


def test_kill_when_nobody_tells_the_state_of_the_task(emulator, context, caplog, monkeypatch):
    """Without an answer nothing is canceled: a worker that lost its server is no user."""
    from airflow.sdk.execution_time import task_runner

    monkeypatch.delattr(task_runner, "SUPERVISOR_COMMS", raising=False)
    operator = operator_of()
    operator.execute(context)
    operator.on_kill()
    ended()
    assert "could not be canceled; it may go on at the provider" in caplog.text
    assert emulator.state.requests["openai.batches.cancel"] == 0
