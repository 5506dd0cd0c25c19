"""A retry, a clear, a backfill and a second attempt at the same time: what was paid is found again, not paid anew."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_raif.domain.errors import FailedBatchError, PartialBatchError, RaifError
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.operators.batch import (
    ApplyBatchResultsOperator,
    BatchInferenceOperator,
    CancelBatchOperator,
    SubmitBatchOperator,
)
from airflow_raif.sensors.batch import WaitForBatchSensor
from airflow_raif.store import BatchFilter
from tests.support import ANSWER, MODELS, PROVIDERS, base_url, read_rows

SLOW = {"progress": Progress.parse("polls:1000")}
ROWS = [{"custom_id": f"row {n}", "prompt": f"prompt {n}", "shelf": n} for n in range(3)]
MODEL_OF_SAME_PROVIDER = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-pro"}


def inference(provider="openai", **arguments):
    arguments = {"requests": ROWS, "max_tokens": 60, "model": MODELS[provider], **arguments}
    return BatchInferenceOperator(task_id="task", conn_id=f"{provider}_default", **arguments)


def submit(context, provider="openai", **arguments):
    arguments = {"requests": ROWS, "max_tokens": 60, "model": MODELS[provider], **arguments}
    return SubmitBatchOperator(task_id="task", conn_id=f"{provider}_default", **arguments).execute(context)


def calls(emulator):
    return sum(emulator.state.requests.values())


def batches(raif_store):
    return raif_store.newest_batches(BatchFilter(), 99)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_worker_that_is_lost_while_it_waits(provider, emulator_of, providers, context):
    """Each attempt is a new process; the one batch is waited for until it ends, then applied."""
    emulator = emulator_of(progress=Progress.parse("polls:4"))
    providers(emulator)
    waited_for = set()
    for _ in range(3):
        with pytest.raises(TaskDeferred) as deferred:
            inference(provider).execute(context)
        waited_for.add(deferred.value.trigger.batch_id)
    manifest = inference(provider).execute(context)
    assert waited_for == {manifest["batch_id"]}
    assert manifest["counts"]["completed"] == 3
    assert emulator.state.creates[provider] == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_clear_after_success_asks_the_provider_for_nothing(provider, emulator, providers, context):
    """The results are there: the same manifest comes back, and nothing is created, uploaded, fetched or paid."""
    providers(emulator)
    first = inference(provider).execute(context)
    before = calls(emulator)
    assert inference(provider).execute(context) == first
    assert calls(emulator) == before
    assert first["cost"]["batch"] is not None


def test_clear_after_success_of_the_composed_tasks(emulator, providers, context):
    """Submit, wait and apply each find their work done."""
    providers(emulator)

    def run():
        submitted = submit(context)
        waited = WaitForBatchSensor(task_id="w", batch=submitted).execute(context)
        return submitted["batch_id"], ApplyBatchResultsOperator(task_id="a", batch=waited).execute(context)

    first, before = run(), calls(emulator)
    assert run() == first
    assert calls(emulator) == before


def test_clear_after_success_with_another_place_for_the_results(emulator, providers, context, tmp_path):
    """The same answers are written there, and not paid again."""
    providers(emulator)
    first = inference().execute(context)
    before = calls(emulator)
    second = inference(output_path=str(tmp_path / "elsewhere")).execute(context)
    assert second["batch_id"] == first["batch_id"]
    assert read_rows(second["result_uri"]) == read_rows(first["result_uri"])
    assert calls(emulator) == before


def test_retry_after_too_many_failed_rows(emulator, providers, context):
    """It judges the same rows again, and pays nothing; a larger allowance lets it pass."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[1]))
    providers(emulator)
    for _ in range(2):
        with pytest.raises(PartialBatchError):
            inference(max_failed_fraction=0.1).execute(context)
    assert inference(max_failed_fraction=0.5).execute(context)["counts"]["completed"] == 2
    assert emulator.state.creates["openai"] == 1


