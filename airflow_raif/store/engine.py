"""Opening the store's database, and its errors in our words."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tenacity
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from airflow_raif.domain.errors import ConfigurationError, StoreError, StoreUnavailableError

log = logging.getLogger(__name__)

#: Seconds until a server that says nothing counts as away.
CONNECT_TIMEOUT = 10
#: Seconds after which the server ends a transaction whose process is frozen, since others wait for what it locked.
FROZEN_SECONDS = 60


def waiting(seconds: float) -> tenacity.Retrying:
    """Return what calls again while the database is away, for so many seconds, before it gives up with the error."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((OperationalError, PoolTimeoutError, StoreUnavailableError)),
        stop=tenacity.stop_after_delay(seconds),
        wait=tenacity.wait_exponential_jitter(initial=0.5, max=15),
        before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
        reraise=True,
    )


def parse_url(address: str) -> URL:
    """Read a database address; PostgreSQL is spoken through psycopg 3 whatever driver is named.

    :raises ConfigurationError: it is no address, or of a database the store does not speak.
    """
    try:
        url: URL | None = make_url(address)
    except (SQLAlchemyError, ValueError):
        url = None
    backend = url.drivername.partition("+")[0] if url is not None else ""
    is_server = backend in ("postgres", "postgresql")
    if url is None or (is_server and re.search(r"[@\s]", f"{url.host}{url.database}")):
        # Not with the error of the library in its chain, which quotes pieces of the address.
        raise ConfigurationError(
            "the store's address is not a database URL such as postgresql://user:password@host/raif; write / : @ and"
            " blanks in a user or a password as %2F %3A %40 %20"
        )
    if is_server:
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        return url.set(drivername="sqlite")
    raise ConfigurationError(f"the store runs on PostgreSQL or SQLite, not on {backend!r}")


def make_engine(url: URL) -> Engine:
    """Open a small pool of connections.

    :raises ConfigurationError: the database's driver is not installed.
    """
    try:
        if url.get_backend_name() == "sqlite":
            return _sqlite_engine(url)
        return _server_engine(url)
    except ModuleNotFoundError as error:
        raise ConfigurationError("PostgreSQL needs its driver: pip install 'airflow-raif[postgres]'") from error


def _server_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        pool_size=2,
        max_overflow=2,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={"connect_timeout": CONNECT_TIMEOUT},
    )

    @event.listens_for(engine, "connect")
    def bound_transactions(connection: Any, _record: Any) -> None:
        # Not a startup parameter, which a pooler may refuse.
        connection.execute(f"SET idle_in_transaction_session_timeout = '{FROZEN_SECONDS}s'")
        connection.commit()

    return engine


def _sqlite_engine(url: URL) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": 15, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        # Transactions are begun by the hook below: the driver's own would start a write too late and fail as busy.
        connection.isolation_level = None
        # FULL: a loss of power must not undo the intent of a create that was sent after it.
        for pragma in ("busy_timeout=15000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        is_reading = connection.get_execution_options().get("is_reading", False)
        connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")

    return engine


def shown(url: URL) -> str:
    """Return an address for a message: without its password, which may also be in the query."""
    return url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def store_errors(url: URL) -> Iterator[None]:
    """Turn the database's errors into ours; the address is shown without its password."""
    address = shown(url)
    try:
        yield
    except (StatementError, PoolTimeoutError) as error:
        # Also a transaction that the server ended, since it took its process for frozen.
        is_lost = isinstance(error, OperationalError) or getattr(error, "connection_invalidated", False)
        if isinstance(error, StatementError) and not is_lost:
            raise StoreError(f"the store at {address} refused a statement: {error.orig}") from error
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()
        raise StoreUnavailableError(
            f"the store at {address} does not answer: {reason[0] if reason else error}"
        ) from error
