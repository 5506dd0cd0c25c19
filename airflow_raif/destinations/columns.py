"""Columns of a Parquet file: their types, found by looking at rows, and the values of rows as Arrow has them."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_raif.destinations import shapes
from airflow_raif.destinations.paths import Row, holds, value_at
from airflow_raif.destinations.shapes import MixedShapeError, Shape
from airflow_raif.domain.errors import InvalidBatchError

_WITH_ARGUMENTS = re.compile(
    r"timestamp\[(?P<unit>\w+), tz=(?P<zone>[^\]]+)\]|decimal128\((?P<digits>\d+), (?P<places>\d+)\)"
)


def type_named(arrow: Any, name: str) -> Any:
    """Return the type of Arrow's that is shown by a name, such as ``date32`` or ``timestamp[us, tz=UTC]``.

    :raises ValueError: there is none.
    """
    found = _WITH_ARGUMENTS.fullmatch(name)
    if found is None:
        return arrow.type_for_alias(name)
    if found["unit"]:
        return arrow.timestamp(found["unit"], found["zone"])
    return arrow.decimal128(int(found["digits"]), int(found["places"]))


class SeenColumns:
    """What rows have, and the shapes of their values.

    :param paths: column -> path of what to look at; ``None``: all there is but for the columns that are known.
    :param known: columns whose types are known by other means.
    """

    def __init__(self, paths: Mapping[str, str] | None, known: Container[str]) -> None:
        self.count = 0
        #: Of the columns that some row had, in this order; a known one is null.
        self.shapes: dict[str, Shape] = {}
        self._paths = paths
        self._known = known

    def look_at(self, row: Row) -> None:
        """Take in another row.

        :raises InvalidBatchError: it has a value that is of no type with those before it.
        """
        self.count += 1
        if self._paths is None:
            known = self._known
            for name, value in row.items():
                if name not in known:
                    self._take(name, value, row)
            return
        for name, path in self._paths.items():
            if holds(row, path):
                self._take(name, None if name in self._known else value_at(row, path), row)

    def _take(self, name: str, value: Any, row: Row) -> None:
        before = self.shapes.setdefault(name, shapes.NULL)
        if value is None:
            return
        try:
            shape = shapes.shape_of_value(value)
            if shape is not before:
                self.shapes[name] = shapes.merged(before, shape)
        except MixedShapeError as error:
            raise InvalidBatchError(
                f"row {row['custom_id']!r} has {value!r:.100} in column {name!r}: {error}; say what it is to be in the"
                f" Parquet file, such as types={{{name!r}: 'string'}}"
            ) from error


@dataclass(frozen=True)
class Column:
    """A column of the file."""

    name: str
    #: ``None``: the row's own column of this name, also with dots in it.
    path: str | None
    type: Any
    #: ``None``: the type was given, and is what values are converted to.
    shape: Shape | None

    @classmethod
    def of(cls, arrow: Any, name: str, path: str | None, shape: Shape, given: Any) -> Column:
        """Return a column of the type that is given for it, or of its shape."""
        if given is None or given == "json":
            shape = shape if given is None else shapes.JSON
            return cls(name, path, shape.arrow_type(arrow), shape)
        return cls(name, path, given, None)

    def array(self, arrow: Any, rows: Sequence[Row]) -> Any:
        """Return the values of rows.

        :raises InvalidBatchError: one of them is not of the column's type.
        """
        path = self.path
        if path is not None and "." in path:
            values = [value_at(row, path) if holds(row, path) else None for row in rows]
        else:
            values = [row.get(path or self.name) for row in rows]
        try:
            return self._converted(arrow, values)
        except (TypeError, ValueError, OverflowError, arrow.ArrowException) as error:
            if len(rows) > 1:
                # Which of them it is.
                return arrow.concat_arrays([self.array(arrow, [row]) for row in rows])
            raise InvalidBatchError(
                f"row {rows[0]['custom_id']!r} has {values[0]!r:.100} for column {self.name!r}, which is {self.type} in"
                f" the Parquet file: {error}; give the column another type, such as types={{{self.name!r}: 'json'}}"
            ) from error

    def _converted(self, arrow: Any, values: list[Any]) -> Any:
        if self.shape is not None:
            return arrow.array([self.shape.fit(value) for value in values], self.type)
        if arrow.types.is_nested(self.type):
            return arrow.array(values, self.type)
        # JSON has no dates and no decimals: they are texts, which Arrow reads.
        texts = [value if value is None or isinstance(value, str) else shapes.JSON.fit(value) for value in values]
        return arrow.array(texts, arrow.string()).cast(self.type)
