"""Answers read by pydantic-ai: an agent's validated output, and a model's whole response. Imports pydantic-ai."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
from pydantic import TypeAdapter
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessagesTypeAdapter
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.batch import BatchRequest, BatchResult

from airflow_raif.adapters.jsonl import mended
from airflow_raif.domain.result import EntryResult
from airflow_raif.rich.agents import answer
from airflow_raif.rich.rows import PARAMETERS, SETTINGS
from airflow_raif.services.output import InvalidOutputError

log = logging.getLogger(__name__)


class AgentReader:
    """Has an agent validate answers.

    :param run: runs a coroutine function with arguments.
    """

    takes_tool_calls: ClassVar[bool] = True

    def __init__(self, run: Callable[..., Any], agent: Agent[Any, Any], model: Model) -> None:
        self._run = run
        self._agent = agent
        self._model = model

    def output(self, raw: bytes, _result: EntryResult, /) -> Any:
        """Return the agent's output.

        :raises InvalidOutputError: the answer is not one, or the agent's own functions fail with it.
        """
        try:
            return self._run(answer, self._agent, self._model, _result_of(raw))
        except InvalidOutputError:
            raise
        except Exception as error:
            # What one answer does to the agent's own functions stops no other.
            log.warning("The agent fails with an answer, which is kept as it is", exc_info=True)
            raise InvalidOutputError(f"the agent fails with {type(error).__name__}: {error}") from error


_parameters = TypeAdapter(ModelRequestParameters)


def read_response(model: Model, raw: bytes, reading: bytes) -> msgspec.Raw | None:
    """Return a completed answer as JSON of a ``ModelResponse``; ``None``: pydantic-ai cannot read it.

    :param reading: the settings and parameters that the row itself had; its messages are not used.
    """
    own = msgspec.json.decode(reading)
    request = BatchRequest(custom_id="", messages=[], model_settings=own.get(SETTINGS))
    if (parameters := own.get(PARAMETERS)) is not None:
        request.model_request_parameters = _parameters.validate_python(parameters)
    try:
        response = model.batch_decode(_result_of(raw), request)
    except Exception:
        # The core could, so the row is complete but for this.
        log.warning("pydantic-ai cannot read an answer", exc_info=True)
        return None
    # The adapter is of a list, whose brackets go.
    return msgspec.Raw(ModelMessagesTypeAdapter.dump_json([response])[1:-1])


class _Row(msgspec.Struct):
    """A completed answer with any of the providers."""

    #: OpenAI's and Gemini's.
    response: msgspec.Raw = msgspec.Raw(b"")
    #: Anthropic's.
    result: msgspec.Raw = msgspec.Raw(b"")


class _Response(msgspec.Struct):
    #: OpenAI's.
    body: msgspec.Raw = msgspec.Raw(b"")


_decode_row = msgspec.json.Decoder(_Row).decode
_decode_response = msgspec.json.Decoder(_Response).decode


def _result_of(raw: bytes) -> BatchResult:
    """Return a completed answer as pydantic-ai takes it."""
    try:
        body = _body_of(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The core could read it, so it is JSON but for some characters.
        body = _body_of(msgspec.json.encode(mended(raw)))
    return BatchResult(custom_id="", status="succeeded", body=body)


def _body_of(raw: bytes) -> str:
    row = _decode_row(raw)
    return (bytes(row.result) or bytes(_decode_response(row.response).body) or bytes(row.response)).decode()
