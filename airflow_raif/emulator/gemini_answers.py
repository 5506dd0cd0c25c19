"""Bodies that Gemini's generateContent and embedContent answer with, in a batch or outside."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from airflow_raif.emulator.answers import count_tokens, make_vector, seed_of
from airflow_raif.emulator.compose import Answer, Composer
from airflow_raif.emulator.schema_rules import malformed
from airflow_raif.emulator.state import Tally

_EMPTY = msgspec.Raw(b"")
_STOPS = {"end": "STOP", "length": "MAX_TOKENS", "refusal": "SAFETY"}
#: Google's JSON parser refuses every name it does not know (https://ai.google.dev/api/generate-content).
_KNOWN = frozenset(
    [
        "contents",
        "systemInstruction",
        "generationConfig",
        "tools",
        "toolConfig",
        "safetySettings",
        "cachedContent",
        "model",
        "store",
        "serviceTier",
        "labels",
        "content",
        "taskType",
        "title",
        "outputDimensionality",
        "embedContentConfig",
    ]
)
_KNOWN_CONFIG = frozenset(
    [
        "stopSequences",
        "responseMimeType",
        "responseSchema",
        "responseJsonSchema",
        "_responseJsonSchema",
        "responseModalities",
        "responseFormat",
        "candidateCount",
        "maxOutputTokens",
        "temperature",
        "topP",
        "topK",
        "seed",
        "presencePenalty",
        "frequencyPenalty",
        "responseLogprobs",
        "logprobs",
        "enableEnhancedCivicAnswers",
        "speechConfig",
        "thinkingConfig",
        "imageConfig",
        "mediaResolution",
    ]
)
#: What follows these has names of the user's own.
_SCHEMAS = frozenset(
    ("responseSchema", "responseJsonSchema", "_responseJsonSchema", "parameters", "parametersJsonSchema")
)
_has_snakes = re.compile(rb'"[a-z]+_[a-z_]+"\s*:').search


class _Config(msgspec.Struct, rename="camel"):
    response_mime_type: str = ""
    response_schema: msgspec.Raw = _EMPTY
    response_json_schema: msgspec.Raw = _EMPTY
    max_output_tokens: int | None = None


class _Function(msgspec.Struct, rename="camel"):
    name: str = ""
    parameters: msgspec.Raw = _EMPTY
    parameters_json_schema: msgspec.Raw = _EMPTY

    @property
    def schema(self) -> bytes:
        """What its arguments follow."""
        return bytes(self.parameters_json_schema) or bytes(self.parameters)


class _Tool(msgspec.Struct, rename="camel"):
    function_declarations: list[_Function] | None = None


class _CallingConfig(msgspec.Struct, rename="camel"):
    mode: str = "AUTO"


class _ToolConfig(msgspec.Struct, rename="camel"):
    function_calling_config: _CallingConfig | None = None


class RequestBody(msgspec.Struct, rename="camel"):
    """What of a request bears on its answer."""

    contents: msgspec.Raw = _EMPTY
    content: msgspec.Raw = _EMPTY
    generation_config: _Config | None = None
    tools: list[_Tool] | None = None
    tool_config: _ToolConfig | None = None
    output_dimensionality: int | None = None


class BadRequestError(Exception):
    """A request that Gemini refuses with INVALID_ARGUMENT."""


_decode_body = msgspec.json.Decoder(RequestBody).decode


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest) if head else name


def _camelled(value: Any) -> Any:
    """Return a request in the names of Google's JSON; its parser takes those of its protocol buffers, too."""
    if isinstance(value, list):
        return [_camelled(each) for each in value]
    if not isinstance(value, dict):
        return value
    named = {_camel(name): each for name, each in value.items()}
    return {name: each if name in _SCHEMAS else _camelled(each) for name, each in named.items()}


