"""What the providers' strict structured outputs refuse in a JSON schema, as they document it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import msgspec

#: https://docs.anthropic.com/en/docs/build-with-claude/structured-outputs#json-schema-limitations
_ANTHROPIC_REFUSED = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "maxItems",
)  # fmt: skip
#: https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
_OPENAI_REFUSED = ("allOf", "not", "dependentRequired", "dependentSchemas", "if", "then", "else", "oneOf")


#: All rows of a batch tend to have one schema.
_once = functools.lru_cache(maxsize=256)


def _word(name: str) -> str:
    head, *rest = name.split("_")
    return f"${name}" if name in ("defs", "ref") else head + "".join(map(str.title, rest))


class _Shape(msgspec.Struct, rename=_word):
    """What has to be of a certain type in any schema, at any depth."""

    defs: dict[str, _Shape | bool] = {}
    definitions: dict[str, _Shape | bool] = {}
    properties: dict[str, _Shape | bool] = {}
    required: list[str] = []
    additional_properties: _Shape | bool = True
    items: _Shape | bool | list[_Shape | bool] = True
    prefix_items: list[_Shape | bool] = []
    any_of: list[_Shape | bool] = []
    one_of: list[_Shape | bool] = []
    all_of: list[_Shape | bool] = []
    enum: list[Any] = []
    type: str | list[str] = ""
    ref: str = ""
    minimum: float = 0
    maximum: float = 0
    multiple_of: float = 1
    # Numbers of things are texts in Google's own schemas.
    min_items: int | str = 0
    max_items: int | str = 0
    min_length: int | str = 0
    max_length: int | str = 0
    min_properties: int | str = 0


_decode_shape = msgspec.json.Decoder(_Shape | bool).decode


@_once
def malformed(raw: bytes) -> str | None:
    """Return why a text is no JSON schema at all, or ``None``."""
    try:
        _decode_shape(raw)
    except msgspec.DecodeError as exc:
        return str(exc)
    return None


def _objects(schema: Any, path: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(schema, dict):
        return
    yield path, schema
    for group in ("properties", "$defs", "definitions"):
        for name, value in (schema.get(group) or {}).items():
            yield from _objects(value, f"{path}/{group}/{name}")
    for key in ("items", "additionalProperties"):
        yield from _objects(schema.get(key), f"{path}/{key}")
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for number, value in enumerate(schema.get(key) or ()):
            yield from _objects(value, f"{path}/{key}/{number}")


def _closed(path: str, schema: dict[str, Any]) -> str | None:
    is_object = schema.get("type") == "object" or "properties" in schema
    if is_object and schema.get("additionalProperties") is not False:
        return f"{path}: 'additionalProperties' is required to be supplied and to be false"
    return None


@_once
def openai_problem(raw: bytes) -> str | None:
    """Return why OpenAI's strict mode refuses a schema, or ``None``."""
    root = msgspec.json.decode(raw)
    if not isinstance(root, dict) or root.get("type") != "object":
        return "schema must be a JSON Schema of 'type: \"object\"'"
    for path, schema in _objects(root):
        if problem := _closed(path, schema):
            return problem
        missing = [name for name in schema.get("properties", {}) if name not in schema.get("required", ())]
        if missing:
            return f"{path}: 'required' must include every key in properties; {missing[0]!r} is missing"
        refused = [word for word in _OPENAI_REFUSED if word in schema]
        if refused:
            return f"{path}: {refused[0]!r} is not permitted"
    return None


@_once
def anthropic_problem(raw: bytes) -> str | None:
    """Return why Anthropic's structured outputs refuse a schema, or ``None``."""
    for path, schema in _objects(msgspec.json.decode(raw)):
        if problem := _closed(path, schema):
            return problem
        refused = [word for word in _ANTHROPIC_REFUSED if word in schema]
        if refused:
            return f"{path}: property {refused[0]!r} is not supported"
        if schema.get("minItems", 0) not in (0, 1):
            return f"{path}: 'minItems' values other than 0 or 1 are not supported"
    return None
