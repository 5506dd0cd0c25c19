"""What strict structured output of each provider takes of a schema, what is left to us, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from airflow_raif.adapters.schemas import anthropic_schema, gemini_schema, openai_schema, strict_schema
from airflow_raif.domain.errors import InvalidBatchError

PROVIDERS = ("openai", "anthropic", "gemini")


class Node(BaseModel):
    value: int
    children: list[Node] = []


class Ring(BaseModel):
    after: Ring


def of(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), **more}


def text(**more: Any) -> dict[str, Any]:
    return of({"t": {"type": "string", **more}})


@pytest.mark.parametrize(
    ("keywords", "kept"),
    [
        ({"minLength": 1, "maxLength": 9}, {"openai": set(), "anthropic": set(), "gemini": set()}),
        ({"pattern": "a+"}, {"openai": {"pattern"}, "anthropic": set(), "gemini": set()}),
        ({"pattern": "a(?=b)"}, {"openai": set(), "anthropic": set(), "gemini": set()}),
        ({"format": "date"}, {"openai": {"format"}, "anthropic": {"format"}, "gemini": {"format"}}),
        ({"format": "uri"}, {"openai": set(), "anthropic": {"format"}, "gemini": set()}),
        ({"format": "uuid"}, {"openai": {"format"}, "anthropic": {"format"}, "gemini": set()}),
    ],
)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_a_provider_does_not_enforce_is_left_out(provider, keywords, kept):
    """It is validated after the fetch; what it does enforce goes along."""
    found = strict_schema(provider, text(**keywords))["properties"]["t"]
    assert set(found) - {"type", "description"} == kept[provider]


def test_the_model_is_told_of_limits_that_are_not_enforced():
    """In the description, as those do that Anthropic's SDK makes; it would answer on a scale of its own otherwise."""
    stars = {"type": "integer", "minimum": 1, "maximum": 5, "description": "How good it is."}
    words = of({"s": stars, "t": {"type": "array", "items": {"type": "string"}, "minItems": 0, "maxItems": 3}})
    found = anthropic_schema(words)["properties"]
    assert found["s"] == {"type": "integer", "description": "How good it is.\n\n{minimum: 1, maximum: 5}"}
    assert found["t"]["description"] == "{minItems: 0, maxItems: 3}"
    assert openai_schema(words)["properties"]["s"] == stars
    assert openai_schema(text(maxLength=9, default="x"))["properties"]["t"]["description"] == "{maxLength: 9}"
    assert "description" not in openai_schema(text(default="x"))["properties"]["t"]


def test_a_constant_is_an_enum_with_gemini():
    """Which knows no const."""
    assert gemini_schema(text(const="x"))["properties"]["t"] == {"type": "string", "enum": ["x"]}
    assert anthropic_schema(text(const="x"))["properties"]["t"]["const"] == "x"


def test_maps():
    """Gemini takes them; the others want names."""
    schema = of({"m": {"type": "object", "additionalProperties": {"type": "integer", "exclusiveMinimum": 1}}})
    assert gemini_schema(schema)["properties"]["m"]["additionalProperties"] == {
        "type": "integer",
        "description": "{exclusiveMinimum: 1}",
    }
    for convert in (openai_schema, anthropic_schema):
        with pytest.raises(InvalidBatchError, match="at #/properties/m of the output schema.*'key', 'value'"):
            convert(schema)


