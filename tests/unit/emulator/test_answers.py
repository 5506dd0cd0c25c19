"""Emulated answers: valid by their schema, and always the same for the same request."""

from __future__ import annotations

import jsonschema
import msgspec
import pytest

from airflow_raif.emulator.answers import Draw, SchemaAnswers, make_vector, pack_vector, seed_of
from airflow_raif.emulator.compose import Composer
from airflow_raif.emulator.schema_rules import anthropic_problem, openai_problem

SCHEMAS = [
    {"type": "string"},
    {"type": "string", "minLength": 50, "maxLength": 60},
    {"type": "string", "format": "date-time"},
    {"type": "integer", "minimum": 3, "maximum": 4},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6, "multipleOf": 5},
    {"type": "integer", "maximum": -5},
    {"type": "number", "minimum": 0.5, "maximum": 0.6},
    {"type": "number", "multipleOf": 0.5, "minimum": 1, "maximum": 3},
    {"type": "number", "exclusiveMinimum": 0},
    {"type": "boolean"},
    {"type": "null"},
    {"const": [1, "x"]},
    {"enum": ["a", 2, None]},
    {"type": ["string", "null"]},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    {"oneOf": [{"type": "null"}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"required": ["b"]},
               {"allOf": [{"$ref": "#/$defs/c"}]}],
     "$defs": {"c": {"properties": {"c": {"type": "string"}}, "required": ["c"]}}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 5},
    {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 3},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
    {"properties": {"x": {"type": "string"}}, "required": ["x", "y"]},
    {"type": "object", "properties": {"deep/er": {"$ref": "#/$defs/a~1b"}}, "$defs": {"a/b": {"type": "boolean"}}},
    {"$ref": "#/$defs/node",
     "$defs": {"node": {"type": "object", "properties": {
         "value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
         "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "required": ["value"]}}},
    {},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS)
def test_answers_are_valid(schema):
    """Many seeds, one schema: every answer is valid, and equal seeds give equal answers."""
    answers, raw = SchemaAnswers(), msgspec.json.encode(schema)
    for seed in range(40):
        value = answers.answer(raw, Draw(seed))
        jsonschema.validate(value, schema)
        assert answers.answer(raw, Draw(seed)) == value


def test_answers_keep_limits_that_the_description_tells_of():
    """As a model does: where a provider's schemas have no ranges, an SDK tells of them in words."""
    words = {"s": "Stars, of {all}.\n\n{minimum: 1, maximum: 5}", "n": "{exclusiveMinimum: -0.5, maximum: 0}"}
    kinds = {"s": "integer", "n": "number", "t": "array"}
    schema = {
        "type": "object",
        "properties": {name: {"type": kind, "description": words.get(name, "{maxItems: 1}")}
                       for name, kind in kinds.items()},
        "required": list(kinds),
    }  # fmt: skip
    answers, raw = SchemaAnswers(), msgspec.json.encode(schema)
    for seed in range(40):
        value = answers.answer(raw, Draw(seed))
        assert 1 <= value["s"] <= 5
        assert -0.5 < value["n"] <= 0
        assert len(value["t"]) == 1


def test_answers_depend_on_the_request():
    """Other bytes, another answer; the same bytes, the same one, in another process too."""
    composer = Composer()
    assert composer.compose(b"one") == composer.compose(b"one")
    assert composer.compose(b"one").text != composer.compose(b"two").text
    assert seed_of(b"one") == 2053932785


def test_tokens_follow_the_text():
    """A limit cuts the answer; long requests are partly cached; reasoning is counted apart."""
    composer = Composer()
    cut = composer.compose(b"x", max_tokens=2)
    assert (cut.stop, cut.output_tokens, len(cut.text)) == ("length", 2, 8)
    long = composer.compose(b"x" * 10_000, reasons=True)
    assert 0 < long.cached_tokens < long.input_tokens
    assert long.reasoning_tokens > 0
    assert composer.compose(b"x").cached_tokens == 0


def test_vectors():
    """The asked dimensions, about unit length, the same for the same text."""
    vector = make_vector(7, 64)
    assert vector == make_vector(7, 64)
    assert vector != make_vector(8, 64)
    assert 0.2 < sum(x * x for x in vector) < 4
    assert len(pack_vector(vector)) == 4 * 86


@pytest.mark.parametrize(
    ("schema", "openai", "anthropic"),
    [
        ({"type": "array"}, "must be a JSON Schema of 'type: \"object\"'", None),
        ({"type": "object", "properties": {}}, "additionalProperties", "additionalProperties"),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
            "'a' is missing",
            None,
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "integer", "minimum": 1}},
                "required": ["a"],
                "additionalProperties": False,
            },
            None,
            "'minimum' is not supported",
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "array", "minItems": 2, "items": {"allOf": [{}]}}},
                "required": ["a"],
                "additionalProperties": False,
            },
            "'allOf' is not permitted",
            "'minItems' values other than 0 or 1",
        ),
    ],
)
def test_what_strict_modes_refuse(schema, openai, anthropic):
    """The documented limits of the providers' structured outputs."""
    raw = msgspec.json.encode(schema)
    for expected, found in ((openai, openai_problem(raw)), (anthropic, anthropic_problem(raw))):
        if expected is None:
            assert found is None
        else:
            assert expected in found
