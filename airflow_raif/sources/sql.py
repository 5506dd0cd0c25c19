"""Rows of a query, read as a stream from a cursor on the server."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.hooks.sql import sql_engine

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

#: The most rows that are here at one time.
BUFFERED_ROWS = 1000


def sql_rows(
    sql: str, conn_id: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a mapping of columns for each row of a query.

    :param parameters: for the query's placeholders, in the form that the database's driver takes.
    :raises ConfigurationError: the connection is no database.
    :raises InvalidBatchError: the statement is wrong, fails with one of its rows, returns none, or several columns of
        one name.
    """
    from sqlalchemy.exc import DBAPIError

    options: dict[str, Any] = {"stream_results": True, "max_row_buffer": BUFFERED_ROWS, "no_parameters": True}
    with sql_engine(conn_id) as engine, engine.connect().execution_options(**options) as connection:
        given = dict(parameters) if isinstance(parameters, Mapping) else tuple(parameters or ())
        try:
            result = connection.exec_driver_sql(sql, given)
            if not result.returns_rows:
                raise InvalidBatchError(f"the statement returns no rows; give a query: {sql!r:.200}")
            names = list(result.keys())
            if again := sorted({name for name in names if names.count(name) > 1}):
                raise InvalidBatchError(
                    f"the query has several columns named {', '.join(map(repr, again))}; name each with AS"
                )
            for row in result:
                yield dict(zip(names, row, strict=True))
        except DBAPIError as error:
            if not _is_of_query(error):
                raise
            raise InvalidBatchError(f"the database refuses the query: {error.orig}: {sql!r:.200}") from error


def _is_of_query(error: DBAPIError) -> bool:
    """Whether an error is the query's own, or its rows', so that it comes again."""
    from sqlalchemy.exc import DataError, NotSupportedError, ProgrammingError

    # SQLite's driver has an operational error for all that is wrong with a query, and for a locked database.
    is_sqlite_s = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return is_sqlite_s or isinstance(error, DataError | NotSupportedError | ProgrammingError)
