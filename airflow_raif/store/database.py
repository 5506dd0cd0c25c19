"""The database behind the store: how it is opened, and one transaction in it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, RootTransaction

from airflow_raif.store.engine import make_engine, parse_url, store_errors, waiting
from airflow_raif.store.migrate import check_revision, upgrade_engine

#: What makes a server show all statements of a transaction the same moment; SQLite does so anyway.
_AT_ONE_MOMENT: dict[str, dict[str, Any]] = {
    "postgresql": {"postgresql_readonly": True, "isolation_level": "REPEATABLE READ"}
}


class Database:
    """One database, and transactions in it."""

    def __init__(self, engine: Engine, *, wait_seconds: float = 0.0) -> None:
        self._engine = engine
        self._wait_seconds = wait_seconds

    @classmethod
    def open(cls, address: str, *, embedded: bool = False, wait_seconds: float = 0.0) -> Self:
        """Open a store.

        :param embedded: an SQLite file that comes up, and is migrated, on first use.
        :param wait_seconds: how long every transaction waits for a database that is away before it gives up.
        :raises StoreNotReadyError: a server's tables are missing or of another revision.
        :raises StoreUnavailableError: the database does not answer.
        """
        url = parse_url(address)
        engine = make_engine(url)
        try:
            with store_errors(url):
                if embedded and url.database:
                    with _locked(Path(f"{url.database}.lock")):
                        upgrade_engine(engine)
                waiting(wait_seconds)(check_revision, engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, wait_seconds=wait_seconds)

    def without_wait(self) -> Self:
        """Return the same store for one who comes again by himself: it gives up at once if the database is away."""
        return type(self)(self._engine)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with store_errors(self._engine.url):
            connection, transaction = waiting(self._wait_seconds)(self._begin)
            with connection, transaction:
                yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads, at one moment of the database, and keeps nobody from writing."""
        with store_errors(self._engine.url):
            connection, transaction = waiting(self._wait_seconds)(self._begin, is_reading=True)
            with connection, transaction:
                yield connection

    def _begin(self, *, is_reading: bool = False) -> tuple[Connection, RootTransaction]:
        connection = self._engine.connect()
        if is_reading:
            connection = connection.execution_options(
                is_reading=True, **_AT_ONE_MOMENT.get(self._engine.dialect.name, {})
            )
        try:
            return connection, connection.begin()
        except BaseException:
            connection.close()
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time create or migrate an embedded file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
