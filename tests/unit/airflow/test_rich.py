"""Agents and pydantic-ai's messages as a DAG author gives them to operators."""

from __future__ import annotations

import base64
import json
import sys

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_raif.decorators.batch import raif_batch_task
from airflow_raif.destinations.sql import SqlTable
from airflow_raif.domain.errors import ConfigurationError, InvalidBatchError
from airflow_raif.hooks.batch import BatchHook
from airflow_raif.operators.batch import ApplyBatchResultsOperator, BatchInferenceOperator, SubmitBatchOperator
from airflow_raif.operators.groups import batch_group
from airflow_raif.sensors.batch import WaitForBatchSensor
from tests.support import need_pydantic_ai, read_rows

pytest.importorskip("pydantic_ai.models.batch", reason="pydantic-ai 2.68 or later is not installed")

from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent

CLAUDE = {"conn_id": "anthropic_default"}
AT_ONCE = {"deferrable": False, "poll_interval": 0.01}
PNG = bytes.fromhex("89504e470d0a1a0a")


class Review(BaseModel):
    mood: str
    score: int = 3


def new_agent(**arguments):
    return Agent("anthropic:claude-haiku-4-5", defer_model_check=True, **{"output_type": Review, **arguments})


reviewer = new_agent()
PATH = f"{__name__}:reviewer"


@pytest.fixture(autouse=True)
def sdk():
    need_pydantic_ai("anthropic")


@pytest.mark.parametrize("agent", [new_agent(), PATH], ids=["object", "path"])
def test_one_task(emulator, providers, context, agent):
    """The agent is all that has to be said; the batch is the model's own, as the agent names it."""
    providers(emulator)
    operator = BatchInferenceOperator(task_id="task", **CLAUDE, **AT_ONCE, agent=agent, requests=["Great!", "Bad."])
    manifest = operator.execute(context)
    assert manifest["model"] == "claude-haiku-4-5"
    found = read_rows(manifest["result_uri"])
    assert [set(row["output"]) for row in found] == [{"mood", "score"}] * 2
    assert operator.execute(context)["counts"]["completed"] == 2
    assert emulator.state.creates["anthropic"] == 1


def test_an_estimate_asks_the_agent_and_sends_nothing(emulator, providers, context):
    """As for any batch."""
    providers(emulator)
    operator = SubmitBatchOperator(task_id="task", **CLAUDE, agent=PATH, requests=["x"], estimate_only=True)
    with pytest.raises(AirflowSkipException):
        operator.execute(context)
    (part,) = context["pushed"]["raif_estimate"]["parts"]
    # With the tool by which the agent takes its output.
    assert part["request_bytes"] > 300
    assert emulator.state.creates["anthropic"] == 0


def test_answers_of_others_are_not_the_agent_s(emulator, providers, context):
    """They were not checked by it."""
    providers(emulator)
    operator = SubmitBatchOperator(task_id="task", **CLAUDE, agent=PATH, requests=["x"], reuse="1d")
    with pytest.raises(AirflowFailException, match="leave reuse out"):
        operator.execute(context)


def test_a_model_beside_the_agent_is_asked_in_its_place(emulator, providers, context):
    """Also where the agent has none of its own."""
    need_pydantic_ai("gemini")
    providers(emulator)
    agent = Agent(output_type=Review)
    operator = BatchInferenceOperator(
        task_id="task",
        conn_id="gemini_default",
        model="gemini:gemini-2.5-flash",
        agent=agent,
        requests=["x"],
        **AT_ONCE,
    )
    assert operator.execute(context)["counts"]["completed"] == 1
    assert emulator.state.creates["gemini"] == 1


def test_an_agent_of_another_provider_than_the_connection(emulator, providers, context):
    """Is told before anything is sent."""
    providers(emulator)
    operator = BatchInferenceOperator(
        task_id="task", conn_id="openai_default", agent=reviewer, requests=["x"], **AT_ONCE
    )
    with pytest.raises(AirflowFailException, match="anthropic"):
        operator.execute(context)
    assert sum(emulator.state.creates.values()) == 0


@pytest.mark.parametrize("is_mapped", [False, True])
def test_the_steps_find_the_agent_in_their_dag(emulator, providers, context, is_mapped):
    """The task that waits reads the answers, and so does the one that applies them: neither is told of the agent."""
    providers(emulator)
    agent = new_agent()
    with DAG("dag", schedule=None) as dag:
        arguments = {"task_id": "submit", **CLAUDE, "agent": agent}
        if is_mapped:
            SubmitBatchOperator.partial(**arguments).expand(requests=[["x"]])
        else:
            SubmitBatchOperator(**arguments, requests=["x"])
        wait = WaitForBatchSensor(task_id="wait", batch="-", deferrable=False, poll_interval=0.01)
        apply = ApplyBatchResultsOperator(task_id="apply", batch="-")
    context["ti"].task_id = "submit"
    # As the worker runs it, apart from the DAG that the other tasks are in.
    batch = SubmitBatchOperator(**arguments, requests=["x"]).execute(context)
    wait.batch = apply.batch = batch["batch_id"]
    wait.execute(context)
    assert set(read_rows(apply.execute(context)["result_uri"])[0]["output"]) == {"mood", "score"}
    elsewhere = ApplyBatchResultsOperator(task_id="apply", batch=batch["batch_id"], output_path=f"file://{dag.dag_id}")
    elsewhere.dag = DAG("other", schedule=None)
    with pytest.raises(AirflowFailException, match="an agent that only its own DAG has"):
        elsewhere.execute(context)