def test_schemas_that_hold_themselves():
    """OpenAI takes them, Gemini in what may be left out, Anthropic not at all."""
    schema = Node.model_json_schema()
    assert openai_schema(schema)["type"] == "object"
    assert gemini_schema(schema)["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    with pytest.raises(InvalidBatchError, match="holds itself .*Node.*Anthropic does not take"):
        anthropic_schema(schema)
    with pytest.raises(InvalidBatchError, match="holds itself .* in a required property"):
        gemini_schema(Ring.model_json_schema())


def test_a_ref_stands_alone():
    """Providers refuse it beside a description; a schema made of one other is that one."""
    schema = of({"n": {"$ref": "#/$defs/N", "description": "d"}, "o": {"allOf": [{"$ref": "#/$defs/N"}]}})
    schema["$defs"] = {"N": of({"v": {"type": "integer"}})}
    for provider in PROVIDERS:
        found = strict_schema(provider, schema)["properties"]
        assert found == {"n": {"$ref": "#/$defs/N"}, "o": {"$ref": "#/$defs/N"}}


@pytest.mark.parametrize(
    ("provider", "schema", "message"),
    [
        ("openai", of({"t": {}}), "a value of any type at #/properties/t"),
        ("anthropic", of({"t": {"title": "T"}}), "a value of any type at #/properties/t"),
        ("openai", of({"t": {"type": "array"}}), "a list without items at #/properties/t"),
        ("openai", of({"t": {"type": "array", "prefixItems": [{"type": "string"}]}}), "fixed items"),
        ("openai", of({"t": {"allOf": [{"type": "string"}, {"type": "null"}]}}), "'allOf' of several schemas at"),
        ("gemini", of({"t": {"allOf": [{"type": "string"}, {"type": "null"}]}}), "'allOf' of several schemas at"),
        (
            "openai",
            of({"t": {"$ref": "#/$defs/N", "properties": {"b": text()}, "required": ["b"]}}) | {"$defs": {"N": of({})}},
            "'properties' beside a \\$ref at #/properties/t",
        ),
        (
            "gemini",
            of({"t": {"allOf": [{"$ref": "#/$defs/N"}], "required": ["b"]}}) | {"$defs": {"N": of({})}},
            "'required' beside a \\$ref at #/properties/t",
        ),
        (
            "anthropic",
            {**of({"a": text()}), "allOf": [of({"b": text()})]},
            "'properties' both beside and in 'allOf' at #",
        ),
        ("gemini", of({"t": {"$ref": "https://example.com/s"}}), "the \\$ref 'https://example.com/s' at"),
        ("openai", {"$ref": "#/$defs/Gone"}, "cannot find '#/\\$defs/Gone', the root"),
        ("openai", {**text(), "oneOf": [text()]}, "wants an object at the root"),
        (
            "openai",
            of({f"p{n}": {"type": "string"} for n in range(5001)}),
            "has 5,001 properties, and OpenAI takes 5,000",
        ),
        ("openai", of({"e": {"enum": [str(n) for n in range(1001)]}}), "has 1,001 enum values"),
        ("openai", of({"e": {"enum": ["x" * 100 + str(n) for n in range(251)]}}), "an enum of 251 values with"),
        ("openai", of({"x" * 120_001: {"type": "string"}}), "characters of names and values"),
        (
            "anthropic",
            {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(25)}},
            "25 optional",
        ),
        ("anthropic", of({f"p{n}": {"type": ["string", "null"]} for n in range(17)}), "17 properties of several types"),
    ],
)
def test_schemas_that_a_provider_cannot_express(provider, schema, message):
    """The limit or the place is named."""
    with pytest.raises(InvalidBatchError, match=message):
        strict_schema(provider, schema)


def test_objects_in_objects():
    """Ten levels are OpenAI's limit."""
    schema = {"type": "string"}
    for _ in range(10):
        schema = of({"inner": schema})
    assert openai_schema(schema)
    with pytest.raises(InvalidBatchError, match="has 11 levels of nested objects, and OpenAI takes 10"):
        openai_schema(of({"inner": schema}))


def test_optional_properties_of_others_count_with_others():
    """Anthropic was not seen to count those of definitions."""
    schema = of({"n": {"$ref": "#/$defs/N"}})
    schema["$defs"] = {"N": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(25)}}}
    assert anthropic_schema(schema)


def test_a_provider_that_is_not_known_here_takes_a_schema_as_it_is():
    """Its adapter knows better."""
    assert strict_schema("acme", {"not": {}}) == {"not": {}}
