"""A table of the user's own, into which results are upserted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_raif.destinations.paths import Row, check_paths, value_at
from airflow_raif.domain.errors import ConfigurationError, InvalidBatchError
from airflow_raif.hooks.sql import sql_engine

if TYPE_CHECKING:
    from sqlalchemy import Column, ColumnElement, Connection, Engine, Table

log = logging.getLogger(__name__)

#: Rows in one transaction.
CHUNK_ROWS = 500


class SqlTable:
    """Upserts results by their keys: a row that is there is updated, another one inserted, in bounded transactions.

    :param conn_id: connection of the database.
    :param table: the table's name, with its schema if need be: ``schema.table``. A template of Airflow's.
    :param keys: columns that tell a row. Their values are the row's own columns of the same names, unless ``columns``
        says otherwise.
    :param columns: where each column's value is in a result row: ``output``, ``output.mood``, ``cost.batch``,
        ``custom_id``, or a column of the row's own.
    :param failed: write rows that failed, too; otherwise what the table has of them stays as it is.
    """

    template_fields: Sequence[str] = ("table",)

    def __init__(
        self, conn_id: str, table: str, *, keys: Sequence[str], columns: Mapping[str, str], failed: bool = False
    ) -> None:
        if isinstance(keys, str) or not keys or not set(columns) - set(keys):
            raise ValueError(f"give keys as a list of columns, and columns to be written; got {keys!r} and {columns!r}")
        self.conn_id = conn_id
        self.table = table
        self.keys = tuple(keys)
        self.paths = {key: key for key in keys} | dict(columns)
        self.failed = failed

    def __repr__(self) -> str:
        return f"SqlTable({self.conn_id!r}, {self.table!r}, keys={list(self.keys)}, columns={self.paths})"

    def check(self, output_schema: Mapping[str, Any] | None) -> None:
        """See that the table has the columns, that keys can be keys, and that answers have what is written of them.

        :raises ConfigurationError: they do not.
        """
        check_paths(self.paths, output_schema)
        with sql_engine(self.conn_id) as engine:
            self._table(engine)

    def write(self, rows: Iterable[Row]) -> int:
        """Write rows of a result file; return how many were written.

        :raises ConfigurationError: as :meth:`check`.
        :raises InvalidBatchError: a row has no value for a key, or one that its column cannot hold.
        """
        count = 0
        wanted = (row for row in rows if self.failed or row["status"] == "completed")
        with sql_engine(self.conn_id) as engine:
            table = self._table(engine)
            values = self._values(table, wanted)
            while chunk := list(islice(values, CHUNK_ROWS)):
                self._write_chunk(engine, table, chunk)
                count += len(chunk)
        log.info("Wrote %s rows into %s (connection %s)", count, self.table, self.conn_id)
        return count

    def _table(self, engine: Engine) -> Table:
        from sqlalchemy import MetaData, Table
        from sqlalchemy.exc import NoSuchTableError

        schema, _, name = self.table.rpartition(".")
        listeners = [("column_reflect", _as_sqlite_has_it)] if engine.dialect.name == "sqlite" else []
        try:
            table = Table(
                name, MetaData(), schema=schema or None, autoload_with=engine, resolve_fks=False, listeners=listeners
            )
        except NoSuchTableError as error:
            raise ConfigurationError(f"connection {self.conn_id!r} has no table {self.table!r}") from error
        if missing := [name for name in self.paths if name not in table.c]:
            raise ConfigurationError(
                f"table {self.table!r} has no column {', '.join(map(repr, missing))}; it has"
                f" {', '.join(table.c.keys())}"
            )
        for key in self.keys:
            if _python_type(table.c[key]) in (dict, list):
                raise ConfigurationError(
                    f"column {key!r} of {self.table!r} is {table.c[key].type}, which cannot be a key; name columns of"
                    " single values"
                )
        return table

    def _values(self, table: Table, rows: Iterable[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in rows:
            values = {name: _as(table.c[name], value_at(row, path), row) for name, path in self.paths.items()}
            if nulls := [key for key in self.keys if values[key] is None]:
                raise InvalidBatchError(
                    f"row {row['custom_id']!r} has no {', '.join(self.paths[key] for key in nulls)}, which is a key of"
                    f" {self.table}"
                )
            yield row["custom_id"], values

    def _write_chunk(
        self, engine: Engine, table: Table, chunk: Sequence[tuple[str, dict[str, Any]]], *, is_again: bool = False
    ) -> None:
        from sqlalchemy.exc import DataError, IntegrityError

        # Of several with one key the last one counts, as if they were written one by one.
        by_key = {tuple(values[key] for key in self.keys): values for _, values in chunk}
        try:
            with engine.begin() as connection:
                self._upsert(connection, table, by_key)
        except (DataError, IntegrityError, ValueError, OverflowError) as error:
            if len(chunk) > 1:
                # Which of them it is; of two keys that are one to the database, the second finds the first.
                for each in chunk:
                    self._write_chunk(engine, table, [each])
                return
            if isinstance(error, IntegrityError) and not is_again:
                # Another task may have inserted the row meanwhile.
                self._write_chunk(engine, table, chunk, is_again=True)
                return
            why = getattr(error, "orig", error)
            raise InvalidBatchError(f"row {chunk[0][0]!r} cannot be written into {self.table}: {why}") from error

    def _upsert(self, connection: Connection, table: Table, by_key: Mapping[tuple[Any, ...], dict[str, Any]]) -> None:
        from sqlalchemy import Float, Numeric, and_, bindparam, cast, insert, or_, select, update

        keys = [table.c[key] for key in self.keys]

        def held(column: Column[Any], value: Any) -> Any:
            # A number is found as the column rounds it.
            return cast(value, column.type) if isinstance(column.type, Float | Numeric) else value

        def is_one(key: tuple[Any, ...]) -> ColumnElement[bool]:
            return and_(*(column == held(column, value) for column, value in zip(keys, key, strict=True)))

        if len(keys) == 1:
            are_these: ColumnElement[bool] = keys[0].in_([held(keys[0], key) for (key,) in by_key])
        else:
            are_these = or_(*map(is_one, by_key))
        there = {tuple(row) for row in connection.execute(select(*keys).where(are_these))}
        if not there <= by_key.keys():
            # The database gives some in a form of its own: padded, in another case, in another time zone.
            there = {key for key in by_key if connection.execute(select(*keys).where(is_one(key))).first()}
        new = [values for key, values in by_key.items() if key not in there]
        old = [values for key, values in by_key.items() if key in there]
        if old:
            # By numbers: a name that is made of a column's may be that of another column.
            numbered = {name: f"raif_{number}" for number, name in enumerate(self.paths)}
            names = [name for name in self.paths if name not in self.keys]
            statement = update(table).where(
                *(column == held(column, bindparam(numbered[column.name])) for column in keys)
            )
            connection.execute(
                statement.values({name: bindparam(numbered[name]) for name in names}),
                [{numbered[name]: value for name, value in values.items()} for values in old],
            )
        if new:
            connection.execute(insert(table), new)


def _as_sqlite_has_it(_inspector: Any, _table: Any, found: dict[str, Any]) -> None:
    """Give a reflected column the type by which SQLite takes what it takes.

    A type that SQLAlchemy does not know there, such as UUID, is NUMERIC to it, which SQLite puts texts into all the
    same; JSONB asks for a function that SQLite has since 3.45 only.
    """
    from sqlalchemy import JSON, NUMERIC
    from sqlalchemy.types import NullType

    if isinstance(found["type"], NUMERIC):
        found["type"] = NullType()
    elif isinstance(found["type"], JSON):
        found["type"] = JSON()


def _python_type(column: Column[Any]) -> type:
    from sqlalchemy import JSON

    try:
        return dict if isinstance(column.type, JSON) else column.type.python_type
    except NotImplementedError:
        return object


def _as(column: Column[Any], value: Any, row: Row) -> Any:
    """Return a value of a result file as the column's type wants it: JSON has no dates, decimals or UUIDs."""
    import msgspec
    from sqlalchemy import JSON

    if value is None or isinstance(column.type, JSON):
        return value
    kind = _python_type(column)
    if isinstance(value, dict | list) and kind not in (dict, list):
        value = msgspec.json.encode(value).decode()
    if isinstance(value, bool) and kind in (int, float, Decimal):
        return kind(value)
    if isinstance(value, kind):
        return value
    if kind is str or (kind is Decimal and isinstance(value, float)):
        # A float is written with as many digits as tell it, which are those of the file.
        return kind(str(value))
    try:
        if isinstance(value, str) and kind in (date, datetime):
            moment = datetime.fromisoformat(value)
            return moment if kind is datetime else moment.date()
        return msgspec.convert(value, kind, strict=False)
    except (ValueError, msgspec.ValidationError, TypeError) as error:
        raise InvalidBatchError(
            f"row {row['custom_id']!r} has {value!r:.100} for column {column.name!r}, which is {column.type}: {error}"
        ) from error
