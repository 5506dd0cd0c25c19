"""Operators and the sensor, executed on a real store against an emulator."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, TaskDeferred

from airflow_raif.domain.errors import (
    DeadlineExceededError,
    FailedBatchError,
    PartialBatchError,
    UnavailableError,
)
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.operators.batch import (
    ApplyBatchResultsOperator,
    BatchInferenceOperator,
    CancelBatchOperator,
    SubmitBatchOperator,
)
from airflow_raif.sensors.batch import WaitForBatchSensor
from tests.support import ANSWER, read_rows

OPENAI = {"conn_id": "openai_default", "model": "gpt-5-nano"}
SLOW = {"progress": Progress.parse("polls:1000")}


def submit(context, **arguments):
    return SubmitBatchOperator(task_id="submit", **{**OPENAI, "requests": ["one", "two"], **arguments}).execute(context)


def test_submit_returns_a_small_manifest(emulator_of, providers, context):
    """The manifest has ids, parts and counts, and no row."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    manifest = submit(context, requests=["quokka", "quokka"], batch_metadata={"team": "search"})
    assert manifest["provider"] == "openai"
    assert manifest["request_count"] == 2
    assert manifest["parts"][0]["provider_batch_id"] in emulator.state.batches["openai"]
    assert manifest["counts"]["pending"] == 2
    assert context["pushed"]["raif_batch_id"] == manifest["batch_id"]
    assert "quokka" not in str(manifest)


def test_retry_and_clear_find_the_running_batch(emulator_of, providers, context):
    """A second execution of the same task instance sends nothing."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    assert submit(context)["batch_id"] == submit(context)["batch_id"]
    assert emulator.state.creates["openai"] == 1


def test_another_map_index_is_another_batch(emulator_of, providers, context):
    """Each mapped task instance has a batch of its own."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    first = submit(context)["batch_id"]
    context["ti"].map_index = 1
    assert submit(context)["batch_id"] != first
    assert emulator.state.creates["openai"] == 2


def test_clear_after_a_cancel_starts_anew(emulator_of, providers, context):
    """A canceled batch gives its place to a new one in the same attempt."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    first = submit(context)
    assert CancelBatchOperator(task_id="cancel", batch=first).execute(context) == "canceled"
    assert submit(context)["batch_id"] != first["batch_id"]
    assert emulator.state.creates["openai"] == 2


def test_changed_input_is_not_sent_again(emulator_of, providers, context):
    """Other rows under the same task instance stop the task before they are paid."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    submit(context)
    with pytest.raises(AirflowFailException, match="the input changed since batch"):
        submit(context, requests=["one", "three"])
    assert emulator.state.creates["openai"] == 1


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "the batch is empty"),
        (lambda: iter(()), "the batch is empty"),
        ([{"custom_id": "a", "prompt": "x"}, {"custom_id": "a", "prompt": "y"}], "custom_id 'a'"),
        ([{"custom_id": "a", "prompt": "x"}, {"prompt": "y"}], "row 1 has no custom_id"),
        (["fine", 7], "row 1 is a int"),
        ([{"prompt": "x", "status": "mine"}], "column named 'status'"),
        ([{"prompt": "\ud800"}], "row 0.*UTF-8"),
        ("prompts.xml", "only the address of a .jsonl or .ndjson or .csv or .parquet file"),
        ({"prompt": "x"}, "requests is a dict"),
        (42, "requests is a int"),
        (lambda: "one prompt", "returned a str; return or yield rows"),
        (lambda: {"prompt": "x"}, "returned a dict; return or yield rows"),
        (lambda: None, "returned a NoneType; return or yield rows"),
        (type("DataFrame", (list,), {})(["prompt"]), "requests is a DataFrame"),
    ],
)
def test_wrong_input_fails_for_good_and_costs_nothing(emulator, providers, context, requests, message):
    """Input that no retry can mend fails the task without retries, and nothing is created."""
    providers(emulator)
    with pytest.raises(AirflowFailException, match=message):
        submit(context, requests=requests)
    assert emulator.state.creates["openai"] == 0


