"""Put together what services work with, from Airflow's connections and configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_raif.hooks.connections import ResolvedConnection, aresolve, resolve
from airflow_raif.hooks.prices import price_book
from airflow_raif.hooks.spool import spool_folder
from airflow_raif.hooks.store import afind_store, find_store

if TYPE_CHECKING:
    from airflow_raif.domain.batch import Batch
    from airflow_raif.services.poller import SharedPoller
    from airflow_raif.services.runtime import Runtime
    from airflow_raif.store import Store

_POLLERS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], SharedPoller]] = WeakKeyDictionary()


@contextmanager
def open_runtime(conn_id: str, model: str | None = None) -> Iterator[Runtime]:
    """Open what a worker needs to work on batches of one connection.

    :param model: tells the provider by its ``provider:`` prefix where the connection serves several.
    :raises ConfigurationError: the connection or the store is missing or wrong.
    """
    with _runtime(conn_id, resolve(conn_id, model), find_store()) as runtime:
        yield runtime


@contextmanager
def open_batch_runtime(batch_id: str) -> Iterator[tuple[Runtime, Batch]]:
    """Open what a worker needs to work on a batch that exists, by the connection it was made with."""
    store = find_store()
    batch = store.get_batch(batch_id)
    connection = resolve(batch.conn_id, f"{batch.provider}:{batch.model}")
    with _runtime(batch.conn_id, connection, store) as runtime:
        yield runtime, batch


@contextmanager
def _runtime(conn_id: str, connection: ResolvedConnection, store: Store) -> Iterator[Runtime]:
    from airflow_raif.adapters.http import HttpTransport
    from airflow_raif.adapters.registry import make_adapter
    from airflow_raif.services.runtime import Runtime

    adapter = make_adapter(connection.settings)
    with HttpTransport(adapter) as transport:
        yield Runtime(
            store=store,
            adapter=adapter,
            transport=transport,
            spool=spool_folder(),
            conn_id=conn_id,
            prices=price_book(),
        )


async def shared_poller(conn_id: str, model: str | None = None) -> SharedPoller:
    """Return the poller of a connection in the running event loop, opening it if nobody waits yet."""
    from airflow_raif.adapters.http import AsyncHttpTransport
    from airflow_raif.adapters.registry import make_adapter
    from airflow_raif.services.poller import SharedPoller

    pollers = _POLLERS.setdefault(asyncio.get_running_loop(), {})
    provider = model.partition(":")[0] if model and ":" in model else ""
    key = (conn_id, provider)
    if (poller := pollers.get(key)) is not None and not poller.is_closed:
        return poller
    connection = await aresolve(conn_id, model)
    store = await afind_store()
    # Another trigger may have been faster while this one awaited.
    if (poller := pollers.get(key)) is None or poller.is_closed:
        adapter = make_adapter(connection.settings)
        poller = pollers[key] = SharedPoller(adapter, AsyncHttpTransport(adapter), store)
    return poller


async def cancel_from_trigger(conn_id: str, model: str | None, batch_id: str) -> None:
    """Cancel a batch from the triggerer: connections are asked for on the loop, the calls run in a thread."""
    from airflow_raif.services.cancel import cancel_batch

    connection, store = await aresolve(conn_id, model), await afind_store()

    def cancel() -> None:
        with _runtime(conn_id, connection, store) as runtime:
            cancel_batch(runtime, batch_id)

    await asyncio.to_thread(cancel)
