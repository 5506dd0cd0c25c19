"""Rows with pydantic-ai's messages and files: as they are sent, and as their answers come back."""

from __future__ import annotations

import json

import msgspec
import pytest

from airflow_raif.domain.errors import ConfigurationError, InvalidRequestError
from airflow_raif.domain.request import EntryRequest
from airflow_raif.services.create import create_batch
from airflow_raif.services.fingerprint import fingerprint_rows
from tests.support import ANSWER, answer_with, defaults_of, need_pydantic_ai, through

pytest.importorskip("pydantic_ai.models.batch", reason="pydantic-ai 2.68 or later is not installed")

from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.batch import BatchRequest
from pydantic_ai.native_tools import WebSearchTool
from pydantic_ai.tools import ToolDefinition

PNG = BinaryContent(bytes.fromhex("89504e470d0a1a0a"), media_type="image/png")
PDF = BinaryContent(b"%PDF-1.7", media_type="application/pdf")
IN_BASE64 = "iVBORw0KGgo="
WEATHER = ToolDefinition(
    name="weather", parameters_json_schema={"type": "object", "properties": {"city": {"type": "string"}}}
)
TOOLS = ModelRequestParameters(function_tools=[WEATHER], allow_text_output=False)


def conversation():
    """A history with a tool call whose id and times pydantic-ai makes up anew each time."""
    call = ToolCallPart("weather", {"city": "Oslo"})
    return [
        ModelRequest(parts=[SystemPromptPart("Be brief"), UserPromptPart(["Weather here?", PNG])]),
        ModelResponse(parts=[TextPart("Let me see"), call]),
        ModelRequest(parts=[ToolReturnPart("weather", "rain", tool_call_id=call.tool_call_id)]),
    ]


def test_files_reach_the_provider_as_its_own_parts(provider, live):
    """An image, a document and a text of one prompt; the answer comes back with the row's own columns."""
    done = live(provider, [{"custom_id": "a", "prompt": ["What is it?", PNG, PDF], "shop": "Oslo"}])
    sent = json.dumps(done.bodies[0])
    assert "What is it?" in sent
    assert IN_BASE64 in sent
    assert "JVBERi0xLjc=" in sent
    (row,) = done.rows
    assert (row["custom_id"], row["shop"], row["status"]) == ("a", "Oslo", "completed")
    assert row["cost"]["batch"] > 0
    (response,) = ModelMessagesTypeAdapter.validate_python([row["model_response"]])
    assert response.text == row["output"]


def test_settings_of_a_row_are_sent(provider, live):
    """Thinking and limits, of the row or of its batch, a system prompt, and native parameters last."""
    native = {"generationConfig": {"topK": 5}} if provider == "gemini" else {"top_k": 5}
    rows = [
        {"prompt": "Think!", "model_settings": {"thinking": "low", "max_tokens": 3000}, "system": "Be kind"},
        {"prompt": ["Quick"], "params": native, "max_tokens": 7},
    ]
    first, second = live(provider, rows, system="Be brief", max_tokens=2000).bodies
    thinking = {
        "openai": lambda body: body["reasoning"]["effort"] == "low",
        "anthropic": lambda body: body["thinking"]["type"] == "enabled",
        "gemini": lambda body: body["generationConfig"]["thinkingConfig"]["include_thoughts"],
    }[provider]
    assert thinking(first)
    assert "Be kind" in json.dumps(first)
    assert "Be brief" not in json.dumps(first)
    assert "Be brief" in json.dumps(second)
    assert (second.get("top_k") or second["generationConfig"]["topK"]) == 5
    assert (limit_of(first), limit_of(second)) == (3000, 7)


def limit_of(body):
    config = body.get("generationConfig", {})
    return body.get("max_output_tokens") or body.get("max_tokens") or config["maxOutputTokens"]


def test_a_tool_that_the_model_calls(provider, live):
    """Its definition goes out; the call comes back, and is no text."""
    done = live(provider, [{"prompt": "Weather in Oslo?", "model_request_parameters": TOOLS}])
    assert "weather" in json.dumps(done.bodies[0]["tools"])
    (row,) = done.rows
    assert row["status"] == "completed"
    assert row["output"] is None
    assert [call["name"] for call in row["tool_calls"]] == ["weather"]
    assert row["model_response"]["parts"][0]["tool_name"] == "weather"


