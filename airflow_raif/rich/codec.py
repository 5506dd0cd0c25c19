"""The codec of the rich form: rows to native requests, answers to validated output, by pydantic-ai."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_raif.adapters.base import Adapter
from airflow_raif.adapters.schemas import strict_schema
from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import ConfigurationError, InvalidRequestError, RaifError
from airflow_raif.domain.request import EntryRequest, RequestDefaults
from airflow_raif.rich.models import check_endpoint, check_headers, make_model, model_of_agent, require
from airflow_raif.rich.rows import PARAMETERS, RichRow, is_rich, read_row, with_params
from airflow_raif.services.codec import AnswerReader

if TYPE_CHECKING:
    from pydantic_ai.models import Model
    from pydantic_ai.models.batch import EncodedBatchRequest

#: Rows that are encoded at one time: files that pydantic-ai has to download for them come together.
ROWS_AT_ONCE = 8
_AGENT = "agent"


class RichCodec:
    """Writes and reads requests by pydantic-ai, which is imported once there is one.

    :param agent: what every row of a batch is a prompt of: a pydantic-ai ``Agent``, a function that makes one, or the
        dotted path of either.
    :param find_agent: finds the agent of a batch that was made with one that has no path.
    """

    def __init__(self, agent: Any = None, find_agent: Callable[[Batch], Any] = lambda _: None) -> None:
        self._given = agent
        self._find_agent = find_agent
        self._models: dict[tuple[str, str], Model] = {}
        self._open = ExitStack()
        self._run: Callable[..., Any] | None = None
        self._own: tuple[Any, msgspec.Raw] | None = None

    def close(self) -> None:
        """End the thread that pydantic-ai runs in."""
        self._open.close()
        self._run = None

    # Requests

    def requests(self, rows: Iterable[Any], defaults: RequestDefaults, adapter: Adapter) -> Iterator[Any]:
        """Yield the rows, those in the rich form, and all rows of an agent, as requests with a native body."""
        agent = self._agent()
        waiting: list[tuple[int, Any]] = []
        for index, row in enumerate(rows):
            if agent is None and not is_rich(row):
                yield from self._encoded(waiting, defaults, adapter, agent)
                waiting = []
                yield row
                continue
            waiting.append((index, row))
            if len(waiting) == ROWS_AT_ONCE:
                yield from self._encoded(waiting, defaults, adapter, agent)
                waiting = []
        yield from self._encoded(waiting, defaults, adapter, agent)

    def _encoded(
        self, rows: list[tuple[int, Any]], defaults: RequestDefaults, adapter: Adapter, agent: Any
    ) -> Iterator[EntryRequest]:
        if not rows:
            return
        require()
        check_endpoint(adapter, defaults.endpoint)

        async def encode_all() -> list[EntryRequest | BaseException]:
            each = (self._encode(index, row, defaults, adapter, agent) for index, row in rows)
            return await asyncio.gather(*each, return_exceptions=True)

        for (index, _), made in zip(rows, self._in_loop(encode_all), strict=True):
            if isinstance(made, RaifError):
                raise made
            if isinstance(made, Exception):
                raise InvalidRequestError(
                    f"row {index} cannot be sent, says pydantic-ai: {type(made).__name__}: {made}", row=index
                ) from made
            if isinstance(made, BaseException):
                raise made
            yield made

    async def _encode(
        self, index: int, given: Any, defaults: RequestDefaults, adapter: Adapter, agent: Any
    ) -> EntryRequest:
        row = read_row(given, index, defaults)
        model = self._model(adapter.name, row.request.model or defaults.model, agent)
        reading = None
        try:
            if agent is None:
                encoded = await self._encode_messages(row, model, defaults, adapter)
                reading = self._reading(row)
            else:
                encoded = await _ask(agent, model, row)
            check_headers(adapter, encoded)
        except InvalidRequestError as error:
            raise type(error)(f"row {index}: {error}", row=index) from error
        return msgspec.structs.replace(
            row.request,
            prompt=None,
            system=None,
            max_tokens=None,
            temperature=None,
            body=msgspec.json.decode(encoded.body),
            params=with_params(row.request, defaults),
            reading=reading,
        )

    async def _encode_messages(
        self, row: RichRow, model: Model, defaults: RequestDefaults, adapter: Adapter
    ) -> EncodedBatchRequest:
        from pydantic_ai.messages import InstructionPart, ModelRequest, UserPromptPart
        from pydantic_ai.models.batch import BatchRequest
        from pydantic_ai.output import OutputObjectDefinition

        messages = row.messages or [ModelRequest(parts=[UserPromptPart(row.prompt or "")])]
        parameters = row.parameters
        system = row.request.system if row.request.system is not None else defaults.system
        if parameters.instruction_parts is None:
            texts = (system, next((each for each in map(_instructions, reversed(messages)) if each), None))
            parameters = replace(
                parameters, instruction_parts=[InstructionPart(content=each) for each in texts if each] or None
            )
        if defaults.output_schema is not None and parameters.output_mode == "text":
            schema = strict_schema(adapter.name, defaults.output_schema)
            definition = OutputObjectDefinition(json_schema=schema, name="answer", strict=True)
            parameters = replace(parameters, output_mode="native", output_object=definition)
        settings: Any = row.settings or None
        return await model.batch_encode(
            BatchRequest(custom_id="", messages=messages, model_settings=settings, model_request_parameters=parameters)
        )

    def _reading(self, row: RichRow) -> msgspec.Raw:
        """Return what the row itself set, which is what its answer is read with; rows mostly share it."""
        if self._own is not None and self._own[0] == row.own:
            return self._own[1]
        from pydantic_core import to_json

        self._own = (row.own, msgspec.Raw(to_json(row.own)))
        return self._own[1]

    def _model(self, provider: str, name: str, agent: Any = None) -> Model:
        found = self._models.get((provider, name))
        if found is None:
            if agent is not None and model_of_agent(agent) == (provider, name) and not isinstance(agent.model, str):
                found = agent.model
            else:
                found = make_model(provider, name)
            self._models[provider, name] = found
        return found

    # Answers

    def recipe(self) -> Mapping[str, Any] | None:
        """Return where the agent is; without one the core reads the answers."""
        return None if self._given is None else {_AGENT: self._given if isinstance(self._given, str) else None}

    def reader(self, batch: Batch, recipe: Mapping[str, Any]) -> AnswerReader:
        """Return what has the batch's agent validate its answers."""
        given = recipe.get(_AGENT) or self._given or self._find_agent(batch)
        if given is None:
            raise ConfigurationError(
                f"batch {batch.batch_id} was made with an agent that only its own DAG has, and its answers are read by"
                " that: apply them in a task of that DAG, or give the agent's dotted path instead of the agent"
            )
        require()
        from airflow_raif.rich.agents import load_agent
        from airflow_raif.rich.answers import AgentReader

        agent = load_agent(given)
        return AgentReader(self._in_loop, agent, self._model(batch.provider, batch.model, agent))

    def response(self, raw: bytes, reading: bytes, batch: Batch) -> msgspec.Raw | None:
        """Return an answer as the JSON form of a ``ModelResponse``; ``None``: pydantic-ai cannot read it."""
        require()
        from airflow_raif.rich.answers import read_response

        return read_response(self._model(batch.provider, batch.model), raw, reading)

    # What both need

    def _agent(self) -> Any:
        if self._given is None:
            return None
        require()
        from airflow_raif.rich.agents import load_agent

        return load_agent(self._given)

    def _in_loop(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a coroutine function in an event loop of our own, since the caller may be in one."""
        if self._run is None:
            from anyio.from_thread import start_blocking_portal

            self._run = self._open.enter_context(start_blocking_portal()).call
        return self._run(function, *args)


async def _ask(agent: Any, model: Model, row: RichRow) -> EncodedBatchRequest:
    from airflow_raif.rich.agents import ask

    if row.request.system is not None or row.parameters.function_tools or row.own.get(PARAMETERS) is not None:
        raise InvalidRequestError(
            "the agent has the system prompt, the tools and the output already; leave system and"
            " model_request_parameters out"
        )
    return await ask(agent, model, row)


def _instructions(message: Any) -> str | None:
    return getattr(message, "instructions", None)
