"""What an answer's text means."""

from __future__ import annotations

import json

import pytest

from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.services.output import InvalidOutputError, make_parser

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "stars": {"type": "integer"}, "note": {"type": ["string", "null"]}},
    "required": ["title", "note"],
}


def test_without_a_schema_the_text_is_the_value():
    """No schema: text."""
    assert make_parser(None)('{"a": 1}') == '{"a": 1}'


def test_with_a_schema_the_value_is_parsed_and_checked():
    """A valid answer is its JSON."""
    assert make_parser(SCHEMA)('{"title": "x", "stars": 3, "note": null}') == {"title": "x", "stars": 3, "note": None}


def test_null_for_an_optional_property_means_that_it_is_absent():
    """OpenAI's strict mode sends null for what may be missing; a null that the schema has stays."""
    assert make_parser(SCHEMA)('{"title": "x", "stars": null, "note": null}') == {"title": "x", "note": None}


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_null_for_an_optional_property_of_one_of_several_schemas(keyword):
    """As a model's ``Address | None`` has it, or one of several models, also in each other."""
    text = {"type": "string"}
    address = {"type": "object", "properties": {"street": text, "zip": text}, "required": ["street"]}
    box = {"type": "object", "properties": {"box": {"type": "integer"}, "note": text}, "required": ["box"]}
    deep = {"type": "object", "properties": {"of": {keyword: [box, address]}}, "required": ["of"]}
    schema = {"type": "object", "properties": {"to": {keyword: [deep, box, address, {"type": "null"}]}}}
    for given, read in [
        ({"street": "x", "zip": None}, {"street": "x"}),
        ({"box": 5, "note": None}, {"box": 5}),
        ({"of": {"street": "x", "zip": None}}, {"of": {"street": "x"}}),
        (None, None),
    ]:
        assert make_parser(schema)(json.dumps({"to": given})) == {"to": read}
    with pytest.raises(InvalidOutputError, match="at to"):
        make_parser(schema)('{"to": {"street": 5, "zip": null}}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{broken", "the answer is not JSON"),
        ("[]", "at its root"),
        ('{"title": 5, "note": null}', "at title"),
        ('{"title": null, "stars": null, "note": null}', "at"),
        ('{"stars": 1, "note": null}', '"title" is a required property'),
    ],
)
def test_wrong_answers_say_where(text, message):
    """An answer that does not follow the schema names the place."""
    with pytest.raises(InvalidOutputError, match=message):
        make_parser(SCHEMA)(text)


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "https://elsewhere.example/x.json"}, "text", []])
def test_wrong_schemas(schema):
    """What is no schema, or would have to be fetched, is refused."""
    with pytest.raises(InvalidBatchError, match="schema"):
        make_parser(schema)
