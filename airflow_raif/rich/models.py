"""pydantic-ai's models, which write and read requests here and never send one, so they have no key."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_raif.adapters.base import Adapter
from airflow_raif.adapters.registry import canonical, split_model
from airflow_raif.domain.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from pydantic_ai.models import Model
    from pydantic_ai.models.batch import EncodedBatchRequest

#: By provider: pydantic-ai's extra, and the modules and classes of its model and of that one's provider.
_CLASSES = {
    "openai": ("openai", "models.openai:OpenAIResponsesModel", "providers.openai:OpenAIProvider"),
    "anthropic": ("anthropic", "models.anthropic:AnthropicModel", "providers.anthropic:AnthropicProvider"),
    "gemini": ("google", "models.google:GoogleModel", "providers.google:GoogleProvider"),
}
#: Stands where a client wants a key.
_NO_KEY = "not-sent"
_BETA_HEADER = "anthropic-beta"


def require() -> None:
    """See that pydantic-ai is here.

    :raises ConfigurationError: it is not, or is too old for batches.
    """
    try:
        import_module("pydantic_ai.models.batch")
    except ImportError as error:
        raise ConfigurationError(
            "messages, agents and files in rows need pydantic-ai 2.68 or later: pip install"
            f" 'airflow-raif[pydantic-ai]' ({error})"
        ) from error


@lru_cache(maxsize=100)
def make_model(provider: str, name: str) -> Model:
    """Return pydantic-ai's model of a name; each costs up to a tenth of a second to make.

    :raises ConfigurationError: pydantic-ai has no batches of the provider, or something is not installed.
    """
    require()
    if canonical(provider) not in _CLASSES:
        raise ConfigurationError(
            f"messages, agents and files in rows can be sent to {', '.join(_CLASSES)}, not to {provider}; give each row"
            " a native body"
        )
    extra, model, of_provider = _CLASSES[canonical(provider)]
    try:
        model_class, provider_class = _load(model), _load(of_provider)
    except (ImportError, AttributeError) as error:
        # An SDK of the generation before lacks names that pydantic-ai has at hand.
        raise ConfigurationError(
            f"pydantic-ai cannot write requests for {provider}: pip install 'pydantic-ai-slim[{extra}]>=2.68' ({error})"
        ) from error
    made: Model = model_class(name, provider=provider_class(api_key=_NO_KEY))
    return made


def check_endpoint(adapter: Adapter, endpoint: str) -> None:
    """See that pydantic-ai writes requests for an endpoint.

    :raises ConfigurationError: it does not.
    """
    main = adapter.endpoints[0]
    if adapter.resolve_endpoint(endpoint) != main:
        raise ConfigurationError(
            f"messages, agents and files in rows go to {adapter.name}'s {main}, not to {endpoint}; leave endpoint out,"
            " or give each row a native body"
        )


def check_headers(adapter: Adapter, encoded: EncodedBatchRequest) -> None:
    """See that a request is understood with the headers that the connection sends: they are of a whole batch.

    :raises InvalidRequestError: it needs beta features that they do not turn on.
    """
    needed = json.loads(encoded.group).get("betas", []) if adapter.name == "anthropic" else []
    sent = next((value for name, value in adapter.settings.headers.items() if name.lower() == _BETA_HEADER), "")
    if missing := sorted(set(needed) - {each.strip() for each in sent.split(",")}):
        raise InvalidRequestError(
            f"the request uses what {adapter.name} calls {', '.join(missing)}; add the header"
            f" {_BETA_HEADER}: {','.join(sorted(needed))} to the connection's extra, or leave out what needs it"
        )


def model_of_agent(agent: Any) -> tuple[str | None, str | None]:
    """Return the provider and the name of an agent's own model; neither where it has none.

    :raises ConfigurationError: it is one whose requests cannot be sent in a batch.
    """
    model = agent.model
    if model is None:
        return None, None
    if isinstance(model, str):
        provider, name = split_model(model)
        if provider is None:
            raise ConfigurationError(f"the agent's model is {model!r}; name its provider, as in 'openai:gpt-5-nano'")
        return provider, name
    if getattr(model, "batch_max_requests", None) is None:
        raise ConfigurationError(
            f"the agent's model is a {type(model).__name__}, which pydantic-ai has no batches for; use"
            f" {', '.join(each[1].partition(':')[2] for each in _CLASSES.values())}, or give the model's name"
        )
    return canonical(model.system), model.model_name


def agent_model(agent: Any) -> str:
    """Return ``provider:model`` of an agent's own model.

    :param agent: the agent, or its dotted path.
    :raises ConfigurationError: it has none, or none for a batch.
    """
    require()
    from airflow_raif.rich.agents import load_agent

    provider, name = model_of_agent(load_agent(agent))
    if provider is None:
        raise ConfigurationError("the agent has no model of its own; give a model beside it")
    return f"{provider}:{name}"


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(f"pydantic_ai.{module}"), name)