@pytest.mark.parametrize("estimate_only", [False, True])
def test_an_empty_input_may_skip_the_task(emulator, providers, context, estimate_only):
    """A night without new rows is none that failed."""
    providers(emulator)
    with pytest.raises(AirflowSkipException, match="the batch is empty"):
        submit(context, requests=lambda: iter(()), on_empty="skip", estimate_only=estimate_only)
    with pytest.raises(AirflowFailException, match="the batch is empty"):
        submit(context, requests=lambda: iter(()), estimate_only=estimate_only)
    assert emulator.state.creates["openai"] == 0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"max_failed_fraction": 5}, "give a fraction from 0 to 1"),
        ({"max_failed_fraction": float("nan")}, "give a fraction from 0 to 1"),
        ({"reuse": "soon"}, "'soon' is no age of answers"),
        ({"reuse": "99999999999d"}, "'99999999999d' is no age of answers"),
    ],
)
def test_a_wrong_argument_shows_as_the_dag_is_parsed(argument, message):
    """Not in the night, and not never."""
    with pytest.raises(ValueError, match=message):
        BatchInferenceOperator(task_id="t", requests=["a"], **OPENAI, **argument)


def test_requests_from_a_file(emulator, providers, context, tmp_path):
    """A JSONL file is read line by line; line separators inside strings end no line."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"custom_id": "a", "prompt": "one\u2028two"}\n{"custom_id": "b", "prompt": "x"}\n', encoding="utf-8"
    )
    providers(emulator)
    assert submit(context, requests=f"file://{path}")["request_count"] == 2


@pytest.mark.parametrize("content", [b'{"prompt": "\xff"}\n', b"{broken\n"])
def test_a_broken_file_names_the_row(emulator, providers, context, tmp_path, content):
    """A line that is no JSON in UTF-8 is named."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "fine"}\n' + content)
    providers(emulator)
    with pytest.raises(AirflowFailException, match="row 1 of .*rows.jsonl is not JSON in UTF-8"):
        submit(context, requests=str(path))


def test_requests_function_sees_the_context(emulator, providers, context):
    """A function's parameters are filled from the context by name."""
    providers(emulator)
    context["params"] = {"n": 3}

    def rows(params):
        yield from (f"prompt {n}" for n in range(params["n"]))

    def rows_of_everything(**everything):
        return [f"prompt {n}" for n in range(everything["params"]["n"])]

    assert submit(context, requests=rows)["request_count"] == 3
    context["ti"].map_index = 1
    assert submit(context, requests=rows_of_everything)["request_count"] == 3


@pytest.mark.parametrize("deferrable", [True, False])
def test_inference_of_a_batch_that_is_done_at_once_does_not_defer(emulator, providers, context, deferrable):
    """No deferral on a terminal batch: an early event could fail the task."""
    providers(emulator)
    operator = BatchInferenceOperator(
        task_id="t", **OPENAI, requests=["a", "b"], output_type=ANSWER, deferrable=deferrable
    )
    manifest = operator.execute(context)
    assert manifest["counts"]["completed"] == 2
    assert [set(row["output"]) for row in read_rows(manifest["result_uri"])] == [{"summary", "category"}] * 2


def test_inference_defers_and_finishes_from_the_event(emulator_of, providers, context):
    """The trigger gets ids and times only; the event leads to the applied results."""
    emulator = emulator_of(progress=Progress.parse("polls:2"))
    providers(emulator)
    operator = BatchInferenceOperator(task_id="t", **OPENAI, requests=["a"], poll_interval=3)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    trigger = deferred.value.trigger
    assert trigger.model == "openai:gpt-5-nano"
    assert trigger.poll_intervals == [3]
    assert "good-key" not in str(trigger.serialize())
    manifest = operator.execute_complete(context, {"batch_id": trigger.batch_id, "status": "ended"})
    assert manifest["status"] == "ended"
    assert context["pushed"]["raif_manifest"] == manifest


