"""An Airflow Connection as an adapter's settings: the types users already have, and our own."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from airflow_raif.adapters.base import ConnectionSettings
from airflow_raif.adapters.registry import adapter_class, split_model
from airflow_raif.domain.errors import ConfigurationError, ConnectionUnavailableError
from airflow_raif.domain.money import picodollars
from airflow_raif.hooks.lookup import aget_connection, get_connection

if TYPE_CHECKING:
    from airflow.sdk import Connection

NumberT = TypeVar("NumberT", int, float)

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
QUEUE_LIMIT_FIELDS = ("max_enqueued_tokens", "max_enqueued_requests")
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
    except Exception as error:  # noqa: BLE001 - told below, without what it may quote of the connection
        failed = _not_found(conn_id, error)
    else:
        return read_connection(connection, model)
    raise failed


async def aresolve(conn_id: str, model: str | None = None) -> ResolvedConnection:
    """Read a connection without blocking the event loop or waiting for Airflow; as :func:`resolve`."""
    try:
        connection = await aget_connection(conn_id)
    except ConnectionUnavailableError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        failed = _not_found(conn_id, error)
    else:
        return read_connection(connection, model)
    raise failed


def read_connection(connection: Connection, model: str | None = None) -> ResolvedConnection:
    """Turn a connection into settings; as :func:`resolve`."""
    extra = _mapping(connection, "extra", connection.extra_dejson)
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
    given = _mapping(connection, "default_headers", kwargs.get("default_headers"))
    headers = {str(name): str(value) for name, value in given.items()}
    for name, header in _HEADERS.items():
        if value := extra.get(name) or kwargs.get(name):
            headers[header] = str(value)
    settings = ConnectionSettings(
        provider=provider,
        api_key=connection.password,
        base_url=_base_url(connection, kwargs.get("base_url")),
        headers=headers,
        timeout_seconds=_seconds(connection, "timeout", extra.get("timeout") or kwargs.get("timeout") or 60),
        limits={name: _positive(connection, name, extra[name]) for name in LIMIT_FIELDS if extra.get(name)},
        queue_limits={
            name: _by_model(connection, provider, name, extra[name]) for name in QUEUE_LIMIT_FIELDS if extra.get(name)
        },
        max_cost_per_day=_dollars(connection, "max_cost_per_day", extra.get("max_cost_per_day")),
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


def _base_url(connection: Connection, given: Any) -> str | None:
    """Return the host field as a URL: users put a whole URL there, or a host with its port beside it.

    :param given: an address from the arguments of a client, where the host field is empty.
    """
    host = (connection.host or "").strip()
    if host and "://" not in host:
        host = f"{connection.schema or 'https'}://{host}"
    if host and connection.port and f":{connection.port}" not in host:
        host = f"{host}:{connection.port}"
    host = host or str(given or "").strip()
    if not host:
        return None
    if not _is_address(host):
        scheme, _, rest = host.partition("://")
        # A password with a character that an address cannot hold is one way to get here.
        shown = f"{scheme}://..." if "@" in rest or ":" in rest else host
        raise ConfigurationError(
            f"connection {connection.conn_id} has the host {shown!r}, which is no address; give one such as"
            " https://api.example.com/v1, or none for the provider's own; write / : @ in a user or a password as"
            " %2F %3A %40, and @ in a path as %40"
        )
    return host


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        return is_whole and "@" not in parts.path + parts.query + parts.fragment
    except ValueError:
        return False


def _number(connection: Connection, name: str, value: Any, kind: type[NumberT]) -> NumberT:
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"connection {connection.conn_id} has the {name} {value!r}; give a number") from error


def _mapping(connection: Connection, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value or {}, Mapping):
        # What it holds may be secret.
        raise ConfigurationError(
            f"connection {connection.conn_id} has a {type(value).__name__} as its {name}; give a JSON object"
        )
    return value or {}


def _seconds(connection: Connection, name: str, value: Any) -> float:
    seconds = _number(connection, name, value, float)
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise ConfigurationError(f"connection {connection.conn_id} has the {name} {value!r}; give seconds, above 0")
    return seconds


def _dollars(connection: Connection, name: str, value: Any) -> int | None:
    if value in (None, ""):
        return None
    try:
        return picodollars(value)
    except ValueError as error:
        raise ConfigurationError(f"connection {connection.conn_id} has the {name} {value!r}: {error}") from error


def _by_model(connection: Connection, provider: str, name: str, value: Any) -> int | dict[str, int]:
    """Read one number, or a mapping of models to numbers, which a form field holds as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigurationError(
                f"connection {connection.conn_id} has the {name} {value!r:.100}, which is no JSON: {error}"
            ) from error
    if isinstance(value, Mapping):
        if not adapter_class(provider).has_queue_per_model:
            raise ConfigurationError(
                f"connection {connection.conn_id} has a {name} for each model, but {provider} queues all models"
                " together; give one number"
            )
        return {str(model): _positive(connection, f"{name} of {model}", each) for model, each in value.items()}
    return _positive(connection, name, value)


def _positive(connection: Connection, name: str, value: Any) -> int:
    number = _number(connection, name, value, int)
    if number < 1:
        raise ConfigurationError(f"connection {connection.conn_id} has the {name} {number}; give 1 or more")
    return number


def _not_found(conn_id: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"there is no connection {conn_id!r} ({type(error).__name__}); make one of type raif_openai, raif_anthropic or"
        f" raif_gemini with the API key as its password, or name another by conn_id"
    )
