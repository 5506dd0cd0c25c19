"""Native bodies from the text form, defaults, schemas, limits of what each provider takes."""

from __future__ import annotations

import json

import pytest

from airflow_raif.adapters.base import ConnectionSettings
from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.adapters.registry import ADAPTERS, adapter_class, make_adapter, register_adapter, split_model
from airflow_raif.adapters.schemas import anthropic_schema, gemini_schema, openai_schema
from airflow_raif.domain.errors import ConfigurationError, InvalidBatchError, InvalidRequestError
from airflow_raif.domain.request import EntryRequest, RequestDefaults
from tests.support import settings_of


def encode(provider, request, wire_id="w-1", **defaults):
    adapter = make_adapter(settings_of(provider, "http://127.0.0.1:1"))
    defaults.setdefault("model", "m")
    return json.loads(adapter.make_encoder(RequestDefaults(**defaults))(request, wire_id))


MESSAGES = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]


def test_openai_responses():
    """The default endpoint."""
    line = encode(
        "openai", EntryRequest(prompt="hi"), system="S", max_tokens=5, temperature=0.5, params={"store": False}
    )
    assert (line["custom_id"], line["method"], line["url"]) == ("w-1", "POST", "/v1/responses")
    body = line["body"]
    assert (body["model"], body["instructions"], body["max_output_tokens"]) == ("m", "S", 5)
    assert (body["temperature"], body["store"]) == (0.5, False)
    own = encode("openai", EntryRequest(messages=MESSAGES, model="other", system="mine", max_tokens=7, temperature=0))
    assert (own["body"]["model"], own["body"]["max_output_tokens"], own["body"]["temperature"]) == ("other", 7, 0)
    assert [each["content"] for each in own["body"]["input"]][-3:] == ["a", "b", "c"]


def test_openai_chat():
    """The older endpoint: system prompt as a message, a limit that reasoning models take."""
    line = encode(
        "openai", EntryRequest(prompt="hi"), endpoint="/v1/chat/completions", system="S", max_tokens=5, temperature=1,
        output_schema={"type": "object", "properties": {}},
    )  # fmt: skip
    body = line["body"]
    assert [(each["role"], each["content"]) for each in body["messages"]] == [("system", "S"), ("user", "hi")]
    assert body["max_completion_tokens"] == 5
    assert body["response_format"]["json_schema"]["strict"] is True


PROMPTS = ["hi", "x" * 3000, 'a "quoted" one\\', "line\nline\r\t", "\u2028 \x00 ü 🦋", '{"custom_id":"w-2"}', "%s{0}"]


@pytest.mark.parametrize(
    ("provider", "endpoint"),
    [("openai", "/v1/responses"), ("openai", "/v1/chat/completions"), ("anthropic", ""), ("gemini", "")],
)
@pytest.mark.parametrize("params", [None, {"top_p": 0.5}, {"messages": [], "input": [], "contents": []}])
def test_a_prompt_alone_is_sent_as_one_that_repeats_the_defaults(provider, endpoint, params):
    """Most rows are nothing but a prompt; what is written faster for them is the same, byte by byte."""
    adapter = make_adapter(settings_of(provider, "http://127.0.0.1:1"))
    schema = {"type": "object", "properties": {"hi": {"type": "string"}}, "required": ["hi"]}
    defaults = RequestDefaults(
        model="m", endpoint=endpoint, system="hi", max_tokens=5, temperature=0.5, output_schema=schema, params=params
    )
    write = adapter.make_encoder(defaults)
    for number, prompt in enumerate(PROMPTS):
        alone = write(EntryRequest(prompt=prompt), f"w-{number}")
        assert alone == write(EntryRequest(prompt=prompt, max_tokens=5), f"w-{number}")
        # Params that take the prompt's place win.
        assert json.dumps(prompt) in json.dumps(json.loads(alone)) or "input" in (params or {})


