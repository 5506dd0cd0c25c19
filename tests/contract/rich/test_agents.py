"""An agent in place of model, system prompt and output type: one turn, and what becomes of its answer."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing

import msgspec
import pytest

from airflow_raif.domain.errors import ConfigurationError, InvalidRequestError
from airflow_raif.rich.codec import RichCodec
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.fingerprint import fingerprint_rows
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.submit import submit_batch
from tests.support import MODELS, answer_with, defaults_of, folder, need_pydantic_ai, read_rows, through

pytest.importorskip("pydantic_ai.models.batch", reason="pydantic-ai 2.68 or later is not installed")

from pydantic import BaseModel, field_validator
from pydantic_ai import (
    Agent,
    BinaryContent,
    DeferredToolRequests,
    ModelRetry,
    NativeOutput,
    PromptedOutput,
    RunContext,
    ToolOutput,
)
from pydantic_ai.messages import ModelRequest, UserPromptPart
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import ExternalToolset

PNG = BinaryContent(bytes.fromhex("89504e470d0a1a0a"), media_type="image/png")
GOOD = {"mood": " good ", "score": 4}


class Review(BaseModel):
    mood: str
    score: int = 3

    @field_validator("mood")
    @classmethod
    def strip(cls, mood: str) -> str:
        return mood.strip()


def agent_of(output_type=Review, **arguments):
    return Agent(output_type=output_type, instructions="Judge this review.", **arguments)


def answering(answer):
    """Have Anthropic answer all rows with this content."""

    def change(request, response):
        if request.url.path.endswith("/results"):
            rows = [msgspec.json.decode(line) for line in response.content.splitlines()]
            for row in rows:
                row["result"]["message"]["content"] = answer
            answer_with(response, b"\n".join(map(msgspec.json.encode, rows)))

    return lambda runtime: through(runtime, change)


def text(value):
    return [{"type": "text", "text": value if isinstance(value, str) else json.dumps(value)}]


def call(name, arguments):
    return [{"type": "tool_use", "id": "toolu_1", "name": name, "input": arguments}]


@pytest.fixture
def claude():
    """A model that the SDKs here can write requests for."""
    need_pydantic_ai("anthropic")
    return "anthropic"


@pytest.mark.parametrize("output_type", [Review, NativeOutput(Review), str], ids=["tool", "native", "text"])
def test_the_agent_asks_and_validates(provider, live, output_type):
    """Its instructions and output go out as pydantic-ai prepares them; the answer comes back as its output."""
    done = live(provider, ["Great!", {"custom_id": "x", "prompt": ["And this?", PNG]}][:1], agent_of(output_type))
    sent = json.dumps(done.bodies[0])
    assert "Judge this review." in sent
    assert "Great!" in sent
    assert ("final_result" in sent) == (output_type is Review)
    (row,) = done.rows
    assert row["status"] == "completed"
    assert row["cost"]["batch"] > 0
    if output_type is str:
        assert isinstance(row["output"], str)
    else:
        assert set(row["output"]) == {"mood", "score"}
        assert row["tool_calls"] is None


@pytest.mark.parametrize(
    ("output_type", "answer", "expected"),
    [
        (NativeOutput(Review), text(GOOD), {"mood": "good", "score": 4}),
        (PromptedOutput(Review), text({"mood": "good"}), {"mood": "good", "score": 3}),
        (Review, call("final_result", GOOD), {"mood": "good", "score": 4}),
        ([Review, str], text("I do not know"), "I do not know"),
        ([ToolOutput(Review, name="review"), ToolOutput(int, name="stars")], call("stars", {"response": 5}), 5),
        (list[int], call("final_result", {"response": [1, 2]}), [1, 2]),
    ],
)
def test_output_is_what_the_agent_makes_of_the_answer(live, claude, output_type, answer, expected):
    """Defaults are filled in and validators have done their work."""
    done = live(claude, ["Great!"], agent_of(output_type), between=answering(answer))
    assert (done.rows[0]["status"], done.rows[0]["output"]) == ("completed", expected)


@pytest.mark.parametrize(
    ("output_type", "answer", "error"),
    [
        (NativeOutput(Review), text("{}"), "the agent does not take the answer: Field required at mood"),
        (NativeOutput(Review), text("no JSON"), "the agent does not take the answer: Invalid JSON"),
        (
            Review,
            call("final_result", {"mood": 7}),
            "the agent does not take the answer: Input should be a valid string",
        ),
        (Review, text("I would rather talk"), "the agent does not take the answer"),
        (Review, call("unheard_of", {}), "the agent does not take the answer"),
    ],
)
def test_an_answer_that_the_agent_does_not_take(live, claude, output_type, answer, error):
    """Fails as invalid output and is kept raw; the batch's other rows are not touched."""
    done = live(claude, ["a", "b"], agent_of(output_type), between=answering(answer))
    for row in done.rows:
        assert (row["status"], row["reason"], row["output"]) == ("failed", "invalid_output", None)
        assert row["error"]["message"].startswith(error)
        kept = row["raw_output"] or row["tool_calls"]
        assert kept


