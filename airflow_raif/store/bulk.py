"""Many entries in one go, by each database's own way: COPY on PostgreSQL, long prepared statements on SQLite.

Both pass SQLAlchemy's compiler by, which costs more per row than the database does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from airflow_raif.store.tables import entry

Row = tuple[Any, ...]
#: Values that tell an entry: batch_key and idx.
_KEY_LENGTH = 2
#: Rows in one INSERT of SQLite; its driver takes longer to begin a statement than to bind a row.
_ROWS = 50


def insert(connection: Connection, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Insert entries.

    :param names: the columns of a row's values.
    :raises IntegrityError: one is there already.
    """
    into = f"{entry.name} ({', '.join(names)})"
    if _is_postgres(connection):
        _copy(connection, into, rows)
        return
    marks = f"({', '.join('?' * len(names))})"
    whole = len(rows) - len(rows) % _ROWS
    many = (tuple(chain.from_iterable(rows[start : start + _ROWS])) for start in range(0, whole, _ROWS))
    _run_many(connection, f"INSERT INTO {into} VALUES {', '.join([marks] * _ROWS)}", many)
    _run_many(connection, f"INSERT INTO {into} VALUES {marks}", rows[whole:])


class Values:
    """Rows of values for entries, to be used by statements of the same transaction.

    :param names: the columns of a row's values, the entry's key first.
    :param rows: of several for one entry PostgreSQL takes the first; for SQLite they are used one after the other.
    """

    def __init__(self, connection: Connection, names: Sequence[str], rows: Sequence[Row]) -> None:
        self._connection = connection
        self._names = names
        self._rows = rows
        if _is_postgres(connection):
            first = {row[:_KEY_LENGTH]: row for row in reversed(rows)}
            columns = ", ".join(names)
            connection.exec_driver_sql("DROP TABLE IF EXISTS pg_temp.raif_new")
            connection.exec_driver_sql(
                f"CREATE TEMPORARY TABLE raif_new ON COMMIT DROP AS SELECT {columns} FROM {entry.name} WITH NO DATA"
            )
            _copy(connection, f"raif_new ({columns})", first.values())

    def update(self, values: str, condition: str) -> int:
        """Update the entries that meet a condition; return how many did.

        :param values: SQL of what is set; like the condition, it has ``{name}`` for a row's own value.
        """
        if _is_postgres(self._connection):
            new = {name: f"raif_new.{name}" for name in self._names}
            statement = f"UPDATE {entry.name} SET {values} FROM raif_new WHERE {condition}"
            return self._connection.exec_driver_sql(statement.format(**new)).rowcount
        new = {name: f"?{number}" for number, name in enumerate(self._names, 1)}
        statement = f"UPDATE {entry.name} SET {values} WHERE {condition}"
        return _run_many(self._connection, statement.format(**new), self._rows)


def _is_postgres(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def _copy(connection: Connection, into: str, rows: Iterable[Row]) -> None:
    statement = f"COPY {into} FROM STDIN"
    with _cursor(connection, statement) as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def _run_many(connection: Connection, statement: str, rows: Iterable[Row]) -> int:
    with _cursor(connection, statement) as cursor:
        return int(cursor.executemany(statement, rows).rowcount)


@contextmanager
def _cursor(connection: Connection, statement: str) -> Iterator[Any]:
    """Open the driver's own cursor; its errors come as SQLAlchemy's."""
    driver_error = connection.dialect.loaded_dbapi.Error
    try:
        with closing(connection.connection.cursor()) as cursor:
            yield cursor
    except driver_error as error:
        raise DBAPIError.instance(statement, (), error, driver_error, dialect=connection.dialect) from error