def test_answers_follow_the_batch_s_schema(provider, live):
    """``output_type`` holds for rich rows as for others: asked for strictly, and parsed."""
    done = live(provider, [{"prompt": ["Sum up", PNG]}, "Sum up 2"], output_schema=ANSWER)
    for row in done.rows:
        assert set(row["output"]) == {"summary", "category"}
    assert "model_response" in done.rows[0]
    assert "model_response" not in done.rows[1]


def test_text_rows_beside_rich_ones_are_written_by_the_core(provider, live, rich_runtime):
    """A batch may have both, in any order, and the text rows are the same bytes as without the others."""
    rich = {"prompt": ["Look", PNG]}
    mixed = live(provider, ["one", rich, "two", rich, rich, "three"])
    assert [row["status"] for row in mixed.rows] == ["completed"] * 6
    assert ["model_response" in row for row in mixed.rows] == [False, True, False, True, True, False]
    assert mixed.bodies[0] == live(provider, ["one"]).bodies[0]


@pytest.mark.parametrize("form", ["objects", "JSON", "text", "BatchRequest"])
def test_each_form_of_a_conversation_is_the_same_request(provider, rich_runtime, form):
    """Objects, their JSON as it comes from XCom or a file, and pydantic-ai's own request; times do not count."""

    def rows():
        given = conversation()
        if form == "BatchRequest":
            return [BatchRequest(custom_id="a", messages=given, model_request_parameters=TOOLS)]
        if form == "JSON":
            given = msgspec.json.decode(ModelMessagesTypeAdapter.dump_json(given))
        elif form == "text":
            given = ModelMessagesTypeAdapter.dump_json(given).decode()
        return [{"custom_id": "a", "messages": given, "model_request_parameters": TOOLS}]

    def plain():
        return [{"custom_id": "a", "messages": conversation(), "model_request_parameters": TOOLS}]

    with rich_runtime(provider) as runtime:
        expected = fingerprint_rows(runtime, plain(), defaults=defaults_of(provider))
        assert fingerprint_rows(runtime, rows(), defaults=defaults_of(provider)) == expected
        batch = create_batch(runtime, rows(), defaults=defaults_of(provider))
        assert batch.fingerprint == expected
        changed = rows()
        target = changed[0].messages if form == "BatchRequest" else None
        if target is not None:
            target[0].parts[0].content = "Be long"
        else:
            changed = [{"custom_id": "a", "messages": conversation()[:1], "model_request_parameters": TOOLS}]
        assert fingerprint_rows(runtime, changed, defaults=defaults_of(provider)) != expected


def test_files_in_json_form(provider, live):
    """A prompt from a JSONL file holds files in base64."""
    row = {"prompt": ["What is it?", {"kind": "binary", "data": IN_BASE64, "media_type": "image/png"}]}
    assert live(provider, [row]).bodies == live(provider, [{"prompt": ["What is it?", PNG]}]).bodies


def test_thinking_comes_back_in_the_model_s_response(live):
    """What only pydantic-ai reads of an answer is in the row, too."""
    need_pydantic_ai("anthropic")

    def change(request, response):
        if request.url.path.endswith("/results"):
            row = msgspec.json.decode(response.content)
            thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
            row["result"]["message"]["content"].insert(0, thought)
            answer_with(response, msgspec.json.encode(row))

    done = live("anthropic", [{"prompt": ["Look", PNG]}], between=lambda runtime: through(runtime, change))
    (row,) = done.rows
    assert [part["part_kind"] for part in row["model_response"]["parts"]] == ["thinking", "text"]
    assert row["output"] == row["model_response"]["parts"][1]["content"]


