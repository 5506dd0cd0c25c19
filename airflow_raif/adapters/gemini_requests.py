"""Native bodies of Gemini's requests, from the text form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_raif.adapters.schemas import gemini_schema
from airflow_raif.adapters.text_form import merge_params, split_system, text_messages
from airflow_raif.domain.errors import InvalidBatchError, InvalidRequestError
from airflow_raif.domain.request import EntryRequest, RequestDefaults


def generate_body(defaults: RequestDefaults) -> Callable[[EntryRequest], dict[str, Any]]:
    """Return a function from a row to a body of https://ai.google.dev/api/generate-content.

    :raises InvalidBatchError: the output schema cannot be expressed.
    """
    shared: dict[str, Any] = {}
    if defaults.output_schema:
        shared = {
            "responseMimeType": "application/json",
            "responseJsonSchema": gemini_schema(defaults.output_schema),
        }

    def make(request: EntryRequest) -> dict[str, Any]:
        system = defaults.system if request.system is None else request.system
        system, messages = split_system(text_messages(request), system)
        body: dict[str, Any] = {
            "contents": [
                {"role": "model" if each["role"] == "assistant" else "user", "parts": [{"text": each["content"]}]}
                for each in messages
            ]
        }
        if system is not None:
            body["systemInstruction"] = {"parts": [{"text": system}]}
        config = dict(shared)
        max_tokens = defaults.max_tokens if request.max_tokens is None else request.max_tokens
        temperature = defaults.temperature if request.temperature is None else request.temperature
        if max_tokens is not None:
            config["maxOutputTokens"] = max_tokens
        if temperature is not None:
            config["temperature"] = temperature
        if config:
            body["generationConfig"] = config
        return merge_params(body, defaults.params)

    return make


def embed_body(defaults: RequestDefaults) -> Callable[[EntryRequest], dict[str, Any]]:
    """Return a function from a row to a body of https://ai.google.dev/api/embeddings.

    :raises InvalidBatchError: the defaults have what embeddings do not take.
    """
    if defaults.output_schema or defaults.system:
        raise InvalidBatchError("embeddings take neither a system prompt nor an output schema; leave them out")

    def make(request: EntryRequest) -> dict[str, Any]:
        if request.prompt is None:
            raise InvalidRequestError("embeddings take a prompt, which is the text to embed, or a native body")
        if request.system is not None:
            raise InvalidRequestError("embeddings take no system prompt; leave it out")
        model = (request.model or defaults.model).removeprefix("models/")
        body = {"model": f"models/{model}", "content": {"parts": [{"text": request.prompt}]}}
        return merge_params(body, defaults.params)

    return make
