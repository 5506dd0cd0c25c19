"""Deterministic answers: values that follow a JSON schema, words, vectors, and token counts from text length."""

from __future__ import annotations

import base64
import math
import re
import struct
import zlib
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec

from airflow_raif.emulator.patterns import compile_pattern

#: A generator of one value from a stream of numbers.
Generator = Callable[["Draw"], Any]

_WORDS = [
    "batch",
    "answer",
    "quiet",
    "river",
    "table",
    "seven",
    "north",
    "light",
    "copper",
    "garden",
    "signal",
    "winter",
    "paper",
    "engine",
    "harbor",
    "meadow",
    "orange",
    "window",
    "planet",
    "silver",
    "letter",
    "bridge",
    "forest",
    "marble",
    "candle",
    "thunder",
    "pocket",
    "violet",
    "anchor",
    "summer",
]
_FORMATS = {
    "date": "2026-03-14",
    "time": "09:26:53Z",
    "date-time": "2026-03-14T09:26:53Z",
    "duration": "PT5M",
    "email": "reader@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.7",
    "ipv6": "2001:db8::7",
    "uuid": "3f2b8c1e-5d47-4a6b-9c80-1e2d3f4a5b6c",
    "uri": "https://example.com/answer",
}
_MAX_DEPTH = 6
#: A limit as a description tells of it, which is where Anthropic's SDK puts those that its API does not take.
_TOLD_LIMIT = re.compile(
    r"\b(minimum|maximum|exclusiveMinimum|exclusiveMaximum|multipleOf|minItems|maxItems|minLength|maxLength)"
    r": (-?\d+(?:\.\d+)?)[,}]"
)


class Draw:
    """A small stream of numbers that depends on its seed alone."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed * 2 + 1

    def below(self, limit: int) -> int:
        """Return a number from 0 to ``limit`` - 1."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        return (self._state >> 33) % limit


def seed_of(raw: bytes) -> int:
    """Return the seed of a request: equal bytes, equal answer."""
    return zlib.crc32(raw)


def count_tokens(size: int) -> int:
    """Return plausible tokens for a text of some bytes."""
    return max(1, size // 4)


def make_text(draw: Draw, words: int = 8) -> str:
    """Return a short sentence."""
    text = " ".join(_WORDS[draw.below(len(_WORDS))] for _ in range(words))
    return text[0].upper() + text[1:] + "."


class SchemaAnswers:
    """Answers for JSON schemas; each schema is compiled once."""

    def __init__(self) -> None:
        self._generators: dict[bytes, Generator] = {}

    def answer(self, schema: bytes, draw: Draw) -> Any:
        """Return a value that is valid for a schema."""
        generator = self._generators.get(schema)
        if generator is None:
            if len(self._generators) > 256:
                self._generators.clear()
            root = msgspec.json.decode(schema)
            generator = self._generators[schema] = compile_schema(root, root)
        return generator(draw)


def compile_schema(schema: Any, root: Any, depth: int = 0) -> Generator:
    """Return a generator of values for a schema (JSON Schema, or Gemini's with types in capitals)."""
    if not isinstance(schema, dict):
        return lambda draw: make_text(draw, 3)
    if "$ref" in schema:
        return _compile_ref(schema["$ref"], root, depth)
    if "const" in schema:
        return lambda _: schema["const"]
    if schema.get("enum"):
        return lambda draw: schema["enum"][draw.below(len(schema["enum"]))]
    if "allOf" in schema:
        return compile_schema(_merge(schema, root), root, depth)
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return _compile_branches(_with_siblings(schema, key), root, depth)
    return _compile_type(schema, root, depth)


def _resolve(ref: str, root: Any) -> Any:
    target = root
    for step in ref.removeprefix("#").strip("/").split("/"):
        if step:
            target = target.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, dict) else {}
    return target


def _compile_ref(ref: str, root: Any, depth: int) -> Generator:
    if depth > _MAX_DEPTH:
        return compile_schema(_resolve(ref, root), root, depth + 1) if depth < 2 * _MAX_DEPTH else lambda _: None
    compiled: list[Generator] = []

    def generate(draw: Draw) -> Any:
        # Compiled at first use, so that a schema may refer to itself.
        if not compiled:
            compiled.append(compile_schema(_resolve(ref, root), root, depth + 1))
        return compiled[0](draw)

    return generate