def test_openai_embeddings():
    """One text a row, or native inputs; what embeddings do not take is refused."""
    line = encode("openai", EntryRequest(prompt="hi"), endpoint="/v1/embeddings", params={"dimensions": 8})
    assert line["body"] == {"model": "m", "input": "hi", "dimensions": 8}
    adapter = make_adapter(settings_of("openai", "http://127.0.0.1:1"))
    assert adapter.count_embedding_inputs(EntryRequest(prompt="hi")) == 1
    for given, count in (("one", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2]], 2)):
        assert adapter.count_embedding_inputs(EntryRequest(body={"input": given})) == count
    with pytest.raises(InvalidBatchError, match="neither a system prompt nor an output schema"):
        encode("openai", EntryRequest(prompt="x"), endpoint="/v1/embeddings", system="S")
    with pytest.raises(InvalidRequestError, match="prompt"):
        encode("openai", EntryRequest(messages=MESSAGES), endpoint="/v1/embeddings")
    with pytest.raises(InvalidRequestError, match="embeddings take no system prompt"):
        encode("openai", EntryRequest(prompt="x", system="S"), endpoint="/v1/embeddings")


def test_anthropic():
    """System apart, a limit always, structured output in the configuration."""
    line = encode(
        "anthropic", EntryRequest(messages=MESSAGES, params={"top_k": 3}), system="D", max_tokens=5, temperature=0.2,
        output_schema={"type": "object", "properties": {"a": {"type": "string"}}},
        params={"metadata": {"user_id": "u"}},
    )  # fmt: skip
    params = line["params"]
    assert params["system"] == "D\n\nS"
    assert [each["role"] for each in params["messages"]] == ["user", "assistant", "user"]
    assert params["output_config"]["format"]["schema"]["additionalProperties"] is False
    assert (params["max_tokens"], params["temperature"], params["top_k"]) == (5, 0.2, 3)
    assert params["metadata"] == {"user_id": "u"}
    with pytest.raises(InvalidRequestError, match="Anthropic wants max_tokens with every request"):
        encode("anthropic", EntryRequest(prompt="x"))


def test_gemini():
    """Roles and camel case of Google; config only where there is one."""
    line = encode("gemini", EntryRequest(messages=MESSAGES), max_tokens=5, temperature=0.2,
                  params={"generationConfig": {"topK": 3}, "labels": {"a": "b"}})  # fmt: skip
    body = line["request"]
    assert line["key"] == "w-1"
    assert [(each["role"], each["parts"]) for each in body["contents"]] == [
        ("user", [{"text": "a"}]), ("model", [{"text": "b"}]), ("user", [{"text": "c"}]),
    ]  # fmt: skip
    assert body["systemInstruction"] == {"parts": [{"text": "S"}]}
    assert body["generationConfig"] == {"maxOutputTokens": 5, "temperature": 0.2, "topK": 3}
    assert encode("gemini", EntryRequest(prompt="x"))["request"].keys() == {"contents"}


@pytest.mark.parametrize(("given", "sent"), [(500, 1200), (1200, None)])
@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("openai", ["body", "max_output_tokens"]),
        ("anthropic", ["params", "max_tokens"]),
        ("gemini", ["request", "generationConfig", "maxOutputTokens"]),
        ("gemini", ["request", "generation_config", "max_output_tokens"]),
    ],
)
def test_a_higher_limit_takes_the_place_of_the_one_that_is_there(provider, path, given, sent):
    """By whatever name; one that is as high stays."""
    adapter = make_adapter(settings_of(provider, "http://127.0.0.1:1"))

    def line(limit):
        for name in reversed(path):
            limit = {name: limit}
        return limit

    found = adapter.with_max_tokens(json.dumps(line(given)).encode(), adapter.endpoints[0], 1200)
    assert (found and json.loads(found)) == (sent and line(sent))


