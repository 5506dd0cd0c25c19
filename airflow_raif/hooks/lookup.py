"""Look connections up, and tell one that is missing from one that cannot be looked up now."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import tenacity
from airflow.sdk import BaseHook, conf

from airflow_raif.domain.errors import ConnectionUnavailableError
from airflow_raif.hooks.airflow_compat import (
    AirflowNotFoundException,
    aask_database,
    ask_database,
    ask_secrets_backend,
)

if TYPE_CHECKING:
    from airflow.sdk import Connection

log = logging.getLogger(__name__)


def patience_seconds() -> float:
    """Return how long a worker waits for databases that are away."""
    return float(conf.get("raif", "store_timeout", fallback="300"))


def get_connection(conn_id: str, patience: float | None = None) -> Connection:
    """Return a connection; a database of Airflow's that is away is waited for.

    :param patience: for so many seconds; as long as a worker waits, if none are given.
    :raises AirflowNotFoundException: there is none.
    :raises ConnectionUnavailableError: that cannot be told.
    """
    patiently = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ConnectionUnavailableError),
        stop=tenacity.stop_after_delay(patience_seconds() if patience is None else patience),
        wait=tenacity.wait_exponential_jitter(initial=0.5, max=15),
        before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    return patiently(_get_connection, conn_id)


def _get_connection(conn_id: str) -> Connection:
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        # Airflow says so, too, when its database (3.3) or a secrets backend does not answer: ask them, then look again.
        try:
            ask_secrets_backend(conn_id)
            ask_database()
        except Exception as error:
            raise _unavailable(conn_id, error) from error
        return BaseHook.get_connection(conn_id)


async def aget_connection(conn_id: str) -> Connection:
    """Return a connection without blocking the event loop; as :func:`get_connection`, but without waiting."""
    try:
        return await BaseHook.aget_connection(conn_id)
    except AirflowNotFoundException:
        try:
            await asyncio.to_thread(ask_secrets_backend, conn_id)
            await aask_database()
        except Exception as error:
            raise _unavailable(conn_id, error) from error
        return await BaseHook.aget_connection(conn_id)


def _unavailable(conn_id: str, error: Exception) -> ConnectionUnavailableError:
    return ConnectionUnavailableError(
        f"connection {conn_id!r} cannot be looked up, since Airflow's database or its secrets backend does not answer"
        f" ({type(error).__name__}); a retry goes on from here"
    )