def test_an_answer_that_pydantic_ai_cannot_read(live, caplog):
    """Is complete all the same: the core could."""
    need_pydantic_ai("anthropic")

    def change(request, response):
        if request.url.path.endswith("/results"):
            row = msgspec.json.decode(response.content)
            row["result"]["message"]["usage"]["input_tokens"] = "many"
            answer_with(response, msgspec.json.encode(row))

    done = live("anthropic", [{"prompt": ["Look", PNG]}], between=lambda runtime: through(runtime, change))
    assert (done.rows[0]["status"], done.rows[0]["model_response"]) == ("completed", None)
    assert "pydantic-ai cannot read an answer" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": []}, "row 1 is not what pydantic-ai takes: the prompt is empty"),
        ({"prompt": [7]}, "row 1 is not what pydantic-ai takes: Input should be"),
        ({"prompt": [{"kind": "binary", "data": "?"}]}, "row 1 is not what pydantic-ai takes"),
        ({"messages": [{"kind": "request", "parts": "?"}]}, "row 1 is not what pydantic-ai takes"),
        ({"messages": "[{]"}, "row 1 is not what pydantic-ai takes"),
        ({"messages": [ModelResponse(parts=[TextPart("x")])]}, "the last of the messages is to be a ModelRequest"),
        ({"messages": conversation(), "prompt": "x"}, "row 1 needs exactly one of prompt, messages and body"),
        ({"body": {"x": 1}, "model_settings": {}}, "row 1 needs exactly one of prompt, messages and body"),
        ({"prompt": "x", "model_settings": "high"}, "row 1 has the model_settings 'high'; give a mapping"),
        ({"prompt": "x", "model_settings": {"timeout": 3}}, "row 1 cannot be sent, says pydantic-ai: .*timeout"),
        ({"prompt": "x", "model_settings": {}, "model_response": 1}, "row 1 has a column named 'model_response'"),
        ({"prompt": "x", "model_settings": {}, "max_tokens": "?"}, "row 1 has the max_tokens '\\?'"),
        ({"prompt": ["x", {"kind": "image-url", "url": "http://localhost/x.png", "force_download": "allow-local"}]},
         "force_download='allow-local' is not taken"),
        ({"prompt": ["x", ImageUrl("http://127.0.0.1:9/x.png", force_download=True)]}, "row 1 cannot be sent"),
        ({"prompt": [BinaryContent(b"x", media_type="application/x-unknown")]}, "row 1 cannot be sent"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_sent(rich_runtime, emulator, row, message):
    """Are named with what is wrong before anything is sent."""
    need_pydantic_ai("openai")
    with rich_runtime("openai") as runtime:
        with pytest.raises(InvalidRequestError, match=message) as caught:
            create_batch(runtime, [{"prompt": ["fine"]}, row], defaults=defaults_of("openai"))
        assert caught.value.row == 1
        assert not runtime.spool.names()
    assert sum(emulator.state.creates.values()) == 0


def test_features_that_need_a_header(live):
    """Anthropic's beta features are turned on by a header of the whole batch, which is the connection's."""
    need_pydantic_ai("anthropic")
    row = {"prompt": "x", "model_settings": {"anthropic_betas": ["new-thing-2026-01-01"]}}
    with pytest.raises(InvalidRequestError, match="row 0: .*add the header anthropic-beta: new-thing-2026-01-01 to"):
        live("anthropic", [row])
    headers = {"anthropic-beta": "other, new-thing-2026-01-01"}
    assert live("anthropic", [row], settings={"headers": headers}).rows[0]["status"] == "completed"


def test_other_endpoints(rich_runtime):
    """Only a provider's main endpoint is pydantic-ai's."""
    need_pydantic_ai("openai")
    with (
        rich_runtime("openai") as runtime,
        pytest.raises(ConfigurationError, match="go to openai's /v1/responses, not to /v1/embeddings"),
    ):
        create_batch(
            runtime, [{"prompt": ["x"]}], defaults=defaults_of("openai", endpoint="/v1/embeddings", max_tokens=None)
        )


def test_native_tools_of_a_row_are_known_when_its_answer_is_read(live, store):
    """What the row itself set is kept beside its columns, and is no column of the result."""
    need_pydantic_ai("openai")
    own = ModelRequestParameters(native_tools=[WebSearchTool()])
    done = live("openai", [{"prompt": "News?", "model_request_parameters": own, "shelf": 3}])
    assert done.bodies[0]["tools"][0]["type"] == "web_search"
    (row,) = done.rows
    assert (row["shelf"], row["status"]) == (3, "completed")
    assert set(row) == {
        "custom_id", "shelf", "status", "reason", "output", "raw_output", "tool_calls", "error", "model",
        "finish_reason", "usage", "cost", "model_response",
    }  # fmt: skip


def test_a_request_that_a_function_made(provider, live):
    """A prompt_template's EntryRequest with plain text is none of the rich form."""
    done = live(provider, [EntryRequest(prompt="x", columns={"n": 1})])
    assert "model_response" not in done.rows[0]
