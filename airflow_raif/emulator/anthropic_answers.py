"""Bodies that Anthropic's Messages endpoint answers with, in a batch or outside."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from airflow_raif.emulator.anthropic_cache import Cached, PromptCache
from airflow_raif.emulator.compose import Answer, Composer
from airflow_raif.emulator.schema_rules import anthropic_problem, malformed
from airflow_raif.emulator.state import Tally

_EMPTY = msgspec.Raw(b"")
_DATED = re.compile(r"-\d{8}$")
_STOPS = {"end": "end_turn", "length": "max_tokens", "refusal": "refusal"}
_MAX_OUTPUT_TOKENS = 300_000
_LEAST_THINKING = 1024


class _Format(msgspec.Struct):
    type: str = ""
    schema: msgspec.Raw = _EMPTY


class _OutputConfig(msgspec.Struct):
    format: _Format | None = None


class _Tool(msgspec.Struct):
    name: str = ""
    input_schema: msgspec.Raw = _EMPTY


class _ToolChoice(msgspec.Struct):
    type: str = "auto"
    name: str = ""


class _Thinking(msgspec.Struct):
    type: str = ""
    budget_tokens: int | None = None


class Params(msgspec.Struct):
    """What of a request's params bears on its answer."""

    model: str = ""
    messages: msgspec.Raw = _EMPTY
    max_tokens: int | None = None
    temperature: float | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    stream: bool | None = None
    thinking: _Thinking | None = None

    @property
    def schema(self) -> bytes:
        """The JSON schema of the answer, or nothing."""
        output = self.output_config.format if self.output_config else self.output_format
        return bytes(output.schema) if output and output.type == "json_schema" else b""

    @property
    def forced_tool(self) -> _Tool | None:
        """The tool the answer has to use."""
        choice = self.tool_choice
        if not self.tools or choice is None or choice.type not in ("any", "tool"):
            return None
        return next((tool for tool in self.tools if tool.name == choice.name), self.tools[0])


_decode_params = msgspec.json.Decoder(Params).decode


def dated_model(model: str) -> str:
    """Return the snapshot name that replies carry for an alias."""
    return model if _DATED.search(model) else f"{model}-20251001"


def is_unknown_model(model: str) -> bool:
    """Tell whether a model stands for one that does not exist."""
    return not model.startswith("claude")


class RefusedError(Exception):
    """A request that the Messages API refuses: an error type and a message."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class AnthropicAnswers:
    """Answers requests of the Messages endpoint."""

    def __init__(self, composer: Composer) -> None:
        self._composer = composer
        self._cache = PromptCache()

    def answer(self, raw: bytes, kind: str, tally: Tally) -> dict[str, Any]:
        """Return a message and add its tokens to the tally.

        :raises RefusedError: the request is wrong.
        """
        params = self._checked(raw)
        tool = params.forced_tool
        answer = self._composer.compose(
            raw,
            schema=bytes(tool.input_schema) if tool else params.schema,
            wants_json=tool is not None,
            kind=kind,
            max_tokens=params.max_tokens or 0,
            is_cached=False,
        )
        cached = self._cache.use(raw)
        tally.input_tokens += answer.input_tokens
        tally.cached_tokens += cached.read
        tally.output_tokens += answer.output_tokens
        return _message(params.model, answer, cached, tool.name if tool and answer.stop == "end" else "", kind)

    def _checked(self, raw: bytes) -> Params:
        try:
            params = _decode_params(raw)
        except msgspec.DecodeError as exc:
            raise RefusedError("invalid_request_error", f"params: {exc}") from exc
        if not params.model:
            raise RefusedError("invalid_request_error", "model: Field required")
        if is_unknown_model(params.model):
            raise RefusedError("not_found_error", f"model: {params.model}")
        if params.max_tokens is None:
            raise RefusedError("invalid_request_error", "max_tokens: Field required")
        if not 1 <= params.max_tokens <= _MAX_OUTPUT_TOKENS:
            raise RefusedError("invalid_request_error", "max_tokens: must be at least 1 and at most the model's limit")
        if params.temperature is not None and not 0 <= params.temperature <= 1:
            raise RefusedError("invalid_request_error", "temperature: range: 0..1")
        _check_thinking(params)
        _check_messages(bytes(params.messages))
        if params.stream:
            raise RefusedError("invalid_request_error", "stream: not supported in a batch")
        tool = params.forced_tool
        if tool and (problem := malformed(bytes(tool.input_schema))):
            raise RefusedError("invalid_request_error", f"tools.input_schema: {problem}")
        if params.schema and (problem := malformed(params.schema) or anthropic_problem(params.schema)):
            raise RefusedError("invalid_request_error", f"output_config.format.schema: {problem}")
        return params


def _check_thinking(params: Params) -> None:
    thinking = params.thinking
    if thinking is None or thinking.type != "enabled":
        return
    budget = thinking.budget_tokens or 0
    if budget < _LEAST_THINKING:
        raise RefusedError(
            "invalid_request_error",
            f"thinking.enabled.budget_tokens: Input should be greater than or equal to {_LEAST_THINKING}",
        )
    if budget >= (params.max_tokens or 0) and not params.tools:
        raise RefusedError("invalid_request_error", "`max_tokens` must be greater than `thinking.budget_tokens`")
    if params.temperature not in (None, 1):
        raise RefusedError("invalid_request_error", "`temperature` may only be set to 1 when thinking is enabled")


def _check_messages(raw: bytes) -> None:
    messages = msgspec.json.decode(raw) if raw else None
    if not isinstance(messages, list) or not messages:
        raise RefusedError("invalid_request_error", "messages: at least one message is required")
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("user", "assistant"):
            raise RefusedError(
                "invalid_request_error", f'messages.{number}.role: Input should be "user" or "assistant"'
            )
        if not message.get("content"):
            raise RefusedError("invalid_request_error", f"messages.{number}: content must not be empty")


def _message(model: str, answer: Answer, cached: Cached, tool: str, kind: str) -> dict[str, Any]:
    mark = f"{answer.seed:08x}" * 3
    content: list[dict[str, Any]] = [{"type": "text", "text": answer.text}]
    stop = _STOPS[answer.stop]
    if tool:
        given = msgspec.json.decode(answer.text)
        caller = {"type": "direct"}
        content = [{"type": "tool_use", "id": f"toolu_{mark}", "name": tool, "input": given, "caller": caller}]
        stop = "tool_use"
    usage = {
        "input_tokens": max(answer.input_tokens - sum(cached), 0),
        "cache_creation_input_tokens": cached.written + cached.written_1h,
        "cache_read_input_tokens": cached.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": cached.written,
            "ephemeral_1h_input_tokens": cached.written_1h,
        },
        "output_tokens": answer.output_tokens,
        "service_tier": "batch",
        "inference_geo": "not_available",
    }
    return {
        "model": dated_model(model),
        "id": f"msg_{mark}",
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "stop_details": None,
        **({} if kind == "no_usage" else {"usage": usage}),
    }
