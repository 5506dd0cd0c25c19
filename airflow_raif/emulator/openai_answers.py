"""Bodies that OpenAI's Responses, Chat Completions and Embeddings endpoints answer with."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from airflow_raif.emulator.answers import count_tokens, make_vector, pack_vector, seed_of
from airflow_raif.emulator.compose import Answer, Composer
from airflow_raif.emulator.state import Tally

_EMPTY = msgspec.Raw(b"")
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")
ENDPOINTS = ("/v1/responses", "/v1/chat/completions", "/v1/embeddings")


class _JsonSchema(msgspec.Struct):
    name: str = ""
    schema: msgspec.Raw = _EMPTY
    strict: bool | None = None


class _Format(msgspec.Struct):
    type: str = "text"
    name: str = ""
    schema: msgspec.Raw = _EMPTY
    strict: bool | None = None
    json_schema: _JsonSchema | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None


class _Tool(msgspec.Struct):
    type: str = "function"
    name: str = ""
    parameters: msgspec.Raw = _EMPTY
    function: _Tool | None = None


class RequestBody(msgspec.Struct):
    """What of a request body bears on its answer."""

    model: str = ""
    input: msgspec.Raw = _EMPTY
    messages: msgspec.Raw = _EMPTY
    text: _Text | None = None
    response_format: _Format | None = None
    tools: list[_Tool] | None = None
    tool_choice: msgspec.Raw = _EMPTY
    dimensions: int | None = None
    encoding_format: str | None = None
    max_output_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None

    @property
    def output_format(self) -> _Format | None:
        """The asked output format, wherever the endpoint has it."""
        return (self.text.format if self.text else None) or self.response_format

    @property
    def schema(self) -> bytes:
        """The JSON schema of the answer, or nothing."""
        output = self.output_format
        if output is None or output.type != "json_schema":
            return b""
        return bytes(output.json_schema.schema if output.json_schema else output.schema)

    @property
    def is_strict(self) -> bool:
        """Whether the answer has to follow its schema strictly."""
        output = self.output_format
        return bool(output and (output.json_schema or output).strict)

    @property
    def schema_name(self) -> str:
        """The name that the request gives its schema."""
        output = self.output_format
        return (output.json_schema or output).name if output else ""

    @property
    def forced_tool(self) -> _Tool | None:
        """The function the answer has to call."""
        choice = bytes(self.tool_choice)
        if not self.tools or choice in (b"", b"null", b'"auto"', b'"none"'):
            return None
        tools = [tool.function or tool for tool in self.tools if tool.type == "function"]
        named = [tool for tool in tools if f'"{tool.name}"'.encode() in choice]
        return next(iter(named or tools), None)


def dated_model(model: str) -> str:
    """Return the snapshot name that replies carry for an alias."""
    return model if _DATED.search(model) or "embedding" in model else f"{model}-2025-08-07"


def is_reasoning(model: str) -> bool:
    """Tell whether a model spends reasoning tokens."""
    return model.startswith(("gpt-5", "o1", "o3", "o4"))


class OpenAIAnswers:
    """Answers requests of the three endpoints."""

    def __init__(self, composer: Composer) -> None:
        self._composer = composer

    def answer(self, endpoint: str, body: RequestBody, raw: bytes, kind: str, tally: Tally, now: int) -> dict[str, Any]:
        """Return a reply body and add its tokens to the tally."""
        if endpoint == "/v1/embeddings":
            return _embed(body, tally, kind)
        tool = body.forced_tool
        output = body.output_format
        answer = self._composer.compose(
            raw,
            schema=bytes(tool.parameters) if tool else body.schema,
            wants_json=tool is not None or (output is not None and output.type != "text"),
            kind=kind,
            max_tokens=body.max_output_tokens or body.max_completion_tokens or body.max_tokens or 0,
            reasons=is_reasoning(body.model),
        )
        tally.input_tokens += answer.input_tokens
        tally.cached_tokens += answer.cached_tokens
        tally.output_tokens += answer.output_tokens + answer.reasoning_tokens
        tally.reasoning_tokens += answer.reasoning_tokens
        make = _chat if endpoint == "/v1/chat/completions" else _respond
        reply = make(body, answer, tool.name if tool and answer.stop != "refusal" else "", now)
        if kind == "no_usage":
            del reply["usage"]
        return reply


def _respond(body: RequestBody, answer: Answer, tool: str, now: int) -> dict[str, Any]:
    mark = f"{answer.seed:08x}" * 6
    is_cut = answer.stop == "length"
    state = "incomplete" if is_cut else "completed"
    part: dict[str, Any] = {"type": "output_text", "annotations": [], "logprobs": [], "text": answer.text}
    if answer.stop == "refusal":
        part = {"type": "refusal", "refusal": answer.text}
    item: dict[str, Any] = {
        "id": f"msg_{mark}", "type": "message", "status": state, "content": [part], "role": "assistant",
    }  # fmt: skip
    if tool:
        item = {
            "id": f"fc_{mark}", "type": "function_call", "status": state, "arguments": answer.text,
            "call_id": f"call_{mark[:24]}", "name": tool,
        }  # fmt: skip
    reasoning = [{"id": f"rs_{mark}", "type": "reasoning", "content": [], "summary": []}]
    return {
        "id": f"resp_{mark}",
        "object": "response",
        "created_at": now,
        "status": state,
        "background": False,
        "billing": {"payer": "developer"},
        "completed_at": None if is_cut else now,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": None,
        "max_output_tokens": body.max_output_tokens,
        "model": dated_model(body.model),
        "output": [*(reasoning if answer.reasoning_tokens else ()), item],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": "medium" if answer.reasoning_tokens else None, "summary": None},
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _usage_of_response(answer),
        "user": None,
        "metadata": body.metadata or {},
    }


def _usage_of_response(answer: Answer) -> dict[str, Any]:
    output_tokens = answer.output_tokens + answer.reasoning_tokens
    return {
        "input_tokens": answer.input_tokens,
        "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": answer.cached_tokens},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": answer.input_tokens + output_tokens,
    }


def _chat(body: RequestBody, answer: Answer, tool: str, now: int) -> dict[str, Any]:
    mark = f"{answer.seed:08x}" * 3
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    reason = "length" if answer.stop == "length" else "stop"
    if answer.stop == "refusal":
        message.update(content=None, refusal=answer.text)
    elif tool:
        call = {"id": f"call_{mark}", "type": "function", "function": {"name": tool, "arguments": answer.text}}
        message.update(content=None, tool_calls=[call])
        reason = "tool_calls" if reason == "stop" else reason
    output_tokens = answer.output_tokens + answer.reasoning_tokens
    return {
        "id": f"chatcmpl-{mark}",
        "object": "chat.completion",
        "created": now,
        "model": dated_model(body.model),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": answer.input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": answer.input_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": answer.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": answer.reasoning_tokens,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": None,
    }


def embedding_inputs(body: RequestBody) -> list[Any]:
    """Return the inputs of an embedding request one by one; a list of numbers is one tokenised input."""
    value = msgspec.json.decode(body.input) if bytes(body.input) else ""
    return value if isinstance(value, list) and value and not isinstance(value[0], int) else [value]


def _embed(body: RequestBody, tally: Tally, kind: str) -> dict[str, Any]:
    inputs = embedding_inputs(body)
    dimensions = body.dimensions or (3072 if "large" in body.model else 1536)
    data: list[dict[str, Any]] = []
    tokens = 0
    for index, one in enumerate(inputs):
        encoded = msgspec.json.encode(one)
        vector = make_vector(seed_of(encoded), dimensions)
        data.append(
            {
                "object": "embedding",
                "embedding": pack_vector(vector) if body.encoding_format == "base64" else vector,
                "index": index,
            }
        )
        tokens += len(one) if isinstance(one, list) else count_tokens(len(encoded))
    tally.input_tokens += tokens
    usage = {} if kind == "no_usage" else {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return {"object": "list", "data": data, "model": body.model, **usage}