@pytest.mark.parametrize(
    ("sent", "read"),
    [(b"A\x01B", "A\x01B"), (b"A\xffB", "A\ufffdB"), (b'A","odd":NaN,"b":"', "A")],
    ids=["control", "utf8", "nan"],
)
@pytest.mark.parametrize("agent", [agent_of(str), None], ids=["agent", "messages"])
def test_an_answer_that_is_json_but_for_some_characters(live, claude, agent, sent, read):
    """Is read as the core reads it, and stops no other."""

    def change(request, response):
        if request.url.path.endswith("/results"):
            good, *others = [msgspec.json.decode(line) for line in response.content.splitlines()]
            good["result"]["message"]["content"] = text("odd")
            lines = [msgspec.json.encode(good).replace(b'"odd"', b'"' + sent + b'"'), *map(msgspec.json.encode, others)]
            answer_with(response, b"\n".join(lines))

    done = live(
        claude, [{"prompt": ["Great!"]}, {"prompt": ["Bad."]}], agent, between=lambda runtime: through(runtime, change)
    )
    assert [row["status"] for row in done.rows] == ["completed"] * 2
    assert read in [row["output"] for row in done.rows]
    if agent is None:
        assert read in [row["model_response"]["parts"][0]["content"] for row in done.rows]


def test_the_agent_s_own_functions_judge(live, claude, caplog):
    """A validator that wants a retry fails the row, since a batch is one turn; one that breaks does so for its row."""
    agent = agent_of(NativeOutput(Review))

    @agent.output_validator
    def judge(output: Review) -> Review:
        if output.score == 1:
            raise ModelRetry("one star is not enough")
        if output.score == 2:
            raise KeyError("two")
        return output

    def rows(score):
        done = live(claude, ["a"], agent, between=answering(text({"mood": "x", "score": score})))
        return done.rows[0]

    assert rows(1)["error"]["message"] == "the agent does not take the answer: one star is not enough"
    broken = rows(2)
    assert (broken["reason"], broken["raw_output"]) == ("invalid_output", '{"mood": "x", "score": 2}')
    assert broken["error"]["message"] == "the agent fails with KeyError: 'two'"
    assert "The agent fails with an answer" in caplog.text
    assert rows(3)["status"] == "completed"


def test_what_a_model_says_runs_nothing_in_the_worker(live, claude):
    """A tool whose result the agent would go on with is no answer; its function is not called."""
    called = []
    agent = agent_of([Review, str])

    @agent.tool_plain
    def look_up(name: str) -> str:
        """Look up a customer."""
        called.append(name)
        return "x"

    done = live(claude, ["a"], agent, between=answering(text("Let me see") + call("look_up", {"name": "rm"})))
    assert [tool["name"] for tool in done.bodies[0]["tools"]] == ["look_up", "final_result"]
    (row,) = done.rows
    assert (row["status"], row["reason"]) == ("failed", "invalid_output")
    assert row["error"]["message"] == (
        "the model called look_up and wants the result, which would be another turn; a batch is one"
    )
    assert row["tool_calls"] == [{"id": "toolu_1", "name": "look_up", "arguments": {"name": "rm"}}]
    answer = call("look_up", {"name": "rm"}) + call("final_result", GOOD)
    both = live(claude, ["a"], agent, between=answering(answer)).rows[0]
    assert (both["status"], both["output"]) == ("completed", {"mood": "good", "score": 4})
    assert called == []


def test_calls_of_tools_may_be_the_output(live, claude):
    """Where the agent says so, as pydantic-ai has it for tools that others run."""
    tools = ExternalToolset([ToolDefinition(name="refund", parameters_json_schema={"type": "object"})])
    agent = agent_of([str, DeferredToolRequests], toolsets=[tools])
    done = live(claude, ["a"], agent, between=answering(call("refund", {"order": 7})))
    assert done.rows[0]["status"] == "completed"
    assert done.rows[0]["output"]["calls"][0]["args"] == {"order": 7}


