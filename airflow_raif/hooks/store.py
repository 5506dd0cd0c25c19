"""Where the metadata tables are: configuration, connection, or the embedded file."""

from __future__ import annotations

import asyncio
from threading import Lock
from typing import TYPE_CHECKING

from airflow.sdk import conf

from airflow_raif.domain.errors import ConfigurationError, ConnectionUnavailableError
from airflow_raif.hooks.airflow_compat import AIRFLOW_HOME, AirflowNotFoundException
from airflow_raif.hooks.lookup import aget_connection, get_connection, patience_seconds

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_raif.store import Store

#: Looked for where nothing is configured.
DEFAULT_CONN_ID = "raif_state"
_STORES: dict[str, Store] = {}
_LOCK = Lock()
#: Executors whose components all share a host, and so may share a file.
_ONE_HOST_EXECUTORS = frozenset(("LocalExecutor", "SequentialExecutor"))


def find_store_url(patience: float | None = None) -> tuple[str, bool]:
    """Return the store's address, and whether it is the embedded file.

    Looked for in ``[raif] sql_alchemy_conn``, then in the connection that ``[raif] state_conn_id`` names, then in
    :data:`DEFAULT_CONN_ID`, then ``raif.db`` in AIRFLOW_HOME.

    :param patience: seconds to wait for a database of Airflow's that is away; those of a worker, if not given.
    :raises ConfigurationError: none of them can be used; says what to set.
    :raises ConnectionUnavailableError: the connection cannot be looked up now.
    """
    if configured := _configured("sql_alchemy_conn"):
        return configured, False
    try:
        return _address(get_connection(_conn_id(), patience)), False
    except AirflowNotFoundException as error:
        return _embedded(error), True


def find_store() -> Store:
    """Return this process's store, opening it first if need be."""
    return _open(*find_store_url(), patience_seconds())


def find_store_at_once() -> Store:
    """Return this process's store for somebody who waits for an answer, and so for no database that is away."""
    return _open(*find_store_url(0.0), 0.0).without_wait()


async def afind_store() -> Store:
    """Return this process's store without blocking the event loop; it waits for no database that is away."""
    address, embedded = _configured("sql_alchemy_conn"), False
    if not address:
        try:
            address = _address(await aget_connection(_conn_id()))
        except AirflowNotFoundException as error:
            address, embedded = _embedded(error), True
    return await asyncio.to_thread(_open, address, embedded, 0.0)


def where_store_is_set() -> str:
    """Return what tells where the store is, in words."""
    if _configured("sql_alchemy_conn"):
        return "[raif] sql_alchemy_conn"
    return "the default" if find_store_url()[1] else f"connection {_conn_id()}"


def is_one_host() -> bool:
    """Whether the executor runs tasks where everything else runs, so that they may share files."""
    executors = str(conf.get("core", "executor", fallback="LocalExecutor"))
    names = {each.strip().rpartition(".")[2].rpartition(":")[2] for each in executors.split(",")}
    return names <= _ONE_HOST_EXECUTORS


def _open(address: str, embedded: bool, wait_seconds: float) -> Store:
    from airflow_raif.store import Store

    with _LOCK:
        if address not in _STORES:
            _STORES[address] = Store.open(address, embedded=embedded, wait_seconds=wait_seconds)
        return _STORES[address]


def _configured(option: str) -> str:
    return str(conf.get("raif", option, fallback="") or "")


def _conn_id() -> str:
    return _configured("state_conn_id") or DEFAULT_CONN_ID


def _address(connection: Connection) -> str:
    return connection.get_uri().replace("postgres://", "postgresql://", 1)


def _embedded(missing: AirflowNotFoundException) -> str:
    if named := _configured("state_conn_id"):
        # A secrets backend that does not answer looks just like this: never take another store for it.
        raise ConnectionUnavailableError(
            f"[raif] state_conn_id names the connection {named!r}, which Airflow does not find; make it, or see why its"
            " secrets backend does not answer"
        ) from missing
    if not is_one_host():
        executors = conf.get("core", "executor")
        raise ConfigurationError(
            f"raif keeps its tables in a file by default, which {executors} cannot share between hosts; set [raif]"
            f" sql_alchemy_conn, or make a connection {DEFAULT_CONN_ID!r} to a PostgreSQL database of raif's own, then"
            " run `airflow raif db migrate`"
        )
    return f"sqlite:///{AIRFLOW_HOME}/raif.db"