def test_the_log_says_what_a_task_waits_for_and_what_became_of_it(emulator_of, providers, context, caplog):
    """Rows, tokens, cost and where they are, also where all went well: nobody has to look into XCom for it."""
    caplog.set_level("INFO")
    providers(emulator_of(progress=Progress.parse("polls:2")))
    operator = BatchInferenceOperator(task_id="t", **OPENAI, requests=["a", "a", "b"])
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    batch_id = deferred.value.trigger.batch_id
    assert f"Batch {batch_id} is in_progress: waiting without a worker until " in caplog.text
    manifest = operator.execute_complete(context, {"batch_id": batch_id, "status": "ended"})
    assert f"Results of batch {batch_id} (ended): 3 of 3 rows completed; " in caplog.text
    assert f"${manifest['cost']['batch']}" in caplog.text
    assert "1 rows were the same as others" in caplog.text
    assert manifest["result_uri"] in caplog.text


def test_inference_in_the_worker(emulator_of, providers, context, no_backoff):
    """deferrable=False waits in the worker, through an outage of the provider."""
    emulator = emulator_of(progress=Progress.parse("polls:3"))
    emulator.state.faults.http.append(HttpFault(route="openai.batches.get", status=503, times=7, skip=1))
    providers(emulator)
    operator = BatchInferenceOperator(task_id="t", **OPENAI, requests=["a"], deferrable=False, poll_interval=0.01)
    assert operator.execute(context)["counts"]["completed"] == 1


def test_an_event_that_comes_too_early_defers_again(emulator_of, providers, context):
    """An event for a batch that still runs, after a clear, waits on."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    operator = BatchInferenceOperator(task_id="t", **OPENAI, requests=["a"])
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    with pytest.raises(TaskDeferred):
        operator.execute_complete(context, {"batch_id": deferred.value.trigger.batch_id, "status": "ended"})


def test_an_error_event_fails_the_task_and_cancels_nothing(emulator_of, providers, context):
    """When polling is not possible the batch goes on, and a retry waits for it again."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    manifest = submit(context)
    operator = BatchInferenceOperator(task_id="t", **OPENAI, requests=["one", "two"])
    with pytest.raises(AirflowException, match="waiting for batch .* failed: no key"):
        operator.execute_complete(context, {"batch_id": manifest["batch_id"], "status": "error", "message": "no key"})
    assert emulator.state.requests["openai.batches.cancel"] == 0


def test_deadline_cancels_and_applies_what_finished(emulator_of, providers, context):
    """Past its deadline a batch is canceled; finished rows are applied, the task fails, and no retry pays anew."""
    emulator = emulator_of(**SLOW)
    emulator.state.faults.done_at_cancel = 0.5
    providers(emulator)
    manifest = submit(context)
    operator = BatchInferenceOperator(task_id="t", **OPENAI, requests=["one", "two"], timeout=timedelta(seconds=0.001))
    event = {"batch_id": manifest["batch_id"], "status": "timeout"}
    with pytest.raises(AirflowFailException, match="was canceled: 1 of 2 entries completed, 1 canceled"):
        operator.execute_complete(context, event)
    found = read_rows(context["pushed"]["raif_manifest"]["result_uri"])
    assert [(row["status"], row["reason"]) for row in found] == [("completed", None), ("failed", "canceled")]
    assert found[0]["output"]


def test_deadline_may_leave_the_batch_running(emulator_of, providers, context):
    """cancel_on_timeout=False fails the task and cancels nothing."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    manifest = submit(context)
    operator = BatchInferenceOperator(task_id="t", **OPENAI, requests=["one"], timeout=0, cancel_on_timeout=False)
    with pytest.raises(DeadlineExceededError, match="it was not canceled, and a retry waits for it again"):
        operator.execute_complete(context, {"batch_id": manifest["batch_id"], "status": "timeout"})
    sensor = WaitForBatchSensor(task_id="w", batch=manifest, timeout=0, cancel_on_timeout=False)
    with pytest.raises(DeadlineExceededError):
        sensor.execute_complete(context, {"batch_id": manifest["batch_id"], "status": "timeout"})
    assert emulator.state.requests["openai.batches.cancel"] == 0


def test_failed_rows_are_results(emulator, providers, context):
    """Failed entries are rows with their reason; only too many of them fail the task."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[1]))
    providers(emulator)
    manifest = submit(context)
    WaitForBatchSensor(task_id="w", batch=manifest).execute(context)
    done = ApplyBatchResultsOperator(task_id="a", batch=manifest).execute(context)
    assert done["counts"]["reasons"] == {"errored": 1}
    with pytest.raises(PartialBatchError, match="max_failed_fraction=0.1"):
        ApplyBatchResultsOperator(task_id="a", batch=manifest, max_failed_fraction=0.1).execute(context)