def test_groups_and_the_decorator_take_an_agent(emulator, providers, context):
    """As the operators do."""
    providers(emulator)
    with DAG("d", schedule=None) as dag:
        batch_group("g", **CLAUDE, agent=reviewer, requests=["x"])

        def reviews():
            yield {"custom_id": "r", "prompt": ["Judge", BinaryContent(PNG, media_type="image/png")]}

        made = raif_batch_task(reviews, **CLAUDE, **AT_ONCE, agent=reviewer)()
    assert dag.get_task("g.submit").agent is reviewer
    assert read_rows(made.operator.execute(context)["result_uri"])[0]["custom_id"] == "r"


def test_a_prompt_with_a_file_is_made_of_a_row(emulator, providers, context):
    """A function of a row's columns may return pieces of content, or a mapping with them."""
    providers(emulator)

    def prompt(row):
        pieces = ["Describe", BinaryContent(base64.b64decode(row["image"]), media_type="image/png")]
        return pieces if row["sku"] == "a" else {"prompt": pieces, "model_settings": {"max_tokens": 88}}

    rows = [{"sku": sku, "image": base64.b64encode(PNG).decode()} for sku in "ab"]
    operator = BatchInferenceOperator(
        task_id="task", **CLAUDE, **AT_ONCE, model="claude-haiku-4-5", requests=rows, prompt_template=prompt,
        id_column="sku", max_tokens=99,
    )  # fmt: skip
    found = read_rows(operator.execute(context)["result_uri"])
    assert [(row["custom_id"], row["sku"], row["status"]) for row in found] == [
        ("a", "a", "completed"),
        ("b", "b", "completed"),
    ]


def test_a_destination_is_held_against_the_agent_s_output(emulator, providers, context):
    """Before anything is sent."""
    providers(emulator)
    table = SqlTable("warehouse", "review", keys=["id"], columns={"mood": "output.temper"})
    operator = BatchInferenceOperator(task_id="task", **CLAUDE, agent=PATH, requests=["x"], destination=table)
    with pytest.raises(AirflowFailException, match="'output.temper', but the output has mood, score"):
        operator.execute(context)
    texts = BatchInferenceOperator(
        task_id="text", **CLAUDE, agent=new_agent(output_type=str), requests=["x"], destination=table
    )
    with pytest.raises(AirflowFailException, match="the output is a text"):
        texts.execute(context)


def test_the_hook_takes_an_agent(emulator, providers, raif_store):
    """Everything an operator does, in a Python task."""
    providers(emulator)
    hook = BatchHook("anthropic_default", agent=new_agent())
    batch = hook.create_batch(["Great!"])
    hook.submit_batch(batch.batch_id)
    hook.fetch_batch_status(batch.batch_id)
    hook.fetch_batch_results(batch.batch_id)
    assert set(read_rows(hook.apply_batch_results(batch.batch_id))[0]["output"]) == {"mood", "score"}


@pytest.mark.asyncio
async def test_the_hook_in_a_task_that_is_a_coroutine(emulator, providers, raif_store):
    """pydantic-ai has an event loop of its own, so the caller may be in one."""
    providers(emulator)
    batch = BatchHook("anthropic_default", agent=PATH).create_batch(["Great!"])
    assert batch.request_count == 1


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ConfigurationError, "give a model, or an agent"),
        ({"agent": reviewer, "output_type": Review}, ValueError, "leave system_prompt and output_type out"),
        ({"agent": reviewer, "system_prompt": "x"}, ValueError, "leave system_prompt and output_type out"),
        ({"agent": Agent()}, ConfigurationError, "the agent has no model of its own"),
        ({"agent": 7}, ConfigurationError, "7 is a int; give a pydantic-ai Agent"),
        ({"agent": Agent("anthropic:x", defer_model_check=True, deps_type=int)}, ConfigurationError, "deps_type=int"),
        ({"model": "openai:gpt-5-nano", "output_type": {"type": "array"}}, InvalidBatchError, "wants an object at the"),
        (
            {"model": "anthropic:x", "output_type": {**SCHEMA, "not": {}}},
            InvalidBatchError,
            "cannot take 'not'",
        ),
        ({"model": "gpt-5-nano", "output_type": {"type": "objekt"}}, InvalidBatchError, "is not a JSON schema"),
        (
            {"model": "gpt-5-nano", "output_type": "Review"},
            ConfigurationError,
            "give a Pydantic model",
        ),
    ],
)
def test_what_cannot_be_had_is_told_as_the_dag_is_parsed(arguments, error, message):
    """The DAG does not import, and nothing is ever sent."""
    with pytest.raises(error, match=message):
        SubmitBatchOperator(task_id="task", **CLAUDE, requests=["x"], **arguments)