def check_request(raw: bytes, *, embeds: bool) -> RequestBody:
    """Read a request as Google's parser does.

    :raises BadRequestError: it has an unknown name, a wrong type or nothing to answer.
    """
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        for name in fields:
            if _camel(name) not in _KNOWN:
                raise BadRequestError(f"Invalid JSON payload received. Unknown name \"{name}\" at 'request'")
        for name in _config_names(fields):
            if _camel(name) not in _KNOWN_CONFIG:
                raise BadRequestError(
                    f"Invalid JSON payload received. Unknown name \"{name}\" at 'request.generation_config'"
                )
        body = _decode_body(msgspec.json.encode(_camelled(msgspec.json.decode(raw))) if _has_snakes(raw) else raw)
    except msgspec.DecodeError as exc:
        raise BadRequestError(f"Invalid JSON payload received. {exc}") from exc
    if embeds and not bytes(body.content):
        raise BadRequestError("* EmbedContentRequest.content: content is not specified")
    if not embeds and bytes(body.contents) in (b"", b"[]"):
        raise BadRequestError("* GenerateContentRequest.contents: contents is not specified")
    return body


def _config_names(fields: dict[str, msgspec.Raw]) -> list[str]:
    raw = fields.get("generationConfig") or fields.get("generation_config")
    return list(msgspec.json.decode(raw, type=dict[str, msgspec.Raw])) if raw else []


class GeminiAnswers:
    """Answers requests."""

    def __init__(self, composer: Composer) -> None:
        self._composer = composer

    def answer(self, model: str, raw: bytes, kind: str, tally: Tally, *, embeds: bool) -> dict[str, Any]:
        """Return a reply and add its tokens to the tally.

        :raises BadRequestError: the request is wrong.
        """
        body = check_request(raw, embeds=embeds)
        if embeds:
            return _embed(body, tally, kind)
        config = body.generation_config or _Config()
        function = _forced_function(body)
        schema = bytes(config.response_json_schema) or bytes(config.response_schema)
        if function:
            schema = function.schema
        if schema and (problem := malformed(schema)):
            raise BadRequestError(f"Invalid schema: {problem}")
        answer = self._composer.compose(
            raw,
            schema=schema,
            wants_json=function is not None or config.response_mime_type == "application/json",
            kind=kind,
            max_tokens=config.max_output_tokens or 0,
            reasons=not model.startswith("gemini-2.0"),
        )
        tally.input_tokens += answer.input_tokens
        tally.cached_tokens += answer.cached_tokens
        tally.output_tokens += answer.output_tokens
        tally.reasoning_tokens += answer.reasoning_tokens
        return _generate(model, answer, function.name if function else "", kind)


def _forced_function(body: RequestBody) -> _Function | None:
    calling = body.tool_config.function_calling_config if body.tool_config else None
    if calling is None or calling.mode != "ANY":
        return None
    return next((one for tool in body.tools or () for one in tool.function_declarations or ()), None)


def _generate(model: str, answer: Answer, function: str, kind: str) -> dict[str, Any]:
    candidate: dict[str, Any] = {"finishReason": _STOPS[answer.stop], "index": 0}
    part: dict[str, Any] = {"text": answer.text}
    if function and answer.stop == "end":
        part = {"functionCall": {"name": function, "args": msgspec.json.decode(answer.text)}}
    if answer.stop != "refusal":
        candidate = {"content": {"parts": [part], "role": "model"}, **candidate}
    usage = {
        "promptTokenCount": answer.input_tokens,
        "candidatesTokenCount": answer.output_tokens,
        "totalTokenCount": answer.input_tokens + answer.output_tokens + answer.reasoning_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": answer.input_tokens}],
        # Thinking is counted beside the candidates' tokens, not in them.
        **({"thoughtsTokenCount": answer.reasoning_tokens} if answer.reasoning_tokens else {}),
        **({"cachedContentTokenCount": answer.cached_tokens} if answer.cached_tokens else {}),
        "serviceTier": "standard",
    }
    return {
        "candidates": [candidate],
        **({} if kind == "no_usage" else {"usageMetadata": usage}),
        "modelVersion": model,
        "responseId": f"{answer.seed:08x}" * 2,
    }


def _embed(body: RequestBody, tally: Tally, kind: str) -> dict[str, Any]:
    tokens = count_tokens(len(body.content))
    tally.input_tokens += tokens
    vector = make_vector(seed_of(bytes(body.content)), body.output_dimensionality or 3072)
    return {"embedding": {"values": vector}, **({} if kind == "no_usage" else {"tokenCount": tokens})}
