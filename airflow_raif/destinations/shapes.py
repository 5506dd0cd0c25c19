"""Shapes of columns: what a JSON schema, or the values themselves, say of the type that a column is to have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

_encode = msgspec.json.Encoder(enc_hook=str).encode
_MAX_INTEGER = 1 << 63
_AS_IT_IS = {"boolean": bool, "integer": int, "number": float, "string": str}
_OF_PYTHON = {bool: "boolean", int: "integer", float: "number", Decimal: "number", str: "string"}


class MixedShapeError(ValueError):
    """Values of one column have no type in common."""


@dataclass(frozen=True)
class Shape:
    """The type of a column or of what is in it.

    :param kind: ``null``, ``boolean``, ``integer`` (64 bits), ``number`` (a double), ``money`` (a decimal), ``string``,
        ``json`` (any value, as JSON text), ``array`` or ``object``.
    :param item: of an array.
    :param fields: of an object; what else is in it is left out.
    """

    kind: str
    item: Shape | None = None
    fields: Mapping[str, Shape] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"array of {self.item}" if self.item is not None else self.kind

    def fit(self, value: Any) -> Any:
        """Return a value of a result file as Arrow takes it for this shape.

        :raises TypeError: it has another shape.
        """
        if value is None or type(value) is _AS_IT_IS.get(self.kind):
            return value
        if self.kind == "json":
            return _encode(value).decode()
        if self.item is not None and isinstance(value, list):
            return [self.item.fit(each) for each in value]
        if self.fields and isinstance(value, Mapping):
            return {name: shape.fit(value.get(name)) for name, shape in self.fields.items()}
        return self._fit_scalar(value)

    def _fit_scalar(self, value: Any) -> Any:
        kind = _OF_PYTHON.get(type(value))
        if kind in ("integer", "number") and self.kind == "number":
            return float(value)
        if kind in ("integer", "number") and self.kind == "money":
            # A float is written with as many digits as tell it, which are those of the file.
            return Decimal(str(value))
        if kind == "number" and self.kind == "integer" and value == int(value):
            return int(value)
        raise TypeError(f"it is no {self.kind}")

    def arrow_type(self, arrow: Any) -> Any:
        """Return the type of Arrow's."""
        if self.item is not None:
            return arrow.list_(self.item.arrow_type(arrow))
        if self.fields:
            return arrow.struct([(name, shape.arrow_type(arrow)) for name, shape in self.fields.items()])
        plain = {
            "boolean": arrow.bool_(),
            "integer": arrow.int64(),
            "number": arrow.float64(),
            "money": arrow.decimal128(24, 12),
        }
        # What holds nothing but nulls has to be something, and not every reader knows a column of nulls.
        return plain.get(self.kind, arrow.string())


NULL, BOOLEAN, INTEGER, NUMBER, MONEY, STRING, JSON = map(
    Shape, ("null", "boolean", "integer", "number", "money", "string", "json")
)

_SCALARS = {shape.kind: shape for shape in (BOOLEAN, INTEGER, NUMBER, STRING, JSON)}


def shape_of_value(value: Any) -> Shape:
    """Return the shape that a value of a result file has by itself; an object is JSON text.

    :raises MixedShapeError: the items of a list have none in common, or an integer is too large.
    """
    if value is None:
        return NULL
    if isinstance(value, list):
        item = NULL
        for each in value:
            item = merged(item, shape_of_value(each))
        return Shape("array", item)
    if type(value) is int and not -_MAX_INTEGER <= value < _MAX_INTEGER:
        raise MixedShapeError("it has more than 64 bits")
    return _SCALARS[_OF_PYTHON.get(type(value), "json")]


def merged(one: Shape, other: Shape) -> Shape:
    """Return the shape that holds the values of both.

    :raises MixedShapeError: there is none.
    """
    if one is other or one == other or other == NULL:
        return one
    if one == NULL:
        return other
    if one.item is not None and other.item is not None:
        return Shape("array", merged(one.item, other.item))
    if {one.kind, other.kind} == {"integer", "number"}:
        return NUMBER
    raise MixedShapeError(f"it is of type {other}, and before it there was {one}")


def shape_of_schema(schema: Any, root: Mapping[str, Any] | None = None, seen: frozenset[str] = frozenset()) -> Shape:
    """Return the shape of the values that follow a JSON schema.

    What may have several types, or an object whose fields are not named, is JSON text.

    :param root: the whole schema, in which references are looked up.
    """
    if not isinstance(schema, Mapping):
        return JSON
    root = schema if root is None else root
    if "$ref" in schema:
        return _shape_of_reference(schema["$ref"], root, seen)
    if len(parts := schema.get("allOf", ())) == 1 and "type" not in schema:
        return shape_of_schema(parts[0], root, seen)
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return _common([shape_of_schema(each, root, seen) for each in choices])
    if "const" in schema or "enum" in schema:
        return _common([_shape_of_constant(each) for each in schema.get("enum", [schema.get("const")])])
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return _common([shape_of_schema({**schema, "type": kind}, root, seen) for kind in kinds])
    if kinds == "array":
        return Shape("array", shape_of_schema(schema["items"], root, seen)) if "items" in schema else JSON
    if kinds == "object" or (kinds is None and "properties" in schema):
        properties = schema.get("properties") or {}
        return (
            Shape("object", fields={name: shape_of_schema(each, root, seen) for name, each in properties.items()})
            if properties
            else JSON
        )
    return Shape(kinds) if kinds in ("null", "boolean", "integer", "number", "string") else JSON


def _shape_of_reference(reference: Any, root: Mapping[str, Any], seen: frozenset[str]) -> Shape:
    """Look up ``#/$defs/Name``; what refers to itself has no end as columns."""
    if not isinstance(reference, str) or reference in seen or not reference.startswith("#/"):
        return JSON
    found: Any = root
    for step in reference[2:].split("/"):
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return shape_of_schema(found, root, seen | {reference})


def _shape_of_constant(value: Any) -> Shape:
    try:
        return shape_of_value(value)
    except MixedShapeError:
        return JSON


def _common(shapes: list[Shape]) -> Shape:
    found = NULL
    for shape in shapes:
        try:
            found = merged(found, shape)
        except MixedShapeError:
            return JSON
    return found