def test_a_path_is_not_imported_as_the_dag_is_parsed():
    """A DAG file stays cheap to parse however large the agent's module is."""
    operator = SubmitBatchOperator(task_id="task", **CLAUDE, requests=["x"], agent="not.there:agent")
    assert operator.agent == "not.there:agent"


def test_without_the_extra(emulator, providers, context, monkeypatch):
    """Rich rows and agents say what to install; text rows do not need it."""
    providers(emulator)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pydantic_ai"]:
        monkeypatch.setitem(sys.modules, name, None)
    for arguments in ({"agent": "any.where:agent"}, {"model": "claude-haiku-4-5", "requests": [{"prompt": ["x"]}]}):
        operator = SubmitBatchOperator(task_id="task", **CLAUDE, **{"requests": ["x"], **arguments})
        with pytest.raises(AirflowFailException, match=r"pip install 'airflow-raif\[pydantic-ai\]'"):
            operator.execute(context)
    plain = SubmitBatchOperator(task_id="task", **CLAUDE, model="claude-haiku-4-5", requests=["x"], max_tokens=5)
    assert plain.execute(context)["request_count"] == 1


def test_an_sdk_that_pydantic_ai_lacks(emulator, providers, context, monkeypatch):
    """Is named with the extra that brings it."""
    providers(emulator)
    from airflow_raif.rich.models import make_model

    make_model.cache_clear()
    monkeypatch.setitem(sys.modules, "pydantic_ai.models.anthropic", None)
    operator = SubmitBatchOperator(task_id="task", **CLAUDE, model="claude-haiku-4-5", requests=[{"prompt": ["x"]}])
    with pytest.raises(AirflowFailException, match=r"pip install 'pydantic-ai-slim\[anthropic\]>=2.68'"):
        operator.execute(context)


#: Columns of a row's own with the names of a request's fields.
NAMESAKES = {"prompt": "Raw", "body": "Text", "system": "Be rude", "temperature": 25, "max_tokens": 3, "params": "x"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"agent": reviewer, "prompt_template": "Judge: {{ review }}"},
        {"model": "claude-haiku-4-5", "max_tokens": 99, "prompt_template": lambda row: [f"Judge: {row['review']}"]},
    ],
    ids=["agent", "list"],
)
def test_with_a_template_all_of_a_row_is_columns(emulator, providers, context, raif_home, arguments):
    """Whatever their names are, as in the text form; none of them is in the request."""
    providers(emulator)
    rows = [{"custom_id": "a", "review": "Great!", **NAMESAKES}]
    manifest = BatchInferenceOperator(task_id="task", **CLAUDE, **AT_ONCE, requests=rows, **arguments).execute(context)
    (row,) = read_rows(manifest["result_uri"])
    assert {name: row[name] for name in NAMESAKES} == NAMESAKES
    (file,) = raif_home.glob("spool/*/part-*.requests.jsonl")
    params = json.loads(file.read_bytes())["params"]
    assert "Judge: Great!" in json.dumps(params["messages"])
    assert "Be rude" not in json.dumps(params)
    assert params["max_tokens"] > 3
    assert "temperature" not in params


def test_with_a_template_a_column_of_the_result_row_is_refused(emulator, providers, context):
    """It chooses no model."""
    providers(emulator)
    rows = [{"review": "Great!", "model": "claude-opus-4-1"}]
    operator = BatchInferenceOperator(
        task_id="task", **CLAUDE, **AT_ONCE, model="claude-haiku-4-5", requests=rows, prompt_template=lambda _: ["Hi"]
    )
    with pytest.raises(AirflowFailException, match="row 0 has a column named 'model'"):
        operator.execute(context)


def test_upstream_rows_in_json_form(emulator, providers, context):
    """XCom carries messages as JSON."""
    from pydantic_ai.messages import ModelMessagesTypeAdapter, ModelRequest, UserPromptPart

    providers(emulator)
    messages = [ModelRequest(parts=[UserPromptPart(["Look", BinaryContent(PNG, media_type="image/png")])])]
    rows = [{"custom_id": "a", "messages": ModelMessagesTypeAdapter.dump_python(messages, mode="json")}]
    rows = json.loads(json.dumps(rows))
    operator = BatchInferenceOperator(
        task_id="task", **CLAUDE, **AT_ONCE, model="claude-haiku-4-5", max_tokens=99, requests=rows
    )
    (row,) = read_rows(operator.execute(context)["result_uri"])
    assert row["model_response"]["kind"] == "response"