def test_gemini_embeddings():
    """One text a row; what embeddings do not take is refused."""
    line = encode("gemini", EntryRequest(prompt="x"), endpoint="asyncBatchEmbedContent", model="models/e")
    assert line["request"] == {"model": "models/e", "content": {"parts": [{"text": "x"}]}}
    with pytest.raises(InvalidBatchError, match="neither a system prompt nor an output schema"):
        encode("gemini", EntryRequest(prompt="x"), endpoint="asyncBatchEmbedContent", output_schema={"type": "object"})
    with pytest.raises(InvalidRequestError, match="embeddings take a prompt"):
        encode("gemini", EntryRequest(messages=MESSAGES), endpoint="asyncBatchEmbedContent")
    with pytest.raises(InvalidRequestError, match="embeddings take no system prompt"):
        encode("gemini", EntryRequest(prompt="x", system="S"), endpoint="asyncBatchEmbedContent")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (EntryRequest(), "neither prompt nor messages nor body"),
        (EntryRequest(prompt="a", body={}), "prompt and body"),
        (EntryRequest(prompt=""), "the prompt is ''"),
        (EntryRequest(body="x"), "the body is a str"),
        (EntryRequest(messages=[]), "messages is empty"),
        (EntryRequest(messages=["x"]), "message 0 has no role"),
        (EntryRequest(messages=[{"role": "user", "content": [{"type": "image"}]}]), "native body"),
        (EntryRequest(prompt="x", params={"when": object()}), "cannot be written as JSON"),
        (EntryRequest(prompt="\ud800"), "UTF-8"),
    ],
)
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_requests_that_cannot_be_sent(provider, request_, message):
    """Each mistake is told in one sentence."""
    with pytest.raises(InvalidRequestError, match=message):
        encode(provider, request_, max_tokens=5)


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"temperature": 1.2}, "a temperature from 0 to 1, not 1.2"),
        ({"params": {"temperature": -1}}, "a temperature from 0 to 1, not -1"),
        ({"params": {"thinking": {"type": "enabled", "budget_tokens": 1000}}}, "1,024 tokens of thinking or more"),
        ({"params": {"thinking": {"type": "enabled", "budget_tokens": 3000}}}, "not 3,000 of 3,000"),
        (
            {"temperature": 0, "params": {"thinking": {"type": "enabled", "budget_tokens": 2000}}},
            "no temperature of 0 beside thinking",
        ),
    ],
)
def test_what_anthropic_refuses_of_every_row_is_told_before_it_is_sent(defaults, message):
    """A batch would run for hours to say so."""
    with pytest.raises(InvalidRequestError, match=message):
        encode("anthropic", EntryRequest(prompt="x"), max_tokens=3000, **defaults)


def test_what_anthropic_takes():
    """Both ends of the temperature, thinking less than the limit, more than it with tools, and as much as it needs."""
    for temperature in (0, 1):
        assert encode("anthropic", EntryRequest(prompt="x"), max_tokens=1, temperature=temperature)
    enabled = {"type": "enabled", "budget_tokens": 2999}
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    for params in (
        {"thinking": enabled},
        {"thinking": {**enabled, "budget_tokens": 4000}, "tools": tools},
        {"thinking": {"type": "adaptive"}},
    ):
        assert encode("anthropic", EntryRequest(prompt="x"), max_tokens=3000, params=params)


def test_the_least_limit_of_openai_s_responses():
    """Its batch would fail row by row hours later; another server that speaks as it does may take less."""
    request = EntryRequest(prompt="Yes or no?")
    own = make_adapter(ConnectionSettings(provider="openai", api_key="k"))
    for limit, endpoint in ((16, "/v1/responses"), (None, "/v1/responses"), (5, "/v1/chat/completions")):
        assert own.make_encoder(RequestDefaults(model="m", max_tokens=limit, endpoint=endpoint))(request, "w-1")
    with pytest.raises(InvalidRequestError, match="takes max_tokens from 16 on, not 15; raise it, or use /v1/chat"):
        own.make_encoder(RequestDefaults(model="m", max_tokens=15))(request, "w-1")
    assert encode("openai", request, max_tokens=15)["body"]["max_output_tokens"] == 15


CLOSED = {"type": "object", "additionalProperties": False}


