"""Where the metadata tables are: configuration, connection, or the embedded file."""

from __future__ import annotations

import asyncio
from threading import Lock
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook, conf

from airflow_raif.domain.errors import ConfigurationError
from airflow_raif.hooks.airflow_compat import AIRFLOW_HOME, AirflowNotFoundException

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_raif.store import Store

_STORES: dict[str, Store] = {}
_LOCK = Lock()
#: Executors whose components all share a host, and so may share a file.
_ONE_HOST_EXECUTORS = frozenset(("LocalExecutor", "SequentialExecutor"))


def find_store_url() -> tuple[str, bool]:
    """Return the store's address, and whether it is the embedded file.

    Looked for in ``[raif] sql_alchemy_conn``, then in the connection that ``[raif] state_conn_id`` names, then
    ``raif.db`` in AIRFLOW_HOME.

    :raises ConfigurationError: none of them can be used; says what to set.
    """
    if configured := _configured():
        return configured, False
    try:
        connection = BaseHook.get_connection(_state_conn_id())
    except AirflowNotFoundException:
        return _embedded(), True
    return _address(connection), False


def find_store() -> Store:
    """Return this process's store, opening it first if need be."""
    return _open(*find_store_url())


async def afind_store() -> Store:
    """Return this process's store without blocking the event loop."""
    configured = _configured()
    address, embedded = configured or "", False
    if not configured:
        try:
            address = _address(await BaseHook.aget_connection(_state_conn_id()))
        except AirflowNotFoundException:
            address, embedded = _embedded(), True
    return await asyncio.to_thread(_open, address, embedded)


def _open(address: str, embedded: bool) -> Store:
    from airflow_raif.store import Store

    with _LOCK:
        if address not in _STORES:
            _STORES[address] = Store.open(address, embedded=embedded, wait_seconds=_wait_seconds())
        return _STORES[address]


def _configured() -> str:
    return str(conf.get("raif", "sql_alchemy_conn", fallback="") or "")


def _wait_seconds() -> float:
    return float(conf.get("raif", "store_timeout", fallback="300"))


def _state_conn_id() -> str:
    return str(conf.get("raif", "state_conn_id", fallback="") or "raif_state")


def _address(connection: Connection) -> str:
    return connection.get_uri().replace("postgres://", "postgresql://", 1)


def _embedded() -> str:
    executors = str(conf.get("core", "executor", fallback="LocalExecutor"))
    names = {each.strip().rpartition(".")[2].rpartition(":")[2] for each in executors.split(",")}
    if not names <= _ONE_HOST_EXECUTORS:
        raise ConfigurationError(
            f"raif keeps its tables in a file by default, which {executors} cannot share between hosts; set [raif]"
            f" sql_alchemy_conn, or make a connection {_state_conn_id()!r} to a PostgreSQL database of raif's own, then"
            " run `airflow raif db migrate`"
        )
    return f"sqlite:///{AIRFLOW_HOME}/raif.db"
