"""``@task.raif_batch`` and ``batch_group`` as a DAG author writes them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException

from airflow_raif.decorators.batch import raif_batch_task
from airflow_raif.destinations.sql import SqlTable
from airflow_raif.operators.batch import ApplyBatchResultsOperator
from airflow_raif.operators.groups import batch_group
from tests.support import read_rows

OPENAI = {"conn_id": "openai_default", "model": "gpt-5-nano"}
TABLE = SqlTable("warehouse", "review", keys=["id"], columns={"mood": "output"})


def operator_of(function, *args, **arguments):
    with DAG("d", schedule=None):
        made = raif_batch_task(function, **OPENAI, **{"deferrable": False, "poll_interval": 0.01, **arguments})(*args)
    return made.operator


def test_a_function_gives_the_rows(emulator, providers, context):
    """Its parameters come from the call and from the context, its rows have prompts made by a template."""
    providers(emulator)
    context["params"] = {"last": 3}

    def numbers(first, params):
        return ({"n": n} for n in range(first, params["last"]))

    operator = operator_of(numbers, 1, prompt_template="Number {{ n }}", id_column="n")
    assert operator.task_id == "numbers"
    found = read_rows(operator.execute(context)["result_uri"])
    assert [(row["custom_id"], row["n"], row["status"]) for row in found] == [
        ("1", 1, "completed"),
        ("2", 2, "completed"),
    ]
    assert operator.execute(context)["counts"]["completed"] == 2
    assert emulator.state.creates["openai"] == 1


@pytest.mark.parametrize("given", [None, 7, "text", {"prompt": "x"}])
def test_a_function_that_gives_none(emulator, providers, context, given):
    """Is named."""
    providers(emulator)

    def wrong():
        return given

    with pytest.raises(
        AirflowFailException, match=rf"wrong\(\) returned a {type(given).__name__}; return or yield rows"
    ):
        operator_of(wrong).execute(context)
    assert emulator.state.creates["openai"] == 0


def test_the_decorator_is_airflows():
    """Found under its name, with what the function is given upstream of it."""
    with DAG("d", schedule=None):

        @task
        def before():
            return [1]

        @task.raif_batch(**OPENAI)
        def ask(rows):
            yield from rows

        ask(before())
        asked = ask.override(task_id="again", max_rounds=0)(before()).operator
    assert asked.upstream_task_ids == {"before__1"}
    assert (asked.task_id, asked.max_rounds, asked.conn_id) == ("again", 0, "openai_default")


def test_a_group_gives_each_step_what_it_takes():
    """As if the three were written one by one."""
    with DAG("d", schedule=None) as dag:
        first = task(lambda: [1], task_id="first")()
        group = batch_group(
            "g", **OPENAI, requests=first, max_tokens=5, poll_interval=3, timeout=timedelta(hours=2),
            cancel_on_timeout=False, destination=TABLE, output_path="file:///out", max_failed_fraction=0.1,
            deferrable=False, cancel_on_kill=False, default_args={"retries": 4},
        )  # fmt: skip
        group >> task(lambda: None, task_id="last")()
    submit, wait, apply = (dag.get_task(f"g.{name}") for name in ("submit", "wait", "apply"))
    assert (submit.upstream_task_ids, submit.max_tokens, submit.cancel_on_kill) == ({"first"}, 5, False)
    assert (wait.upstream_task_ids, wait.poll_interval, wait.cancel_on_timeout) == ({"g.submit"}, 3, False)
    assert (wait.cancel_on_kill, repr(apply.destination), apply.output_path) == (False, repr(TABLE), "file:///out")
    assert (apply.upstream_task_ids, apply.downstream_task_ids) == ({"g.wait"}, {"last"})
    assert {each.retries for each in (submit, wait, apply)} == {4}
    assert {each.deferrable for each in (submit, wait, apply)} == {False}


@pytest.mark.parametrize("by_parts", [False, True])
def test_a_group_gives_each_step_what_is_airflows(by_parts):
    """Retries and alerts are wanted whichever of them fails; when it begins is said to the first one alone."""

    def alert(context):
        raise AssertionError

    with DAG("d", schedule=None) as dag:
        batch_group(
            "g", **OPENAI, requests=["a"], by_parts=by_parts, retries=4, pool="llm", on_failure_callback=alert,
            trigger_rule="all_done", do_xcom_push=False, default_args={"retries": 2, "queue": "q"},
        )  # fmt: skip
    steps = [dag.get_task(f"g.{name}") for name in ("submit", "wait", "apply")]
    assert [(each.retries, each.pool, each.queue) for each in steps] == [(4, "llm", "q")] * 3
    assert [list(each.on_failure_callback) for each in steps] == [[alert]] * 3
    assert [each.trigger_rule for each in steps] == ["all_done", "all_success", "all_success"]
    assert [each.do_xcom_push for each in steps[:2]] == [True, True]


def test_a_group_by_parts():
    """Its last step is mapped over the parts."""
    with DAG("d", schedule=None) as dag:
        batch_group("g", **OPENAI, requests=["a"], by_parts=True, destination=TABLE)
    apply = dag.get_task("g.apply")
    assert apply.is_mapped
    assert apply.operator_class is ApplyBatchResultsOperator
    assert apply.upstream_task_ids == {"g.submit", "g.wait"}
    assert dag.get_task("g.wait").returns == "parts"
