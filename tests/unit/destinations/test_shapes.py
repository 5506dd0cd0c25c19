"""What a JSON schema says of a column, and how values are fitted to it."""

from __future__ import annotations

import datetime
import enum
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa
import pytest
from pydantic import BaseModel

from airflow_raif.destinations.shapes import Shape, shape_of_schema


class Colour(enum.IntEnum):
    """Named numbers."""

    RED = 1
    BLUE = 2


class Leaf(BaseModel):
    """Shared by others."""

    name: str


class Tree(BaseModel):
    """Refers to itself."""

    name: str
    children: list[Tree]


class Answer(BaseModel):
    """A bit of everything."""

    text: str
    word: Literal["a", "b"] | None = None
    number: int | float
    colour: Colour
    day: datetime.date
    price: Decimal
    either: int | str
    leaf: Leaf | None
    leaves: list[Leaf]
    tags: set[str]
    pair: tuple[int, str]
    free: dict[str, int]
    anything: Any
    tree: Tree
    vectors: list[list[float]]


def test_a_model():
    """Fields that are one thing have its type; those that are several, or have no named fields, are JSON text."""
    leaf = pa.struct([("name", pa.string())])
    kind = shape_of_schema(Answer.model_json_schema()).arrow_type(pa)
    assert {field.name: field.type for field in kind} == {
        "text": pa.string(),
        "word": pa.string(),
        "number": pa.float64(),
        "colour": pa.int64(),
        "day": pa.string(),
        "price": pa.string(),
        "either": pa.string(),
        "leaf": leaf,
        "leaves": pa.list_(leaf),
        "tags": pa.list_(pa.string()),
        "pair": pa.string(),
        "free": pa.string(),
        "anything": pa.string(),
        "tree": pa.struct([("name", pa.string()), ("children", pa.list_(pa.string()))]),
        "vectors": pa.list_(pa.list_(pa.float64())),
    }


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "integer"}, "integer"),
        ({"type": ["string", "null"]}, "string"),
        ({"type": ["string", "integer"]}, "json"),
        ({"enum": ["a", None]}, "string"),
        ({"enum": [1, 2.5]}, "number"),
        ({"enum": ["a", 1]}, "json"),
        ({"const": True}, "boolean"),
        ({"enum": [{"a": 1}]}, "json"),
        ({"allOf": [{"type": "string"}]}, "string"),
        ({"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}, "array"),
        ({"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "string"}]}, "json"),
        ({"type": "array"}, "json"),
        ({"type": "object"}, "json"),
        ({"properties": {"a": {"type": "string"}}}, "object"),
        ({"$ref": "#/$defs/gone"}, "json"),
        ({"$ref": "https://example.com/schema"}, "json"),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "number"}}}, "number"),
        ({"$ref": "#"}, "json"),
        ({}, "json"),
        (True, "json"),
    ],
)
def test_schemas(schema, kind):
    """Also odd ones have a shape that holds whatever follows them."""
    assert shape_of_schema(schema).kind == kind


def test_values_of_several_types_can_be_read_back():
    """A text among them is a JSON text, too."""
    shape = shape_of_schema({"type": ["string", "integer"]})
    assert [shape.fit(value) for value in ("a", 1, None)] == ['"a"', "1", None]


@pytest.mark.parametrize(("kind", "value"), [("integer", 1.0), ("number", 1), ("money", 0.1)])
def test_numbers_as_json_has_them(kind, value):
    """JSON does not tell an integer from a number that has no fraction, nor a decimal from a double."""
    assert Shape(kind).fit(value) == pa.scalar(Shape(kind).fit(value), Shape(kind).arrow_type(pa)).as_py()
    assert Shape("money").fit(0.1) == Decimal("0.1")


@pytest.mark.parametrize(
    ("kind", "value"), [("integer", 1.5), ("integer", True), ("integer", "1"), ("string", 1), ("boolean", 1)]
)
def test_values_of_another_shape(kind, value):
    """Are none that is cut or guessed at."""
    with pytest.raises(TypeError, match=f"it is no {kind}"):
        Shape(kind).fit(value)