def _merge(schema: dict[str, Any], root: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema["allOf"]:
        branch = _resolve(part["$ref"], root) if "$ref" in part else part
        if "allOf" in branch:
            branch = _merge(branch, root)
        for key, value in branch.items():
            if isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = {**merged[key], **value}
            elif isinstance(value, list) and isinstance(merged.get(key), list):
                merged[key] = merged[key] + value
            else:
                merged[key] = value
    return merged


def _with_siblings(schema: dict[str, Any], key: str) -> list[Any]:
    """Return the branches, each together with what the schema asks for beside them."""
    base = {name: value for name, value in schema.items() if name != key}
    if base.keys().isdisjoint(("properties", "required", "items")):
        return list(schema[key])
    return [{**base, "allOf": [branch]} for branch in schema[key] if isinstance(branch, dict)]


def _is_null(branch: Any) -> bool:
    return isinstance(branch, dict) and str(branch.get("type", "")).lower() == "null"


def _compile_branches(branches: list[Any], root: Any, depth: int) -> Generator:
    has_null = any(_is_null(branch) for branch in branches)
    if has_null and depth > _MAX_DEPTH:
        return lambda _: None
    options = [compile_schema(branch, root, depth + 1) for branch in branches if not _is_null(branch)]
    if not options:
        return lambda _: None

    def generate(draw: Draw) -> Any:
        if has_null and draw.below(4) == 0:
            return None
        return options[draw.below(len(options))](draw)

    return generate


def _with_told_limits(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with the limits that its description tells of, as a model has read them."""
    _, brace, words = str(schema.get("description", "")).rpartition("{")
    told = {name: msgspec.json.decode(number) for name, number in _TOLD_LIMIT.findall(brace and words)}
    return {**told, **schema} if told else schema


def _compile_type(schema: dict[str, Any], root: Any, depth: int) -> Generator:
    schema = _with_told_limits(schema)
    kind = schema.get("type")
    if isinstance(kind, list):
        return _compile_branches([{**schema, "type": one} for one in kind], root, depth)
    kind = str(kind or ("object" if "properties" in schema else "array" if "items" in schema else "string")).lower()
    if kind == "object":
        return _compile_object(schema, root, depth)
    if kind == "array":
        return _compile_array(schema, root, depth)
    if kind == "boolean":
        return lambda draw: draw.below(2) == 1
    if kind == "null":
        return lambda _: None
    if kind == "integer":
        return _compile_integer(schema)
    if kind == "number":
        return _compile_number(schema)
    return _compile_string(schema)


def _compile_object(schema: dict[str, Any], root: Any, depth: int) -> Generator:
    required = set(schema.get("required", ()))
    properties: dict[str, Any] = schema.get("properties", {})
    fields = [
        (name, compile_schema(value, root, depth + 1))
        for name, value in properties.items()
        if depth <= _MAX_DEPTH or name in required
    ]
    others = schema.get("additionalProperties")
    fields += [(name, compile_schema(others or {}, root, depth + 1)) for name in sorted(required - properties.keys())]
    # A map from any names to values gets an entry too.
    wanted = max(int(schema.get("minProperties", 0)) - len(fields), int(isinstance(others, dict) and not fields))
    if depth <= _MAX_DEPTH or "minProperties" in schema:
        fields += [(name, compile_schema(others, root, depth + 1)) for name in _WORDS[:wanted]]
    return lambda draw: {name: generate(draw) for name, generate in fields}


def _compile_array(schema: dict[str, Any], root: Any, depth: int) -> Generator:
    items = schema.get("items", {})
    # Older drafts have the first items as a list there.
    firsts = items if isinstance(items, list) else schema.get("prefixItems", ())
    prefix = [compile_schema(item, root, depth + 1) for item in firsts]
    low = int(schema.get("minItems", schema.get("min_items", 0)))
    high = int(schema.get("maxItems", max(low, 0 if depth > _MAX_DEPTH else 3)))
    low = low if depth > _MAX_DEPTH else max(low, min(1, high))
    if items is False or (prefix and not isinstance(schema.get("items"), dict)):
        low = high = len(prefix) if items is False else max(low, len(prefix))
    item = compile_schema(items, root, depth + 1)
    is_unique = bool(schema.get("uniqueItems"))

    def generate(draw: Draw) -> list[Any]:
        count = max(len(prefix), low + draw.below(high - low + 1))
        values = [generate_one(draw) for generate_one in prefix]
        tries = 0
        while len(values) < count and tries < count * 50:
            tries += 1
            value = item(draw)
            if not is_unique or value not in values:
                values.append(value)
        return values

    return generate


def _limits(schema: dict[str, Any]) -> tuple[float, float]:
    """Return the ends of a number's range; a missing one is 100 from the other."""
    lows = [schema[name] for name in ("minimum", "exclusiveMinimum") if _is_number(schema.get(name))]
    highs = [schema[name] for name in ("maximum", "exclusiveMaximum") if _is_number(schema.get(name))]
    high = min(highs) if highs else None
    low = max(lows) if lows else 0 if high is None or high > 0 else high - 100
    return low, low + 100 if high is None else high


def _is_number(value: Any) -> bool:
    # In older drafts ``exclusiveMinimum`` is a boolean.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _compile_integer(schema: dict[str, Any]) -> Generator:
    low, high = _limits(schema)
    if low == schema.get("exclusiveMinimum"):
        low = math.floor(low) + 1
    if high == schema.get("exclusiveMaximum"):
        high = math.ceil(high) - 1
    # The integers among the multiples of n/d are the multiples of n.
    step = Fraction(str(schema.get("multipleOf") or 1)).numerator
    first, last = -(-math.ceil(low) // step), math.floor(high) // step
    return lambda draw: (first + draw.below(max(1, last - first + 1))) * step


def _compile_number(schema: dict[str, Any]) -> Generator:
    low, high = _limits(schema)
    if schema.get("multipleOf"):
        # As decimals, since 3 * 0.1 is no multiple of 0.1 in binary.
        step = Decimal(str(schema["multipleOf"]))
        first = math.ceil(Decimal(str(low)) / step) + (low == schema.get("exclusiveMinimum"))
        last = math.floor(Decimal(str(high)) / step)
        return lambda draw: float((first + draw.below(max(1, last - first + 1))) * step)

    def generate(draw: Draw) -> float:
        exact = low + (high - low) * (1 + draw.below(999)) / 1000
        rounded = round(exact, 6)
        return rounded if low < rounded < high else exact

    return generate


def _compile_string(schema: dict[str, Any]) -> Generator:
    fixed = _FORMATS.get(schema.get("format", ""))
    low, high = int(schema.get("minLength", 0)), int(schema.get("maxLength", 10_000))
    matching = compile_pattern(schema["pattern"]) if isinstance(schema.get("pattern"), str) else None
    if matching:
        return lambda draw: matching(draw.below)

    def generate(draw: Draw) -> str:
        text = fixed or make_text(draw, 3)
        while len(text) < low:
            text += " " + make_text(draw, 3)
        return text[:high]

    return generate


_TAILS: dict[tuple[int, int], list[float]] = {}


def make_vector(seed: int, dimensions: int) -> list[float]:
    """Return a vector of about unit length: equal seeds, equal vectors."""
    size = dimensions**-0.5
    key = (dimensions, seed % 64)
    tail = _TAILS.get(key)
    if tail is None:
        draw = Draw(key[1])
        tail = _TAILS[key] = [round(size * (draw.below(4001) / 1000 - 2), 6) for _ in range(dimensions)]
    draw = Draw(seed)
    head = [round(size * (draw.below(4001) / 1000 - 2), 9) for _ in range(min(4, dimensions))]
    return head + tail[len(head) :]


def pack_vector(vector: list[float]) -> str:
    """Return a vector as base64 of 32-bit floats, as OpenAI sends it on request."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