def test_all_failed_fails_the_task_with_the_rows_written(emulator, providers, context):
    """A batch of failures only is a failure, and its rows tell why."""
    emulator.state.faults.rows.append(RowFault(kind="errored", fraction=1))
    providers(emulator)
    with pytest.raises(FailedBatchError, match="0 of 1 entries completed, 1 errored"):
        BatchInferenceOperator(task_id="t", **OPENAI, requests=["a"]).execute(context)
    row = read_rows(context["pushed"]["raif_manifest"]["result_uri"])[0]
    assert row["error"]["message"] == "Emulated invalid request."


def test_output_path(emulator, providers, context, tmp_path):
    """Results go to the folder that is asked for, by a plain path or a URL."""
    providers(emulator)
    operator = BatchInferenceOperator(task_id="t", **OPENAI, requests=["a"], output_path=str(tmp_path / "mine"))
    assert operator.execute(context)["result_uri"] == f"file://{tmp_path}/mine/results.jsonl"
    assert Path(tmp_path / "mine" / "results.jsonl").exists()


def test_sensor_waits_however_the_batch_ends(emulator_of, providers, context):
    """The sensor defers on a running batch and succeeds on a terminal one."""
    emulator = emulator_of(progress=Progress.parse("polls:2"))
    providers(emulator)
    manifest = submit(context)
    sensor = WaitForBatchSensor(task_id="w", batch=manifest["batch_id"])
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)
    assert deferred.value.timeout > timedelta(hours=25)
    assert sensor.execute_complete(context, {"status": "ended"})["status"] == "ended"


def test_sensor_in_the_worker(emulator_of, providers, context, no_backoff):
    """deferrable=False pokes, and an outage is no answer."""
    emulator = emulator_of(progress=Progress.parse("polls:3"))
    emulator.state.faults.http.append(HttpFault(route="openai.batches.get", status=500, times=5))
    providers(emulator)
    manifest = submit(context)
    sensor = WaitForBatchSensor(task_id="w", batch=manifest, deferrable=False, poll_interval=0.01)
    assert not sensor.poke(context).is_done
    assert not sensor.poke(context).is_done
    done = sensor.poke(context)
    assert done.is_done
    assert done.xcom_value["status"] == "ended"


def test_sensor_past_its_deadline_cancels_and_waits_for_the_end(emulator_of, providers, context):
    """The composed DAG gets what finished: the sensor succeeds on the canceled batch."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    manifest = submit(context)
    sensor = WaitForBatchSensor(task_id="w", batch=manifest, timeout=0)
    assert sensor.execute_complete(context, {"status": "timeout"})["status"] == "canceled"


def test_parts_are_left_to_the_tasks_mapped_over_them(emulator, providers, connection, context):
    """The sensor fetches nothing; a task waits deferred for the round of its part, and cancels nothing."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    host = f"{emulator.url}/v1"
    connection("openai_default", conn_type="raif_openai", password="k", host=host, extra={"max_requests": 2})
    manifest = submit(context, requests=["a", "b", "c"])
    sensor = WaitForBatchSensor(task_id="w", batch=manifest, returns="parts")
    assert sensor.execute(context) == [0, 1]
    assert sensor.poke(context).xcom_value == [0, 1]
    assert emulator.state.requests["openai.files.content"] == 0
    object.__setattr__(emulator.settings, "progress", SLOW["progress"])
    operator = ApplyBatchResultsOperator(task_id="a", batch=manifest, part=manifest["parts"][0])
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    assert not deferred.value.trigger.cancel_on_kill
    assert ApplyBatchResultsOperator(task_id="a", batch=manifest, part="1").execute(context)["request_count"] == 1
    object.__setattr__(emulator.settings, "progress", Progress.parse("immediate"))
    done = operator.execute_complete(context, {"status": "ended", "batch_id": manifest["batch_id"]})
    assert (done["part"], done["counts"]["completed"]) == (0, 2)
    assert context["pushed"]["raif_manifest"] == done
    assert emulator.state.creates["openai"] == 3
    assert emulator.state.requests["openai.batches.cancel"] == 0


