"""An Airflow Connection as an adapter's settings: the types users already have, and our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_raif.adapters.base import ConnectionSettings
from airflow_raif.adapters.registry import split_model
from airflow_raif.domain.errors import ConfigurationError, ConnectionUnavailableError
from airflow_raif.hooks.lookup import aget_connection, get_connection

if TYPE_CHECKING:
    from airflow.sdk import Connection

#: Connection type -> provider; ``None``: the model's ``provider:`` prefix tells.
PROVIDER_OF_TYPE: dict[str, str | None] = {
    "raif_openai": "openai",
    "raif_anthropic": "anthropic",
    "raif_gemini": "gemini",
    "openai": "openai",
    "anthropic": "anthropic",
    "pydanticai": None,
}
#: Where the types of other packages keep arguments of the official SDK client.
_CLIENT_KWARGS = ("openai_client_kwargs", "anthropic_client_kwargs")
_HEADERS = {
    "organization": "OpenAI-Organization",
    "project": "OpenAI-Project",
    "anthropic_beta": "anthropic-beta",
    "anthropic_workspace_id": "anthropic-workspace-id",
}
LIMIT_FIELDS = ("max_requests", "max_bytes", "max_request_bytes", "max_embedding_inputs")


@dataclass(frozen=True)
class ResolvedConnection:
    """What a connection says."""

    settings: ConnectionSettings
    #: The connection's own model, where it names one.
    default_model: str | None = None


def resolve(conn_id: str, model: str | None = None) -> ResolvedConnection:
    """Read a connection.

    :param model: its ``provider:`` prefix tells the provider where the connection serves several.
    :raises ConfigurationError: the connection is missing, of an unknown type, or has no key.
    :raises ConnectionUnavailableError: it cannot be looked up now.
    """
    try:
        connection = get_connection(conn_id)
    except ConnectionUnavailableError:
        raise
    except Exception as error:
        raise _not_found(conn_id, error) from error
    return read_connection(connection, model)


async def aresolve(conn_id: str, model: str | None = None) -> ResolvedConnection:
    """Read a connection without blocking the event loop or waiting for Airflow; as :func:`resolve`."""
    try:
        connection = await aget_connection(conn_id)
    except ConnectionUnavailableError:
        raise
    except Exception as error:
        raise _not_found(conn_id, error) from error
    return read_connection(connection, model)


def read_connection(connection: Connection, model: str | None = None) -> ResolvedConnection:
    """Turn a connection into settings; as :func:`resolve`."""
    extra: dict[str, Any] = connection.extra_dejson or {}
    if extra.get("platform", "anthropic") not in ("anthropic", "first_party", ""):
        raise ConfigurationError(
            f"connection {connection.conn_id} is of platform {extra['platform']!r}, whose batches are not supported;"
            " use a connection to the provider itself"
        )
    provider = _provider_of(connection, model or extra.get("model"))
    if not connection.password:
        raise ConfigurationError(f"connection {connection.conn_id} has no API key; put it into its password field")
    kwargs: Mapping[str, Any] = next(
        (extra[name] for name in _CLIENT_KWARGS if isinstance(extra.get(name), Mapping)), {}
    )
    headers = dict(kwargs.get("default_headers") or {})
    for name, header in _HEADERS.items():
        if value := extra.get(name) or kwargs.get(name):
            headers[header] = str(value)
    settings = ConnectionSettings(
        provider=provider,
        api_key=connection.password,
        base_url=_base_url(connection) or kwargs.get("base_url"),
        headers=headers,
        timeout_seconds=_seconds(connection, extra.get("timeout") or kwargs.get("timeout") or 60),
        limits={name: int(extra[name]) for name in LIMIT_FIELDS if extra.get(name)},
    )
    return ResolvedConnection(settings, extra.get("model"))


def _provider_of(connection: Connection, model: str | None) -> str:
    kind = connection.conn_type
    if kind not in PROVIDER_OF_TYPE:
        raise ConfigurationError(
            f"connection {connection.conn_id} is of type {kind!r}; use one of type {', '.join(PROVIDER_OF_TYPE)}"
        )
    of_type, of_model = PROVIDER_OF_TYPE[kind], split_model(model)[0] if model else None
    if of_type is None and of_model is None:
        raise ConfigurationError(
            f"connection {connection.conn_id} serves several providers; write the model as 'provider:model', such as"
            " 'openai:gpt-5-nano'"
        )
    if of_type is not None and of_model is not None and of_type != of_model:
        raise ConfigurationError(
            f"connection {connection.conn_id} is for {of_type}, but the model {model!r} is one of {of_model}"
        )
    return of_type or of_model or ""


def _base_url(connection: Connection) -> str | None:
    """Return the host field as a URL: users put a whole URL there, or a host with its port beside it."""
    host = (connection.host or "").strip()
    if not host:
        return None
    if "://" not in host:
        host = f"{connection.schema or 'https'}://{host}"
    if connection.port and f":{connection.port}" not in host:
        host = f"{host}:{connection.port}"
    try:
        parts = urlsplit(host)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigurationError(
            f"connection {connection.conn_id} has the host {host!r}, which is no address; give one such as"
            " https://api.example.com/v1, or none for the provider's own"
        )
    return host


def _seconds(connection: Connection, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"connection {connection.conn_id} has the timeout {value!r}; give a number of seconds"
        ) from error


def _not_found(conn_id: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"there is no connection {conn_id!r} ({type(error).__name__}); make one of type raif_openai, raif_anthropic or"
        f" raif_gemini with the API key as its password, or name another by conn_id"
    )
