"""How large and how deep an output schema may be with each provider. Counts as the providers were seen to count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from airflow_raif.domain.errors import InvalidBatchError

#: https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
_OPENAI_LEVELS, _OPENAI_PROPERTIES, _OPENAI_ENUM_VALUES = 10, 5000, 1000
_OPENAI_CHARACTERS, _OPENAI_LARGE_ENUM, _OPENAI_ENUM_CHARACTERS = 120_000, 250, 15_000
#: https://docs.anthropic.com/en/docs/build-with-claude/structured-outputs#schema-complexity-limits
_ANTHROPIC_OPTIONAL, _ANTHROPIC_UNIONS = 24, 16
_DEFINITIONS = ("$defs", "definitions")


def check_limits(schema: Mapping[str, Any], provider: str) -> None:
    """See that a schema, as it is sent, is within a provider's limits.

    :raises InvalidBatchError: it is not; names the limit.
    """
    problem = _PROBLEMS[provider](schema)
    if problem is not None:
        raise InvalidBatchError(f"the output schema {problem}; divide it, or leave something out")


def _openai_problem(schema: Mapping[str, Any]) -> str | None:
    nodes = list(_nodes(schema))
    properties = sum(len(node.get("properties", ())) for node, _ in nodes)
    values = [value for node, _ in nodes for value in node.get("enum", ())]
    names = [name for node, _ in nodes for key in ("properties", *_DEFINITIONS) for name in node.get(key, ())]
    texts = [*names, *values, *(node["const"] for node, _ in nodes if "const" in node)]
    counts = (
        ("levels of nested objects", max(level for _, level in nodes), _OPENAI_LEVELS),
        ("properties", properties, _OPENAI_PROPERTIES),
        ("enum values", len(values), _OPENAI_ENUM_VALUES),
        ("characters of names and values", _characters(texts), _OPENAI_CHARACTERS),
    )
    for what, count, limit in counts:
        if count > limit:
            return f"has {count:,} {what}, and OpenAI takes {limit:,}"
    for node, _ in nodes:
        enum = node.get("enum", ())
        if len(enum) > _OPENAI_LARGE_ENUM and (count := _characters(enum)) > _OPENAI_ENUM_CHARACTERS:
            most = f"{_OPENAI_ENUM_CHARACTERS:,}"
            return f"has an enum of {len(enum):,} values with {count:,} characters, and OpenAI takes {most}"
    return None


def _anthropic_problem(schema: Mapping[str, Any]) -> str | None:
    if name := _recursive(schema):
        return f"holds itself ({name}), which Anthropic does not take"
    optional = unions = 0
    # Definitions were not seen to count.
    for node, _ in _nodes({name: value for name, value in schema.items() if name not in _DEFINITIONS}):
        for name, each in node.get("properties", {}).items():
            optional += name not in node.get("required", ())
            unions += "anyOf" in each or isinstance(each.get("type"), list)
    if optional > _ANTHROPIC_OPTIONAL:
        return f"has {optional} optional properties, and Anthropic takes {_ANTHROPIC_OPTIONAL}"
    if unions > _ANTHROPIC_UNIONS:
        return f"has {unions} properties of several types, and Anthropic takes {_ANTHROPIC_UNIONS}"
    return None


def _gemini_problem(schema: Mapping[str, Any]) -> str | None:
    # https://ai.google.dev/api/generate-content#FIELDS.response_json_schema
    if name := _recursive(_required(schema)):
        return f"holds itself ({name}) in a required property, and Gemini takes that only in one that may be left out"
    return None


_PROBLEMS = {"OpenAI": _openai_problem, "Anthropic": _anthropic_problem, "Gemini": _gemini_problem}


def _required(schema: Any) -> Any:
    """Return a schema without the properties that may be left out."""
    if isinstance(schema, list):
        return [_required(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = {name: _required(each) for name, each in schema.items() if name != "properties"}
    if "properties" in schema:
        needed = schema.get("required", ())
        kept["properties"] = {name: _required(each) for name, each in schema["properties"].items() if name in needed}
    return kept


def _nodes(schema: Mapping[str, Any], level: int = 0) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Yield every schema in a schema with its level of objects; each definition begins at the top."""
    level += "properties" in schema
    yield schema, level
    for name in ("properties", *_DEFINITIONS):
        for each in schema.get(name, {}).values():
            yield from _nodes(each, level if name == "properties" else 0)
    for name in ("anyOf", "prefixItems"):
        for each in schema.get(name, ()):
            yield from _nodes(each, level)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            yield from _nodes(schema[name], level)


def _recursive(schema: Mapping[str, Any]) -> str | None:
    """Return a definition from which refs lead back to it; ``None``: there is none."""
    definitions = {f"#/{key}/{name}": each for key in _DEFINITIONS for name, each in schema.get(key, {}).items()}
    whole = {name: value for name, value in schema.items() if name not in _DEFINITIONS}
    leads = {name: {node["$ref"] for node, _ in _nodes(each) if "$ref" in node} for name, each in definitions.items()}
    leads["#"] = {node["$ref"] for node, _ in _nodes(whole) if "$ref" in node}
    for start in leads:
        seen: set[str] = set()
        ahead = set(leads[start])
        while ahead:
            name = ahead.pop()
            if name == start:
                return start
            if name not in seen:
                seen.add(name)
                ahead |= leads.get(name, set())
    return None


def _characters(values: Any) -> int:
    return sum(len(value) for value in values if isinstance(value, str))