def test_instructions_that_are_functions_and_settings(live, claude):
    """Are in each request; limits of the task and of a row stand above the agent's own."""
    agent = Agent(output_type=str, model_settings={"max_tokens": 9, "temperature": 0.5})

    @agent.instructions
    def judge(context: RunContext[None]) -> str:
        return f"Judge: {context.prompt}"

    first, second = live(claude, ["a", {"prompt": "b", "max_tokens": 8}], agent, max_tokens=None).bodies
    assert (first["max_tokens"], first["temperature"], second["max_tokens"]) == (9, 0.5, 8)
    assert [body["system"][-1]["text"] for body in (first, second)] == ["Judge: a", "Judge: b"]


def test_a_conversation_goes_on(live, claude):
    """Rows with messages are what the agent goes on with."""
    messages = [ModelRequest(parts=[UserPromptPart("Great!")])]
    (body,) = live(claude, [{"messages": messages}], agent_of(str)).bodies
    assert "Great!" in json.dumps(body["messages"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x", "system": "Be brief"}, "row 0: the agent has the system prompt, the tools and the output"),
        ({"prompt": "x", "model_request_parameters": {}}, "row 0: the agent has the system prompt"),
        ({"body": {"x": 1}}, "row 0 needs exactly one of prompt, messages and body"),
        ({"messages": [{"role": "user", "content": "x"}]}, "row 0 is not what pydantic-ai takes"),
        ({"prompt": 7}, "row 0 is not what pydantic-ai takes"),
        ("", "row 0 is not what pydantic-ai takes: the prompt is empty"),
    ],
)
def test_rows_that_an_agent_cannot_ask(rich_runtime, claude, row, message):
    """Are named before anything is sent."""
    with rich_runtime(claude, agent_of()) as runtime, pytest.raises(InvalidRequestError, match=message):
        create_batch(runtime, [row], defaults=defaults_of(claude))


def test_an_agent_whose_own_functions_fail(rich_runtime, claude):
    """Tells the row."""
    agent = agent_of()

    @agent.instructions
    def broken() -> str:
        raise LookupError("nothing there")

    with rich_runtime(claude, agent) as runtime, pytest.raises(InvalidRequestError, match="row 0 .*nothing there"):
        create_batch(runtime, ["x"], defaults=defaults_of(claude))


def test_the_same_agent_asks_the_same(rich_runtime, provider):
    """A retry compares what it would ask with what was asked: run ids and times make no difference, the agent does."""

    def fingerprint(agent):
        with rich_runtime(provider, agent) as runtime:
            return fingerprint_rows(runtime, ["a", ["b", PNG]], defaults=defaults_of(provider))

    assert fingerprint(agent_of()) == fingerprint(agent_of())
    assert fingerprint(agent_of()) != fingerprint(agent_of(str))


def test_a_round_asks_again_as_it_was(rich_runtime, emulator, claude):
    """What is repeated is the spooled bytes, whatever became of the agent."""
    from airflow_raif.domain.rounds import RoundPolicy
    from airflow_raif.emulator.faults import RowFault
    from airflow_raif.services.advance import advance_batch

    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    with rich_runtime(claude, agent_of()) as runtime:
        batch = create_batch(
            runtime, ["a", "b"], defaults=defaults_of(claude), round_policy=RoundPolicy(2, False, None, 0)
        )
        submit_batch(runtime, batch.batch_id)
        fetch_batch_status(runtime, batch.batch_id)
        batch = advance_batch(runtime, batch.batch_id)
        first, second = (b"".join(runtime.spooled_part(batch, part).blocks()) for part in batch.parts)
        assert second in first
        fetch_batch_status(runtime, batch.batch_id)
        batch = advance_batch(runtime, batch.batch_id)
        assert runtime.store.count_entries(batch).completed == 2


