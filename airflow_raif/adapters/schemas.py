"""One output schema as each provider's strict structured output takes it.

What a provider cannot enforce is left out for it, told to the model in words, and validated after the fetch; what it
cannot express is refused before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_raif.adapters.schema_limits import check_limits
from airflow_raif.domain.errors import InvalidBatchError

_MAX_DEPTH = 50
#: Keywords that no strict mode enforces.
_UNENFORCED = frozenset(
    ("$schema", "$id", "$comment", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator",
     "uniqueItems", "minProperties", "maxProperties", "contains", "minContains", "maxContains", "contentEncoding",
     "contentMediaType", "minLength", "maxLength")
)  # fmt: skip
#: Limits that a model is told of where they are not enforced.
_TOLD = (
    "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
    "format", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
)  # fmt: skip
_REFUSED = (
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties", "propertyNames",
    "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_DATES = ("date-time", "time", "date")
_FORMATS = frozenset((*_DATES, "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))
_LOOKAROUNDS = ("(?=", "(?!", "(?<=", "(?<!")
_TYPED = ("type", "anyOf", "$ref", "enum", "const")
#: What makes the shape of an answer: left out, every answer would fail the validation that it was paid for.
_SHAPE = ("properties", "required", "items", "prefixItems", "anyOf", "oneOf", "enum", "const")


@dataclass(frozen=True)
class _Dialect:
    """What one provider's structured output takes."""

    name: str
    dropped: frozenset[str]
    formats: frozenset[str]
    #: Whether every property has to be required; one that is not becomes nullable.
    requires_all: bool = False
    #: Whether objects may have properties that are not named.
    has_maps: bool = False
    #: Whether every value needs a type, and every list one type of items.
    is_typed: bool = False
    has_const: bool = True


#: https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
_OPENAI = _Dialect("OpenAI", _UNENFORCED, _FORMATS, requires_all=True, is_typed=True)
#: https://docs.anthropic.com/en/docs/build-with-claude/structured-outputs#json-schema-limitations
_ANTHROPIC = _Dialect(
    "Anthropic",
    _UNENFORCED | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems",
                   "pattern"},
    _FORMATS | {"uri"},
    is_typed=True,
)  # fmt: skip
#: https://ai.google.dev/api/generate-content#FIELDS.response_json_schema
_GEMINI = _Dialect(
    "Gemini",
    _UNENFORCED | {"exclusiveMinimum", "exclusiveMaximum", "multipleOf", "pattern"},
    frozenset(_DATES),
    has_maps=True,
    has_const=False,
)


def openai_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema for OpenAI's strict mode: closed objects, every property required.

    A property that is not required becomes nullable, which is how strict mode expresses it.

    :raises InvalidBatchError: the schema cannot be expressed; names the place and the remedy.
    """
    schema = _rooted(schema, _OPENAI)
    if schema.get("type") != "object" or "anyOf" in schema or "oneOf" in schema:
        raise InvalidBatchError(
            "OpenAI wants an object at the root of the output schema; wrap it: {'type': 'object', 'properties':"
            " {'answer': ...}, 'required': ['answer']}"
        )
    return _converted(schema, _OPENAI)


def anthropic_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema for Anthropic's structured output: closed objects, ranges left to the validation after the fetch.

    :raises InvalidBatchError: the schema cannot be expressed; names the place and the remedy.
    """
    return _converted(_rooted(schema, _ANTHROPIC), _ANTHROPIC)


def gemini_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema for Gemini's ``responseJsonSchema``, which takes JSON schema nearly as it is.

    :raises InvalidBatchError: the schema cannot be expressed; names the place and the remedy.
    """
    return _converted(_rooted(schema, _GEMINI), _GEMINI)


_BY_PROVIDER = {"openai": openai_schema, "anthropic": anthropic_schema, "gemini": gemini_schema}


def strict_schema(provider: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema as a provider takes it; of a provider that is not known here, as it is.

    :raises InvalidBatchError: the schema cannot be expressed; names the place and the remedy.
    """
    convert = _BY_PROVIDER.get(provider, dict)
    return convert(schema)


def _converted(schema: Mapping[str, Any], dialect: _Dialect) -> dict[str, Any]:
    converted = _walk(schema, dialect, "#", 0)
    check_limits(converted, dialect.name)
    return converted


def _rooted(schema: Mapping[str, Any], dialect: _Dialect) -> Mapping[str, Any]:
    """Return a schema whose root is none that is defined elsewhere, as that of a model that holds itself is."""
    ref = schema.get("$ref")
    if ref is None:
        return schema
    found: Any = schema
    for step in str(ref).removeprefix("#/").split("/"):
        found = found.get(step) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise InvalidBatchError(
            f"{dialect.name} cannot find {ref!r}, the root of the output schema; define it in $defs"
        )
    return {**found, **{name: value for name, value in schema.items() if name != "$ref"}}