@pytest.mark.parametrize("part", [-1, True, "two", {"part": 0}, 2])
def test_wrong_parts_fail_for_good(emulator, providers, context, part):
    """No retry can mend a number that is none, or that the batch does not have."""
    providers(emulator)
    manifest = submit(context)
    assert WaitForBatchSensor(task_id="w", batch=manifest, returns="parts").execute(context) == [0]
    message = "no part 2 to apply, only 0" if part == 2 else "give the number of a part"
    with pytest.raises(AirflowFailException, match=message):
        ApplyBatchResultsOperator(task_id="a", batch=manifest, part=part).execute(context)


def test_cancel_operator_with_nothing_to_cancel(emulator, providers, context):
    """A terminal batch is left alone, or told about."""
    providers(emulator)
    manifest = submit(context)
    WaitForBatchSensor(task_id="w", batch=manifest).execute(context)
    assert CancelBatchOperator(task_id="c", batch=manifest).execute(context) == "ended"
    with pytest.raises(AirflowFailException, match="cannot be canceled"):
        CancelBatchOperator(task_id="c", batch=manifest, missing_ok=False).execute(context)


@pytest.mark.parametrize("operator", [SubmitBatchOperator, BatchInferenceOperator])
def test_a_provider_that_is_away_at_the_submission_is_waited_out(emulator, providers, context, no_backoff, operator):
    """The task leaves its worker and comes back; no try of it is used up, and the batch is made once."""
    emulator.state.faults.http.append(HttpFault(route="openai.*", status=503, times=-1))
    providers(emulator)
    task = operator(task_id="t", **OPENAI, requests=["one", "two"])
    for _ in range(2):
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(context)
        assert deferred.value.trigger.min_dwell >= 300
        # The one that submits succeeds while its batch runs, which tells nobody to cancel it.
        assert deferred.value.trigger.cancel_on_success is (operator is BatchInferenceOperator)
    emulator.state.faults.http.clear()
    event = {"batch_id": deferred.value.trigger.batch_id, "status": "timeout"}
    manifest = getattr(task, deferred.value.method_name)(context, event)
    assert manifest["request_count"] == 2
    assert emulator.state.creates["openai"] == 1


def test_without_deferral_an_outage_is_waited_out_in_the_worker(emulator, providers, context, no_backoff, monkeypatch):
    """No try of the task is used up."""
    emulator.state.faults.http.append(HttpFault(route="openai.*", status=503, times=-1))
    providers(emulator)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            emulator.state.faults.http.clear()

    monkeypatch.setattr("airflow_raif.operators._waiting.sleep", sleep)
    assert submit(context, deferrable=False)["request_count"] == 2
    assert slept == [300.0] * 3
    assert emulator.state.creates["openai"] == 1


def test_a_provider_that_is_away_at_the_fetch_is_waited_out(emulator, providers, context, no_backoff):
    """The batch has ended and its results cannot be had yet: nothing fails and nothing is canceled."""
    providers(emulator)
    manifest = submit(context)
    emulator.state.faults.http.append(HttpFault(route="openai.files.content", status=503, times=-1))
    sensor = WaitForBatchSensor(task_id="w", batch=manifest)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)
    assert not WaitForBatchSensor(task_id="w", batch=manifest, deferrable=False).poke(context).is_done
    emulator.state.faults.http.clear()
    found = sensor.execute_complete(context, {"batch_id": deferred.value.trigger.batch_id, "status": "ended"})
    assert found["counts"]["completed"] == 2
    assert emulator.state.requests["openai.batches.cancel"] == 0


