"""One turn of a pydantic-ai agent: what it asks, and what it makes of the answer a day later.

The agent itself runs both times, with a model that takes down its request, or hands it the answer. So whatever an agent
is made of is in the request as pydantic-ai prepares it, and its output is validated as pydantic-ai does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pkgutil import resolve_name
from types import NoneType
from typing import TYPE_CHECKING, Any

from pydantic_ai import Agent
from pydantic_ai.exceptions import AgentRunError, UserError
from pydantic_ai.messages import ModelResponse, ToolCallPart
from pydantic_ai.models.batch import BatchRequest, EncodedBatchRequest
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_core import to_jsonable_python

from airflow_raif.domain.errors import ConfigurationError
from airflow_raif.rich.rows import RichRow, with_steady_ids
from airflow_raif.services.output import InvalidOutputError

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.models import Model, ModelRequestParameters
    from pydantic_ai.settings import ModelSettings

#: Kinds of tools whose calls end an agent's turn.
_FINAL = ("output", "external", "unapproved")


class _TurnOver(BaseException):
    """The agent asks its model; no ``Exception``, since hooks of the agent may catch those."""


class _Asking(WrapperModel):
    """Takes down what the agent asks."""

    encoded: EncodedBatchRequest | None = None

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        self.encoded = await self.wrapped.batch_encode(
            BatchRequest(
                custom_id="",
                messages=with_steady_ids(messages),
                model_settings=model_settings,
                model_request_parameters=model_request_parameters,
            )
        )
        raise _TurnOver


class _Answering(WrapperModel):
    """Hands the agent one answer; that it asks again means that the answer was not final."""

    def __init__(self, wrapped: Model, result: Any) -> None:
        super().__init__(wrapped)
        self._result = result
        #: Names of tools whose results it would go on with.
        self.calls: list[str] = []

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        if self._result is None:
            raise _TurnOver
        result, self._result = self._result, None
        request = BatchRequest(
            custom_id="",
            messages=messages,
            model_settings=model_settings,
            model_request_parameters=model_request_parameters,
        )
        return self._final(self.wrapped.batch_decode(result, request), model_request_parameters)

    def _final(self, response: ModelResponse, parameters: ModelRequestParameters) -> ModelResponse:
        """Return the response without calls of function tools: nothing of the worker is run by what a model says.

        :raises _TurnOver: there is no other answer in it.
        """
        kinds = {tool.name: tool.kind for tool in (*parameters.function_tools, *parameters.output_tools)}
        calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
        self.calls = [each.tool_name for each in calls if kinds.get(each.tool_name) == "function"]
        if not self.calls:
            return response
        if not any(kinds.get(each.tool_name) in _FINAL for each in calls):
            raise _TurnOver
        kept = [part for part in response.parts if getattr(part, "tool_name", None) not in self.calls]
        return replace(response, parts=kept)


def load_agent(given: Any) -> Agent[Any, Any]:
    """Return an agent, or the one at a dotted path, or that a function makes.

    :raises ConfigurationError: there is none, or it is none that a batch can run.
    """
    found = given
    try:
        if isinstance(found, str):
            found = resolve_name(found)
        if callable(found):
            found = found()
    except UserError as error:
        raise ConfigurationError(
            f"the agent {given!r} cannot be made here: {error}. A batch sends with the connection's key, so leave the"
            " agent's own out: Agent('provider:model', defer_model_check=True)"
        ) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"there is no agent at {given!r}: {error}") from error
    if not isinstance(found, Agent):
        raise ConfigurationError(f"{given!r:.100} is a {type(found).__name__}; give a pydantic-ai Agent")
    check_agent(found)
    return found


def check_agent(agent: Any) -> None:
    """See that an agent needs nothing that a batch has not.

    :raises ConfigurationError: it needs dependencies.
    """
    if agent.deps_type not in (None, NoneType, object):
        raise ConfigurationError(
            f"the agent has deps_type={getattr(agent.deps_type, '__name__', agent.deps_type)}, and a batch has no"
            " dependencies to give it: its answers come when the worker that asked is gone. Put what it needs into the"
            " prompt"
        )


async def ask(agent: Agent[Any, Any], model: Model, row: RichRow) -> EncodedBatchRequest:
    """Return the request of an agent's first turn.

    :raises UserError: the agent cannot ask that in a batch.
    """
    asking = _Asking(model)
    settings: Any = row.settings or None
    try:
        await agent.run(row.prompt, model=asking, message_history=row.messages or None, model_settings=settings)
    except _TurnOver:
        if asking.encoded is not None:
            return asking.encoded
    raise UserError("the agent ended without asking its model")


async def answer(agent: Agent[Any, Any], model: Model, result: Any) -> Any:
    """Return the agent's output of one answer, as JSON knows it.

    :param result: pydantic-ai's ``BatchResult``, which the model succeeded in.
    :raises InvalidOutputError: the agent would ask again: the output is not valid, or a tool's result is wanted.
    """
    answering = _Answering(model, result)
    try:
        run = await agent.run("-", model=answering, retries=0)
        return to_jsonable_python(run.output)
    except _TurnOver:
        why = "the agent would ask its model again"
        if answering.calls:
            why = (
                f"the model called {', '.join(answering.calls)} and wants the result, which would be another turn; a"
                " batch is one"
            )
        raise InvalidOutputError(why) from None
    except AgentRunError as error:
        raise InvalidOutputError(f"the agent does not take the answer: {_reason(error)}") from error


def output_schema(agent: Agent[Any, Any]) -> Mapping[str, Any] | None:
    """Return the JSON schema of an agent's output; ``None``: it has none, or is a text."""
    try:
        schema: dict[str, Any] = agent.output_json_schema()
    except UserError:
        return None
    return schema if schema.get("type") == "object" else None


def _reason(error: BaseException) -> str:
    """Return the cause at the bottom, without pydantic's advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    errors = getattr(error, "errors", None)
    if callable(errors):
        first = errors(include_url=False, include_input=False, include_context=False)[0]
        return f"{first['msg']} at {'.'.join(map(str, first['loc'])) or 'its root'}"
    return str(error)
