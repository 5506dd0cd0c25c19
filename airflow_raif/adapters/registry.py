"""Provider name to adapter, imported when first asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from airflow_raif.adapters.base import Adapter, ConnectionSettings
from airflow_raif.domain.errors import ConfigurationError

ADAPTERS = {
    "openai": "airflow_raif.adapters.openai:OpenAIAdapter",
    "anthropic": "airflow_raif.adapters.anthropic:AnthropicAdapter",
    "gemini": "airflow_raif.adapters.gemini:GeminiAdapter",
}
#: Other names that users know a provider by.
ALIASES = {"google": "gemini", "google-gla": "gemini", "openai-chat": "openai", "openai-responses": "openai"}
#: Packages register further adapters under this entry-point group: provider name = "module:Class".
ENTRY_POINTS = "airflow_raif.adapters"


def register_adapter(name: str, path: str) -> None:
    """Add a provider; ``path`` is ``module:Class``."""
    ADAPTERS[name] = path


def canonical(provider: str) -> str:
    """Return our one name of a provider."""
    return ALIASES.get(provider, provider)


def split_model(model: str) -> tuple[str | None, str]:
    """Split ``provider:model``; a model without a known provider's prefix is returned whole.

    A fine-tuned model's name (``ft:gpt-...``) holds colons of its own.
    """
    prefix, colon, name = model.partition(":")
    if colon and name and (canonical(prefix) in ADAPTERS or canonical(prefix) in _registered()):
        return canonical(prefix), name
    return None, model


def adapter_class(provider: str) -> type[Adapter]:
    """Return a provider's adapter.

    :raises ConfigurationError: there is none.
    """
    name = canonical(provider)
    path = ADAPTERS.get(name) or _registered().get(name)
    if path is None:
        known = ", ".join(sorted(ADAPTERS.keys() | _registered().keys()))
        raise ConfigurationError(f"no provider is called {provider!r}; known are {known}")
    module, _, attribute = path.partition(":")
    found: type[Adapter] = getattr(import_module(module), attribute)
    return found


def make_adapter(settings: ConnectionSettings) -> Adapter:
    """Return an adapter for a connection's settings."""
    return adapter_class(settings.provider)(settings)


def _registered() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