@pytest.mark.parametrize("provider", ["openai", "gemini"])
def test_clear_after_a_batch_failed_as_a_whole(provider, emulator, providers, context, raif_store):
    """Nothing of it was billed, so a new one takes its place, in the same attempt."""
    emulator.state.faults.failed_batches = 1
    providers(emulator)
    with pytest.raises(FailedBatchError):
        inference(provider, max_rounds=0).execute(context)
    manifest = inference(provider, max_rounds=0).execute(context)
    assert manifest["counts"]["completed"] == 3
    assert emulator.state.creates[provider] == 2
    (_, failed) = batches(raif_store)
    assert raif_store.count_entries(failed).reasons == {"errored": 3}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_clear_after_a_cancel_starts_anew(provider, emulator_of, providers, context, raif_store):
    """In the same attempt; what the canceled batch had finished is kept and accounted for."""
    emulator = emulator_of(**SLOW)
    emulator.state.faults.done_at_cancel = 0.5
    providers(emulator)
    first = submit(context, provider)
    CancelBatchOperator(task_id="c", batch=first).execute(context)
    second = submit(context, provider)
    assert second["batch_id"] != first["batch_id"]
    assert emulator.state.creates[provider] == 2
    old = raif_store.get_batch(first["batch_id"])
    assert raif_store.count_entries(old).pending == 0
    assert bool(old.usage.output_tokens) is (provider != "gemini")  # which gives no results of a canceled batch


def test_a_canceled_batch_is_not_paid_anew_by_a_retry(emulator_of, providers, context):
    """Somebody canceled it while the task waited: the task fails for good, with what was finished applied."""
    emulator = emulator_of(**SLOW)
    emulator.state.faults.done_at_cancel = 0.5
    providers(emulator)
    task = inference()
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    batch_id = deferred.value.trigger.batch_id
    CancelBatchOperator(task_id="c", batch=batch_id).execute(context)
    with pytest.raises(AirflowFailException, match="was canceled: 1 of 3 entries completed, 2 canceled"):
        task.execute_complete(context, {"batch_id": batch_id, "status": "canceled"})
    assert [row["status"] for row in read_rows(context["pushed"]["raif_manifest"]["result_uri"])] == [
        "completed",
        "failed",
        "failed",
    ]


CHANGES = {
    "a prompt": {"requests": [*ROWS[:2], {**ROWS[2], "prompt": "another"}]},
    "a custom_id": {"requests": [*ROWS[:2], {**ROWS[2], "custom_id": "another"}]},
    "one row more": {"requests": [*ROWS, {"custom_id": "row 3", "prompt": "prompt 3"}]},
    "one row less": {"requests": ROWS[:2]},
    "the order": {"requests": ROWS[::-1]},
    "a row's own system prompt": {"requests": [{**ROWS[0], "system": "Be brief"}, *ROWS[1:]]},
    "the system prompt": {"system_prompt": "Be brief"},
    "the schema": {"output_type": ANSWER},
    "the token limit": {"max_tokens": 61},
    "the temperature": {"temperature": 0.5},
    "parameters": {"request_params": {"user": "me"}},
}