def test_openai_schema_is_strict():
    """Closed objects, every property required, what may be missing nullable, annotations dropped."""
    schema = {
        "type": "object", "title": "T", "$schema": "x",
        "properties": {
            "a": {"type": "string", "default": "d"}, "b": {"type": ["integer", "null"]}, "c": {"enum": [1, 2]},
            "d": {"oneOf": [{"type": "string"}, {"$ref": "#/$defs/e"}]}, "f": {"type": "null"},
            "g": {"type": "array", "items": {"type": "object", "properties": {"h": {"type": "string"}}}},
        },
        "required": ["a", "d"],
        "$defs": {"e": {"type": "object", "properties": {}, "additionalProperties": False}},
    }  # fmt: skip
    found = openai_schema(schema)
    assert found["required"] == ["a", "b", "c", "d", "f", "g"]
    assert found["properties"]["a"] == {"type": "string"}
    assert found["properties"]["b"] == {"type": ["integer", "null"]}
    assert found["properties"]["c"] == {"anyOf": [{"enum": [1, 2]}, {"type": "null"}]}
    assert found["properties"]["d"]["anyOf"][1] == {"$ref": "#/$defs/e"}
    assert found["properties"]["f"] == {"type": "null"}
    assert found["properties"]["g"]["type"] == ["array", "null"]
    assert found["properties"]["g"]["items"]["required"] == ["h"]
    assert found["$defs"]["e"]["additionalProperties"] is False
    assert "$schema" not in found
    assert "additionalProperties" not in schema


def test_anthropic_schema_leaves_ranges_to_the_validation():
    """What Anthropic cannot enforce is told to the model, and checked after the fetch."""
    schema = {**CLOSED, "properties": {"a": {"type": "integer", "minimum": 1, "description": "d"}}}
    assert anthropic_schema(schema)["properties"]["a"] == {"type": "integer", "description": "d\n\n{minimum: 1}"}


def test_gemini_schema_is_nearly_the_same():
    """JSON schema as it is, objects closed."""
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}
    assert gemini_schema(schema) == {**schema, "additionalProperties": False}


@pytest.mark.parametrize(
    ("convert", "schema", "message"),
    [
        (openai_schema, {"type": "array"}, "OpenAI wants an object at the root"),
        (anthropic_schema, {**CLOSED, "not": {}}, "Anthropic cannot take 'not' at #"),
        (openai_schema, {"type": "object", "additionalProperties": {"type": "string"}}, "additionalProperties="),
        (gemini_schema, {"type": "object", "properties": {"a": True}}, "cannot take True at #/properties/a"),
    ],
)
def test_schemas_that_cannot_be_expressed(convert, schema, message):
    """The place and the remedy are named."""
    with pytest.raises(InvalidBatchError, match=message):
        convert(schema)


def test_schemas_nested_too_deep():
    """A schema that nests without end is refused."""
    schema: dict = {"type": "array"}
    for _ in range(60):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InvalidBatchError, match="nested deeper than 50 levels"):
        gemini_schema(schema)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-5-nano", (None, "gpt-5-nano")),
        ("openai:gpt-5-nano", ("openai", "gpt-5-nano")),
        ("google-gla:gemini-2.5-flash", ("gemini", "gemini-2.5-flash")),
        ("ft:gpt-4.1-mini:acme::abc", (None, "ft:gpt-4.1-mini:acme::abc")),
        ("openai:", (None, "openai:")),
    ],
)
def test_model_prefixes(model, expected):
    """A known provider's prefix is taken off; a fine-tuned model's colons are its own."""
    assert split_model(model) == expected


def test_registry(monkeypatch):
    """Adding a provider is one line; an unknown one is named with those known."""
    monkeypatch.setattr("airflow_raif.adapters.registry.ADAPTERS", dict(ADAPTERS))
    with pytest.raises(ConfigurationError, match="no provider is called 'acme'; known are anthropic, gemini, openai"):
        adapter_class("acme")
    register_adapter("acme", "airflow_raif.adapters.openai:OpenAIAdapter")
    assert adapter_class("acme").name == "openai"
    assert split_model("acme:big") == ("acme", "big")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_in_blocks_of_any_size(size):
    """Offsets and lines are the same however the bytes come; only line feeds end a line."""
    content = '{"a": 1}\n\n  {"b": "\u2028\x85"}\r\n \n{"c": 3}'.encode()
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    found = list(split_lines(blocks))
    assert [line for _, line in found] == [b'{"a": 1}', '{"b": "\u2028\x85"}'.encode(), b'{"c": 3}']
    assert all(content[offset : offset + len(line)] == line for offset, line in found)
    assert list(split_lines([b"", b"\n", b" "])) == []