def _walk(schema: Any, dialect: _Dialect, path: str, depth: int) -> dict[str, Any]:
    """Copy a schema, closing its objects and dropping what only a validation can enforce."""
    if not isinstance(schema, Mapping):
        raise InvalidBatchError(
            f"{dialect.name} cannot take {schema!r:.40} at {path} of the output schema; give a schema"
        )
    if depth > _MAX_DEPTH:
        raise InvalidBatchError(f"the output schema is nested deeper than {_MAX_DEPTH} levels at {path}; flatten it")
    schema = _without_all_of(schema, dialect, path)
    _check_keywords(schema, dialect, path)

    def walk(each: Any, step: str) -> dict[str, Any]:
        return _walk(each, dialect, f"{path}/{step}", depth + 1)

    result: dict[str, Any] = {}
    left_out: dict[str, Any] = {}
    for name, value in schema.items():
        if "$ref" in schema and not name.startswith("$"):
            # Nothing may stand beside a ref, not even its description.
            continue
        if _is_dropped(name, value, dialect):
            left_out[name] = value
            continue
        if name in ("properties", "$defs", "definitions"):
            result[name] = {each: walk(inner, f"{name}/{each}") for each, inner in value.items()}
        elif name in ("anyOf", "oneOf"):
            result["anyOf"] = [walk(inner, f"{name}/{number}") for number, inner in enumerate(value)]
        elif name == "prefixItems":
            result[name] = [walk(inner, f"{name}/{number}") for number, inner in enumerate(value)]
        elif name == "items" or (name == "additionalProperties" and isinstance(value, Mapping)):
            result[name] = walk(value, name)
        elif name == "const" and not dialect.has_const:
            result["enum"] = [value]
        else:
            result[name] = value
    return _finished(_told(result, left_out), dialect)


def _told(schema: dict[str, Any], left_out: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema whose description tells of limits that it does not have, as those by Anthropic's SDK do."""
    limits = ", ".join(f"{name}: {left_out[name]}" for name in _TOLD if left_out.get(name, False) is not False)
    if not limits:
        return schema
    words = schema.get("description")
    return {**schema, "description": f"{words}\n\n{{{limits}}}" if words else f"{{{limits}}}"}


def _finished(result: dict[str, Any], dialect: _Dialect) -> dict[str, Any]:
    if result.get("type") == "object" or "properties" in result:
        result.setdefault("additionalProperties", False)
        if dialect.requires_all:
            required = set(result.get("required", ()))
            properties = {
                name: each if name in required else _nullable(each)
                for name, each in result.get("properties", {}).items()
            }
            result |= {"properties": properties, "required": list(properties)}
    return result


def _without_all_of(schema: Mapping[str, Any], dialect: _Dialect, path: str) -> Mapping[str, Any]:
    """Return a schema with what it is made of in its place, if that is one schema."""
    if "allOf" not in schema:
        return schema
    members = schema["allOf"]
    if not isinstance(members, list) or len(members) != 1 or not isinstance(members[0], Mapping):
        raise InvalidBatchError(
            f"{dialect.name} cannot take 'allOf' of several schemas at {path} of the output schema; write them as one"
        )
    for name in _SHAPE:
        if name in schema and members[0].get(name, schema[name]) != schema[name]:
            raise InvalidBatchError(
                f"{dialect.name} cannot take {name!r} both beside and in 'allOf' at {path} of the output schema;"
                " write them as one"
            )
    return {**members[0], **{name: value for name, value in schema.items() if name != "allOf"}}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind):
        return schema
    if isinstance(kind, str) and "enum" not in schema and "const" not in schema:
        return {**schema, "type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _is_dropped(name: str, value: Any, dialect: _Dialect) -> bool:
    if name in dialect.dropped or (name == "additionalProperties" and value is False):
        return True
    if name == "format":
        return value not in dialect.formats
    return name == "pattern" and any(each in str(value) for each in _LOOKAROUNDS)


def _check_keywords(schema: Mapping[str, Any], dialect: _Dialect, path: str) -> None:
    def refuse(what: str, remedy: str) -> None:
        raise InvalidBatchError(f"{dialect.name} cannot take {what} at {path} of the output schema{remedy}")

    for keyword in _REFUSED:
        if keyword in schema:
            refuse(f"{keyword!r}", "; leave it out and check it yourself")
    extra = schema.get("additionalProperties", False)
    if extra is not False and not dialect.has_maps:
        refuse(
            f"additionalProperties={extra!r:.40}",
            ": strict output has named properties only; use a list of {'key', 'value'} objects for a map",
        )
    ref = schema.get("$ref")
    if ref is not None and not str(ref).startswith("#"):
        refuse(f"the $ref {ref!r:.80}", "; copy that schema into its $defs")
    lost = next((name for name in _SHAPE if name in schema), None) if ref is not None else None
    if lost is not None:
        refuse(f"{lost!r} beside a $ref", "; write the two as one schema")
    if not dialect.is_typed:
        return
    kinds = schema.get("type")
    if "prefixItems" in schema:
        refuse("a list of fixed items (prefixItems)", "; use an object with a property for each")
    if (kinds == "array" or (isinstance(kinds, list) and "array" in kinds)) and "items" not in schema:
        refuse("a list without items", "; say what is in it")
    if not any(word in schema for word in (*_TYPED, "oneOf", "properties")):
        refuse("a value of any type", "; give it a type")