def test_answers_of_an_agent_that_is_not_here_are_kept(rich_runtime, emulator, tmp_path, claude):
    """Whoever lacks the agent brings the results into the spool and says so; with its path anybody can read them."""
    with rich_runtime(claude, agent_of()) as runtime:
        batch = create_batch(runtime, ["a"], defaults=defaults_of(claude))
        submit_batch(runtime, batch.batch_id)
        fetch_batch_status(runtime, batch.batch_id)
        with closing(RichCodec()) as other:
            with pytest.raises(ConfigurationError, match="only its own DAG has.*give the agent's dotted path"):
                fetch_batch_results(dataclasses.replace(runtime, codec=other), batch.batch_id)
            with pytest.raises(ConfigurationError, match="needs a codec"):
                fetch_batch_results(dataclasses.replace(runtime, codec=None), batch.batch_id)
        downloads = emulator.state.requests["anthropic.batches.results"]
        assert downloads > 0
        assert "part-00000.results.jsonl" in runtime.folder(batch.batch_id).names()
        batch = fetch_batch_results(runtime, batch.batch_id)
        assert emulator.state.requests["anthropic.batches.results"] == downloads
        batch = apply_results(runtime, batch.batch_id, folder(tmp_path / "out"))
    assert read_rows(batch.result_uri)[0]["status"] == "completed"


def test_an_answer_that_is_refused_once_it_was_taken(rich_runtime, tmp_path, claude, caplog):
    """Since the agent was changed meanwhile: its row failed, as one that is refused at once, and that is told."""
    agent, words = agent_of(str), []

    @agent.output_validator
    def judge(output: str) -> str:
        words.append(output)
        if len(words) > 2 and output == words[0]:
            raise ModelRetry("not any more")
        return output

    with rich_runtime(claude, agent) as runtime:
        batch = create_batch(runtime, ["a", "b"], defaults=defaults_of(claude))
        submit_batch(runtime, batch.batch_id)
        fetch_batch_status(runtime, batch.batch_id)
        fetch_batch_results(runtime, batch.batch_id)
        batch = apply_results(runtime, batch.batch_id, folder(tmp_path / "out"))
    refused, taken = sorted(read_rows(batch.result_uri), key=lambda row: row["status"], reverse=True)
    assert (refused["status"], refused["reason"], refused["output"]) == ("failed", "invalid_output", None)
    assert refused["raw_output"] == words[0]
    assert refused["error"]["message"] == "the agent does not take the answer: not any more"
    assert (taken["status"], taken["error"]) == ("completed", None)
    assert "1 answers that were completed when they were fetched are refused now" in caplog.text


reviewer = agent_of()


def test_an_agent_s_path_is_kept_with_the_batch(rich_runtime, tmp_path, claude):
    """So that another process reads the answers."""
    with rich_runtime(claude, f"{__name__}:reviewer") as runtime:
        batch = create_batch(runtime, ["a"], defaults=defaults_of(claude))
        submit_batch(runtime, batch.batch_id)
        fetch_batch_status(runtime, batch.batch_id)
        with closing(RichCodec()) as other:
            fetch_batch_results(dataclasses.replace(runtime, codec=other), batch.batch_id)
            batch = apply_results(dataclasses.replace(runtime, codec=other), batch.batch_id, folder(tmp_path / "out"))
    assert set(read_rows(batch.result_uri)[0]["output"]) == {"mood", "score"}


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("nowhere:agent", "there is no agent at 'nowhere:agent'"),
        (f"{__name__}:nothing", "there is no agent at"),
        (f"{__name__}:GOOD", "is a dict; give a pydantic-ai Agent"),
        (Agent(deps_type=Review), "the agent has deps_type=Review, and a batch has no dependencies"),
    ],
)
def test_what_is_no_agent_for_a_batch(rich_runtime, claude, agent, message):
    """Is told before anything is sent."""
    with rich_runtime(claude, agent) as runtime, pytest.raises(ConfigurationError, match=message):
        create_batch(runtime, ["a"], defaults=defaults_of(claude))


def test_models_of_agents():
    """Their own name what is sent where; those without batches are told."""
    from airflow_raif.rich.models import agent_model, make_model

    need_pydantic_ai("anthropic")
    named = Agent("google-gla:gemini-2.5-flash", defer_model_check=True)
    assert agent_model(named) == "gemini:gemini-2.5-flash"
    own = make_model("anthropic", MODELS["anthropic"])
    assert agent_model(Agent(own)) == "anthropic:claude-haiku-4-5"
    with pytest.raises(ConfigurationError, match="the agent has no model of its own"):
        agent_model(Agent())
    with pytest.raises(ConfigurationError, match="name its provider"):
        agent_model(Agent("gpt-5-nano", defer_model_check=True))
