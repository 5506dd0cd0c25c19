"""One output schema as each provider's strict structured output takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_raif.domain.errors import InvalidBatchError

_MAX_DEPTH = 50
#: Keywords that no strict mode enforces; answers are validated against them after the fetch.
_UNENFORCED = frozenset(("$schema", "$id", "$comment", "default", "examples", "deprecated", "readOnly", "writeOnly"))
#: https://platform.openai.com/docs/guides/structured-outputs: some restrictions on types are not supported.
_NOT_FOR_ANTHROPIC = frozenset(
    ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "maxItems",
     "uniqueItems", "minProperties", "maxProperties", "minItems", "pattern")
)  # fmt: skip
_REFUSED = ("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties", "propertyNames")


def openai_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema for OpenAI's strict mode: closed objects, every property required.

    A property that is not required becomes nullable, which is how strict mode expresses it.

    :raises InvalidBatchError: the schema cannot be expressed; names the place and the remedy.
    """
    if schema.get("type") != "object" or "anyOf" in schema:
        raise InvalidBatchError(
            "OpenAI wants an object at the root of the output schema; wrap it: {'type': 'object', 'properties':"
            " {'answer': ...}, 'required': ['answer']}"
        )
    return _walk(schema, "OpenAI", "#", _openai_object, _UNENFORCED, 0)


def anthropic_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema for Anthropic's structured output: closed objects, ranges left to the validation after the fetch.

    :raises InvalidBatchError: the schema cannot be expressed; names the place and the remedy.
    """
    return _walk(schema, "Anthropic", "#", lambda each, _: each, _UNENFORCED | _NOT_FOR_ANTHROPIC, 0)


def gemini_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema for Gemini's ``responseJsonSchema``, which takes JSON schema nearly as it is.

    :raises InvalidBatchError: the schema cannot be expressed; names the place and the remedy.
    """
    return _walk(schema, "Gemini", "#", lambda each, _: each, _UNENFORCED, 0)


def _openai_object(schema: dict[str, Any], _path: str) -> dict[str, Any]:
    required = set(schema.get("required", ()))
    properties = {
        name: each if name in required else _nullable(each) for name, each in schema.get("properties", {}).items()
    }
    return {**schema, "properties": properties, "required": list(properties)}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind):
        return schema
    if isinstance(kind, str) and "enum" not in schema and "const" not in schema:
        return {**schema, "type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _walk(schema: Any, provider: str, path: str, on_object: Any, dropped: frozenset[str], depth: int) -> dict[str, Any]:
    """Copy a schema, closing its objects and dropping what only a validation can enforce."""
    if not isinstance(schema, Mapping):
        raise InvalidBatchError(f"{provider} cannot take {schema!r:.40} at {path} of the output schema; give a schema")
    if depth > _MAX_DEPTH:
        raise InvalidBatchError(f"the output schema is nested deeper than {_MAX_DEPTH} levels at {path}; flatten it")
    _check_keywords(schema, provider, path)

    def walk(each: Any, step: str) -> dict[str, Any]:
        return _walk(each, provider, f"{path}/{step}", on_object, dropped, depth + 1)

    result: dict[str, Any] = {}
    for name, value in schema.items():
        if name in dropped or name == "additionalProperties":
            continue
        key = "anyOf" if name == "oneOf" else name
        if name in ("properties", "$defs", "definitions"):
            result[key] = {each: walk(inner, f"{name}/{each}") for each, inner in value.items()}
        elif name in ("anyOf", "oneOf", "allOf", "prefixItems"):
            result[key] = [walk(inner, f"{name}/{number}") for number, inner in enumerate(value)]
        elif name == "items":
            result[key] = walk(value, name)
        else:
            result[key] = value
    if result.get("type") == "object" or "properties" in result:
        result["additionalProperties"] = False
        return dict(on_object(result, path))
    return result


def _check_keywords(schema: Mapping[str, Any], provider: str, path: str) -> None:
    for keyword in _REFUSED:
        if keyword in schema:
            raise InvalidBatchError(
                f"{provider} cannot take {keyword!r} at {path} of the output schema; leave it out and check it yourself"
            )
    extra = schema.get("additionalProperties", False)
    if extra is not False:
        raise InvalidBatchError(
            f"{provider} cannot take additionalProperties={extra!r:.40} at {path} of the output schema: strict output"
            " has named properties only; use a list of {'key', 'value'} objects for a map"
        )
