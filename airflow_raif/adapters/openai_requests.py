"""Native bodies of OpenAI's requests, from the text form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_raif.adapters.schemas import openai_schema
from airflow_raif.adapters.text_form import merge_params, text_messages
from airflow_raif.domain.errors import InvalidBatchError, InvalidRequestError
from airflow_raif.domain.request import EntryRequest, RequestDefaults


def _system_of(request: EntryRequest, defaults: RequestDefaults) -> str | None:
    return request.system if request.system is not None else defaults.system


def _common(request: EntryRequest, defaults: RequestDefaults, limit: str) -> dict[str, Any]:
    body: dict[str, Any] = {"model": request.model or defaults.model}
    max_tokens = defaults.max_tokens if request.max_tokens is None else request.max_tokens
    temperature = defaults.temperature if request.temperature is None else request.temperature
    if max_tokens is not None:
        body[limit] = max_tokens
    if temperature is not None:
        body["temperature"] = temperature
    return body


def responses_body(defaults: RequestDefaults) -> Callable[[EntryRequest], dict[str, Any]]:
    """https://platform.openai.com/docs/api-reference/responses/create."""
    schema = openai_schema(defaults.output_schema) if defaults.output_schema else None
    shared: dict[str, Any] = {}
    if schema:
        shared["text"] = {"format": {"type": "json_schema", "name": "answer", "strict": True, "schema": schema}}
    shared = merge_params(shared, defaults.params)

    def make(request: EntryRequest) -> dict[str, Any]:
        body = _common(request, defaults, "max_output_tokens")
        if (system := _system_of(request, defaults)) is not None:
            body["instructions"] = system
        body["input"] = request.prompt if request.prompt is not None else text_messages(request)
        body.update(shared)
        return body

    return make


def chat_body(defaults: RequestDefaults) -> Callable[[EntryRequest], dict[str, Any]]:
    """https://platform.openai.com/docs/api-reference/chat/create."""
    schema = openai_schema(defaults.output_schema) if defaults.output_schema else None
    shared: dict[str, Any] = {}
    if schema:
        shared["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": schema},
        }
    shared = merge_params(shared, defaults.params)

    def make(request: EntryRequest) -> dict[str, Any]:
        body = _common(request, defaults, "max_completion_tokens")
        messages = text_messages(request)
        if (system := _system_of(request, defaults)) is not None:
            messages = [{"role": "system", "content": system}, *messages]
        body["messages"] = messages
        body.update(shared)
        return body

    return make


def embeddings_body(defaults: RequestDefaults) -> Callable[[EntryRequest], dict[str, Any]]:
    """https://platform.openai.com/docs/api-reference/embeddings/create."""
    if defaults.output_schema or defaults.system:
        raise InvalidBatchError("embeddings take neither a system prompt nor an output schema; leave them out")

    def make(request: EntryRequest) -> dict[str, Any]:
        if request.prompt is None:
            raise InvalidRequestError("embeddings take a prompt, which is the text to embed, or a native body")
        if request.system is not None:
            raise InvalidRequestError("embeddings take no system prompt; leave it out")
        return {"model": request.model or defaults.model, "input": request.prompt, **(defaults.params or {})}

    return make