@pytest.mark.parametrize("change", [*CHANGES, "the model"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_changed_input_is_refused(provider, emulator_of, providers, context, change):
    """Whatever would be asked differently is other work: nothing is sent, the running batch goes on."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    first = submit(context, provider)
    changed = CHANGES.get(change) or {"model": MODEL_OF_SAME_PROVIDER[provider]}
    with pytest.raises(AirflowFailException, match=f"the input changed since batch {first['batch_id']}") as told:
        submit(context, provider, **changed)
    assert "on_input_change='resubmit'" in str(told.value)
    assert emulator.state.creates[provider] == 1
    assert emulator.state.requests[f"{provider}.batches.cancel"] == 0
    assert submit(context, provider)["batch_id"] == first["batch_id"]


def test_another_endpoint_is_other_input(emulator_of, providers, context):
    """The same prompts, asked elsewhere."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    submit(context)
    with pytest.raises(AirflowFailException, match="the input changed"):
        submit(context, endpoint="/v1/chat/completions")
    assert emulator.state.creates["openai"] == 1


def test_a_schema_that_no_request_shows_is_input_all_the_same(emulator_of, providers, context):
    """Native requests carry their own format, and strict mode drops limits; answers are checked by the schema."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    body = {"requests": [{"body": {"model": MODELS["openai"], "input": "x"}}]}
    submit(context, **body, output_type=ANSWER)
    changed = {**ANSWER, "description": "another"}
    with pytest.raises(AirflowFailException, match="the input changed"):
        submit(context, **body, output_type=changed)
    assert emulator.state.creates["openai"] == 1


def test_what_is_no_input_does_not_count(emulator_of, providers, context, tmp_path):
    """Where results go, how long is waited, what is tolerated: the batch that runs is taken up."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    with pytest.raises(TaskDeferred) as deferred:
        inference().execute(context)
    batch_id = deferred.value.trigger.batch_id
    others = {
        "output_path": str(tmp_path / "mine"),
        "poll_interval": 7.0,
        "max_failed_fraction": 0.1,
        "timeout": 9999,
        "cancel_on_timeout": False,
        "cancel_on_kill": False,
        "max_rounds": 0,
        "repeat_invalid_output": True,
        "synchronous_stragglers": 3,
        "batch_metadata": {"team": "search"},
        "on_input_change": "resubmit",
        "requests": lambda: iter([{**row, "shelf": "another", "seen_at": 7} for row in ROWS]),
    }
    for name, value in others.items():
        with pytest.raises(TaskDeferred) as deferred:
            inference(**{name: value}).execute(context)
        assert deferred.value.trigger.batch_id == batch_id, name
    assert emulator.state.creates["openai"] == 1
    assert emulator.state.requests["openai.batches.cancel"] == 0


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_resubmit_stops_the_old_batch_and_keeps_its_answers(provider, emulator_of, providers, context, raif_store):
    """The new one is sent once the old one has stopped; what that had finished was paid, and is there to be applied."""
    emulator = emulator_of(**SLOW)
    emulator.state.faults.done_at_cancel = 0.7
    emulator.state.faults.cancel_looks = 4
    providers(emulator)
    first = submit(context, provider)
    changed = {"requests": ROWS[:2], "on_input_change": "resubmit"}
    with pytest.raises(TaskDeferred) as deferred:
        submit(context, provider, **changed)
    assert (deferred.value.trigger.batch_id, emulator.state.creates[provider]) == (first["batch_id"], 1)
    emulator.state.faults.cancel_looks = 0
    second = submit(context, provider, **changed)
    assert second["batch_id"] != first["batch_id"]
    assert emulator.state.creates[provider] == 2
    assert emulator.state.requests[f"{provider}.batches.cancel"] == 1
    old = raif_store.get_batch(first["batch_id"])
    assert (raif_store.count_entries(old).completed, old.cost.batch > 0) == (2, True)
    with pytest.raises(AirflowFailException, match="2 of 3 entries completed, 1 canceled"):
        ApplyBatchResultsOperator(task_id="a", batch=old.batch_id).execute(context)
    found = read_rows(context["pushed"]["raif_manifest"]["result_uri"])
    assert [row["output"] is not None for row in found] == [True, True, False]


def test_resubmit_of_what_has_ended_cancels_nothing(emulator, providers, context, raif_store):
    """The old answers stay where they are; the new input is paid, as was asked for."""
    providers(emulator)
    first = inference().execute(context)
    second = inference(requests=ROWS[:2], on_input_change="resubmit").execute(context)
    assert second["batch_id"] != first["batch_id"]
    assert emulator.state.requests["openai.batches.cancel"] == 0
    assert len(read_rows(first["result_uri"])) == 3
    assert len(read_rows(second["result_uri"])) == 2


def test_resubmit_of_what_was_never_sent(emulator, providers, context, raif_store, no_backoff):
    """The old batch is over without a call, and no attempt that slept can send it any more."""
    emulator.state.faults.http.append(HttpFault(route="openai.files.create", status=500, times=-1))
    providers(emulator)
    with pytest.raises(TaskDeferred):
        submit(context)
    emulator.state.faults.http.clear()
    manifest = submit(context, requests=ROWS[:2], on_input_change="resubmit")
    assert manifest["request_count"] == 2
    assert emulator.state.creates["openai"] == 1
    assert [batch.status.value for batch in batches(raif_store)][1] == "canceled"


def test_another_connection_is_other_input(emulator_of, providers, connection, context):
    """Only the batch's own connection can wait for it or cancel it; so a change of it is refused, or resubmitted."""
    emulator, elsewhere = emulator_of(**SLOW), emulator_of(**SLOW)
    providers(emulator)
    connection("elsewhere", conn_type="raif_openai", password="good-key", host=base_url("openai", elsewhere.url))
    first = submit(context)

    def moved(**arguments):
        return SubmitBatchOperator(
            task_id="task", conn_id="elsewhere", model=MODELS["openai"], requests=ROWS, max_tokens=60, **arguments
        ).execute(context)

    with pytest.raises(AirflowFailException, match=f"{first['batch_id']} .*connection openai_default"):
        moved()
    assert calls(elsewhere) == 0
    second = moved(on_input_change="resubmit")
    assert second["batch_id"] != first["batch_id"]
    assert (emulator.state.requests["openai.batches.cancel"], elsewhere.state.creates["openai"]) == (1, 1)
    assert moved()["batch_id"] == second["batch_id"]


def test_a_connection_that_changed_while_the_task_waited(emulator_of, providers, connection, context):
    """The task that comes back from its wait asks where the batch is."""
    emulator, elsewhere = emulator_of(progress=Progress.parse("polls:2")), emulator_of()
    providers(emulator)
    connection("elsewhere", conn_type="raif_openai", password="good-key", host=base_url("openai", elsewhere.url))
    with pytest.raises(TaskDeferred) as deferred:
        inference().execute(context)
    task = BatchInferenceOperator(task_id="task", conn_id="elsewhere", model=MODELS["openai"], requests=ROWS)
    event = {"batch_id": deferred.value.trigger.batch_id, "status": "ended"}
    assert task.execute_complete(context, event)["counts"]["completed"] == 3
    assert calls(elsewhere) == 0


def test_task_instances_of_all_kinds_hold_batches_of_their_own(emulator_of, providers, context):
    """Mapped ones, two runs of a backfill over the same interval, other tasks and Dags; each finds its own again."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    instances = [
        ("dag", "backfill__2026-01-01T00:00:00", "task", -1),
        ("dag", "backfill__2026-01-01T00:00:00__again", "task", -1),
        ("dag", "backfill__2026-01-01T00:00:00", "task", 0),
        ("dag", "backfill__2026-01-01T00:00:00", "task", 1),
        ("dag", "backfill__2026-01-01T00:00:00", "other", -1),
        ("other", "backfill__2026-01-01T00:00:00", "task", -1),
    ]

    def of(instance):
        names = ("dag_id", "run_id", "task_id", "map_index")
        ti = SimpleNamespace(**{**vars(context["ti"]), **dict(zip(names, instance, strict=True))})
        return submit({**context, "ti": ti})["batch_id"]

    first = [of(instance) for instance in instances]
    assert len(set(first)) == len(instances)
    assert [of(instance) for instance in instances] == first
    assert emulator.state.creates["openai"] == len(instances)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_second_attempt_in_the_middle_of_a_create(
    provider, emulator_of, providers, context, raif_store, at_create, moment
):
    """A zombie's create is on its way: its successor finds it, or waits until it can be known; it is sent once."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    second = []

    def successor():
        try:
            second.append(submit(context, provider)["batch_id"])
        except TaskDeferred as deferred:
            second.append(deferred.trigger.batch_id)

    at_create(1, successor, moment)
    manifest = submit(context, provider)
    assert second == [manifest["batch_id"]]
    assert emulator.state.creates[provider] == 1
    assert [part["provider_batch_id"] for part in manifest["parts"]] == list(emulator.state.batches[provider])
    assert submit(context, provider) == manifest


@pytest.mark.parametrize("size", [1, 100])
def test_a_second_attempt_while_the_first_reads_its_input(emulator_of, providers, connection, context, size):
    """The successor's batch is the one; the zombie that wakes sends nothing more and fails in a way that is retried."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    connection(
        "openai_default",
        conn_type="raif_openai",
        password="good-key",
        host=base_url("openai", emulator.url),
        extra={"max_requests": size},
    )
    second = []

    def zombie():
        yield from ROWS[:2]
        second.append(submit(context))
        yield ROWS[2]

    with pytest.raises(RaifError) as told:
        submit(context, requests=lambda: zombie())
    assert told.value.retryable
    assert emulator.state.creates["openai"] == (3 if size == 1 else 1)
    assert submit(context) == second[0]
    assert [part["provider_batch_id"] for part in second[0]["parts"]] == list(emulator.state.batches["openai"])
