"""Put together what services work with, from Airflow's connections and configuration."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow.sdk import conf

from airflow_raif.domain.errors import ConnectionUnavailableError, StoreUnavailableError
from airflow_raif.hooks.connections import ResolvedConnection, aresolve, resolve
from airflow_raif.hooks.metrics import AirflowMetrics
from airflow_raif.hooks.prices import price_book
from airflow_raif.hooks.spool import spool_folder
from airflow_raif.hooks.store import afind_store, find_store

if TYPE_CHECKING:
    from airflow_raif.domain.batch import Batch
    from airflow_raif.services.poller import SharedPoller
    from airflow_raif.services.runtime import Runtime
    from airflow_raif.store import Store

log = logging.getLogger(__name__)

#: Between two attempts to open a poller while a database is away.
OPEN_PAUSE_SECONDS = 10.0


@dataclass
class _Slot:
    """The place of one connection's poller."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    poller: SharedPoller | None = None


_SLOTS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], _Slot]] = WeakKeyDictionary()


@contextmanager
def open_runtime(
    conn_id: str, model: str | None = None, is_ending: Callable[[], bool] | None = None
) -> Iterator[Runtime]:
    """Open what a worker needs to work on batches of one connection.

    :param model: tells the provider by its ``provider:`` prefix where the connection serves several.
    :param is_ending: tells whether the task was told to end, so that nothing more is to be sent.
    :raises ConfigurationError: the connection or the store is missing or wrong.
    """
    with _runtime(conn_id, resolve(conn_id, model), find_store()) as runtime:
        yield runtime if is_ending is None else replace(runtime, is_ending=is_ending)


@contextmanager
def open_batch_runtime(batch_id: str, is_ending: Callable[[], bool] | None = None) -> Iterator[tuple[Runtime, Batch]]:
    """Open what a worker needs to work on a batch that exists, by the connection it was made with."""
    batch = find_store().get_batch(batch_id)
    with open_runtime(batch.conn_id, f"{batch.provider}:{batch.model}", is_ending) as runtime:
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
            metrics=AirflowMetrics(),
            parallel_downloads=conf.getint("raif", "parallel_downloads", fallback=4),
        )


async def shared_poller(conn_id: str, model: str | None = None) -> SharedPoller:
    """Return the poller of a connection in the running event loop, opening it if nobody waits yet.

    Databases that are away, Airflow's or ours, are waited out.

    :raises ConfigurationError: the connection or the store is missing or wrong.
    """
    slots = _SLOTS.setdefault(asyncio.get_running_loop(), {})
    provider = model.partition(":")[0] if model and ":" in model else ""
    slot = slots.setdefault((conn_id, provider), _Slot())
    # One opens it and the others wait for that: a lookup costs the triggerer's supervisor up to seconds.
    async with slot.lock:
        if slot.poller is None or slot.poller.is_closed:
            slot.poller = await _open_poller(conn_id, model)
        return slot.poller


async def _open_poller(conn_id: str, model: str | None) -> SharedPoller:
    while True:
        try:
            connection, store = await aresolve(conn_id, model), await afind_store()
        except (ConnectionUnavailableError, StoreUnavailableError) as error:
            log.warning("Batches of %s cannot be polled, trying again later: %s", conn_id, error)
            await asyncio.sleep(OPEN_PAUSE_SECONDS)
        else:
            # In a thread, since it imports much and loads the certificates.
            return await asyncio.to_thread(_make_poller, conn_id, connection, store)


def _make_poller(conn_id: str, connection: ResolvedConnection, store: Store) -> SharedPoller:
    from airflow_raif.adapters.http import AsyncHttpTransport
    from airflow_raif.adapters.registry import make_adapter
    from airflow_raif.services.poller import SharedPoller

    adapter = make_adapter(connection.settings)
    return SharedPoller(
        adapter, AsyncHttpTransport(adapter), store.without_wait(), metrics=AirflowMetrics(), conn_id=conn_id
    )


async def cancel_from_trigger(conn_id: str, model: str | None, batch_id: str) -> None:
    """Cancel a batch from the triggerer: connections are asked for on the loop, the calls run in a thread."""
    from airflow_raif.services.cancel import cancel_batch

    connection, store = await aresolve(conn_id, model), await afind_store()

    def cancel() -> None:
        with _runtime(conn_id, connection, store) as runtime:
            cancel_batch(runtime, batch_id)

    await asyncio.to_thread(cancel)