def test_an_outage_long_past_the_deadline_fails_the_task(emulator, providers, context, no_backoff, monkeypatch):
    """Patience ends an hour after the time that the user gave."""
    providers(emulator)
    manifest = submit(context)
    emulator.state.faults.http.append(HttpFault(route="openai.*", status=503, times=-1))
    monkeypatch.setattr("airflow_raif.operators._waiting.CANCEL_GRACE_SECONDS", 0)
    with pytest.raises(UnavailableError):
        WaitForBatchSensor(task_id="w", batch=manifest, timeout=0).execute(context)


@pytest.mark.parametrize("composed", [True, False])
def test_rounds_of_what_was_lost_in_passing(emulator, providers, context, composed):
    """Waiting opens a round for the lost row alone, and waits for it in turn."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    providers(emulator)
    if composed:
        task = WaitForBatchSensor(task_id="w", batch=submit(context))
    else:
        task = BatchInferenceOperator(task_id="t", **OPENAI, requests=["one", "two"])
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    manifest = task.execute_complete(context, {"batch_id": deferred.value.trigger.batch_id, "status": "ended"})
    assert manifest["counts"]["completed"] == 2
    assert [part["request_count"] for part in manifest["parts"]] == [2, 1]


def test_no_round_is_opened_past_the_users_deadline(emulator, providers, context):
    """The user wants what is there by then."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    providers(emulator)
    manifest = WaitForBatchSensor(task_id="w", batch=submit(context), timeout=0).execute(context)
    assert manifest["counts"]["reasons"] == {"missing": 1}
    assert emulator.state.creates["openai"] == 1


def test_changed_input_may_replace_the_batch(emulator_of, providers, context):
    """By the author's wish the running batch is canceled, and the new rows are sent."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    first = submit(context)
    second = submit(context, requests=["one", "three"], on_input_change="resubmit")
    assert second["batch_id"] != first["batch_id"]
    assert emulator.state.requests["openai.batches.cancel"] == 1
    assert emulator.state.creates["openai"] == 2
    assert submit(context, requests=["one", "three"])["batch_id"] == second["batch_id"]


@pytest.mark.parametrize("batch", [None, 7, {}, {"batch_id": ""}, ""])
def test_a_batch_argument_that_is_none(context, batch):
    """What is no manifest and no id is refused by name."""
    with pytest.raises(AirflowFailException, match="give a batch id or a batch's manifest"):
        ApplyBatchResultsOperator(task_id="a", batch=batch).execute(context)


def test_an_unknown_batch(context, raif_home):
    """An id that the store does not know is named."""
    with pytest.raises(AirflowFailException, match="nope"):
        ApplyBatchResultsOperator(task_id="a", batch="nope").execute(context)


def test_pydantic_models_are_output_types(emulator, providers, context):
    """A Pydantic model gives its JSON schema."""
    from pydantic import BaseModel, ConfigDict

    class Answer(BaseModel):
        model_config = ConfigDict(extra="forbid")
        title: str
        stars: int

    providers(emulator)
    manifest = BatchInferenceOperator(task_id="t", **OPENAI, requests=["a"], output_type=Answer).execute(context)
    assert set(read_rows(manifest["result_uri"])[0]["output"]) == {"title", "stars"}


def test_prompts_are_never_templates(emulator, providers, context):
    """Jinja in a prompt reaches the provider as it is."""
    operator = SubmitBatchOperator(task_id="s", **OPENAI, requests=["{{ var.value.secret }}"])
    assert not {"requests", "system_prompt"} & set(operator.template_fields)
    providers(emulator)
    operator.execute(context)
    file = next(iter(emulator.state.files["openai"].values()))
    assert b"{{ var.value.secret }}" in file.path.read_bytes()
