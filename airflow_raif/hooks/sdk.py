"""Official SDK clients, configured from a connection; imported only when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from airflow_raif.adapters.base import ConnectionSettings
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.errors import ConfigurationError

#: Provider -> (module, client, async client, extra of this package).
_CLIENTS = {
    "openai": ("openai", "OpenAI", "AsyncOpenAI", "openai"),
    "anthropic": ("anthropic", "Anthropic", "AsyncAnthropic", "anthropic"),
    "gemini": ("google.genai", "Client", "Client", "google"),
}


def make_client(settings: ConnectionSettings, *, is_async: bool = False) -> Any:
    """Return the provider's official client; for Gemini the asynchronous one is its client's ``aio``.

    :raises ConfigurationError: the SDK is not installed, or the provider has none.
    """
    if settings.provider not in _CLIENTS:
        raise ConfigurationError(f"{settings.provider} has no official SDK here; use the batch operators")
    module_name, sync_name, async_name, extra = _CLIENTS[settings.provider]
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(
            f"the SDK of {settings.provider} is not installed: pip install 'airflow-raif[{extra}]'"
        ) from error
    client = getattr(module, async_name if is_async else sync_name)(**_arguments(settings))
    return client.aio if is_async and settings.provider == "gemini" else client


def _arguments(settings: ConnectionSettings) -> dict[str, Any]:
    # The adapter knows whether the provider's address ends with a version.
    base_url = make_adapter(settings).base_url if settings.base_url else None
    if settings.provider == "gemini":
        options: dict[str, Any] = {"timeout": int(settings.timeout_seconds * 1000), "headers": dict(settings.headers)}
        if base_url:
            options["base_url"] = base_url
        return {"api_key": settings.api_key, "http_options": options}
    arguments: dict[str, Any] = {
        "api_key": settings.api_key,
        "timeout": settings.timeout_seconds,
        "default_headers": dict(settings.headers),
    }
    if base_url:
        arguments["base_url"] = base_url
    return arguments
