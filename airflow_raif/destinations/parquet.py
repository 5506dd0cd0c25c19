"""A Parquet file of the user's own, into which results are written."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from airflow_raif.destinations import shapes
from airflow_raif.destinations.columns import Column, SeenColumns, type_named
from airflow_raif.destinations.paths import Row, check_paths
from airflow_raif.destinations.shapes import Shape
from airflow_raif.domain.errors import ConfigurationError, InvalidBatchError
from airflow_raif.domain.request import RESULT_FIELDS
from airflow_raif.domain.usage import Usage
from airflow_raif.hooks.arrow import load_parquet
from airflow_raif.hooks.spool import folder_at

if TYPE_CHECKING:
    from airflow_raif.services.results import Results
    from airflow_raif.spool.files import Folder

log = logging.getLogger(__name__)

#: Rows that are here as Python's objects at one time.
CHUNK_ROWS = 256
#: A row group ends with so many rows, or bytes before they are compressed; so much is held in memory.
ROW_GROUP_ROWS = 100_000
ROW_GROUP_BYTES = 32 << 20
ENDING = ".parquet"
#: A type by its name in Arrow, ``json`` for JSON text, or Arrow's own.
ColumnType = Any

_OBJECT = "object"
#: What a result row has beside columns of the user's own, in this order; ``output`` is by its schema or by what it is.
_RESULT_SHAPES = {
    "status": shapes.STRING,
    "reason": shapes.STRING,
    "output": None,
    "raw_output": shapes.STRING,
    "tool_calls": Shape(
        "array",
        Shape(_OBJECT, fields={"id": shapes.STRING, "name": shapes.STRING, "arguments": shapes.JSON}),
    ),
    "error": Shape(_OBJECT, fields={"message": shapes.STRING, "code": shapes.STRING, "status": shapes.INTEGER}),
    "model": shapes.STRING,
    "finish_reason": shapes.STRING,
    "usage": Shape(_OBJECT, fields=dict.fromkeys(Usage.__struct_fields__, shapes.INTEGER)),
    "cost": Shape(_OBJECT, fields={"batch": shapes.MONEY, "standard": shapes.MONEY}),
}


class Parquet:
    """Writes results as a Parquet file, whole or not at all; each execution of the task writes it anew.

    Its columns are those of a result row but for ``model_response``, in which ``output``, ``usage`` and ``cost`` are
    structs; or those that ``columns`` picks. What follows the output schema has the types of that, whatever the answers
    hold: where it allows several types, or does not name an object's fields, the column is JSON text. A column of the
    user's own has the type of its values: booleans, integers of 64 bits, doubles, texts, lists of these, and JSON text
    for objects; integers beside doubles are doubles. If they have no type in common the file is not written, and
    ``types`` is to say what they are.

    Applied by parts, each part's rows are in a file of their own, whose name has the first row's position before the
    ending.

    :param path: address of the file, which ends with ``.parquet``, on any object storage; a template of Airflow's.
    :param columns: where each column's value is in a result row: ``output``, ``output.mood``, ``cost.batch``,
        ``custom_id``, or a column of the row's own; default: all there is.
    :param types: types of columns, where they are not to be as said above: a name of Arrow's, such as ``date32``,
        ``timestamp[us, tz=UTC]``, ``decimal128(8, 2)`` or ``string``; ``json`` for JSON text; or a type of Arrow's own.
    :param failed: write rows that failed, too.
    """

    template_fields: Sequence[str] = ("path",)

    def __init__(
        self,
        path: str,
        *,
        columns: Mapping[str, str] | None = None,
        types: Mapping[str, ColumnType] | None = None,
        failed: bool = True,
    ) -> None:
        if not path.endswith((ENDING, "}")):
            raise ValueError(f"give the address of a file that ends with {ENDING}, not {path!r}")
        if columns is not None and (not columns or set(types or ()) - set(columns)):
            raise ValueError(f"give columns to be written, and types of these alone; got {columns!r} and {types!r}")
        self.path = path
        self.columns = None if columns is None else dict(columns)
        self.types = dict(types or {})
        self.failed = failed

    def __repr__(self) -> str:
        types = {name: str(kind) for name, kind in self.types.items()}
        return f"Parquet({self.path!r}, columns={self.columns}, types={types}, failed={self.failed})"

    def check(self, output_schema: Mapping[str, Any] | None) -> None:
        """See that the file can be written, and that answers can have what is written of them.

        :raises ConfigurationError: they cannot; pyarrow is not installed; or it has no type of a name.
        """
        arrow, _ = load_parquet()
        check_paths(self.columns or {}, output_schema)
        for name in self.types:
            self._given_type(arrow, name)
        folder, name = self._place(None)
        folder.exists(name)

    def write(self, results: Results) -> str:
        """Write the rows of a result file; return where they are.

        :raises InvalidBatchError: values of a column have no type in common, or not the one that is given for it.
        """
        arrow, parquet = load_parquet()
        folder, name = self._place(results.first_row)
        columns = self._columns(arrow, results)
        schema = arrow.schema([(column.name, column.type) for column in columns])
        count = 0
        batches = (_batch(arrow, schema, columns, chunk) for chunk in self._chunks(results))
        with folder.write(name) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            for table in _tables(arrow, schema, batches):
                writer.write_table(table, row_group_size=table.num_rows)
                count += table.num_rows
        log.info("Wrote %s rows to %s", count, folder.uri_of(name))
        return folder.uri_of(name)

    def _place(self, first_row: int | None) -> tuple[Folder, str]:
        folder, _, name = self.path.rpartition("/")
        stem = name.removesuffix(ENDING)
        if not folder or not stem or stem == name:
            raise ConfigurationError(f"give the address of a file that ends with {ENDING}, not {self.path!r}")
        return folder_at(folder), name if first_row is None else f"{stem}-{first_row:012d}{ENDING}"

    def _chunks(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        wanted = (row for row in rows if self.failed or row["status"] == "completed")
        while chunk := list(islice(wanted, CHUNK_ROWS)):
            yield chunk

    def _columns(self, arrow: Any, results: Results) -> list[Column]:
        """Return the columns of the file; what only the values tell is found by looking at all of them."""
        told = self._told_shapes(results.batch.output_schema)
        given = {name: self._given_type(arrow, name) for name in self.types}
        seen = SeenColumns(self.columns, told.keys() | given.keys())
        if self.columns is None or len(told) < len(self.columns):
            for row in chain.from_iterable(self._chunks(results)):
                seen.look_at(row)
        paths: Mapping[str, str | None]
        if self.columns is None:
            own = [name for name in dict.fromkeys([*seen.shapes, *given]) if name not in RESULT_FIELDS]
            paths = dict.fromkeys(("custom_id", *own, *_RESULT_SHAPES))
        else:
            paths = self.columns
            self._check_seen(seen, told)
        return [
            Column.of(arrow, name, path, told.get(name) or seen.shapes.get(name, shapes.NULL), given.get(name))
            for name, path in paths.items()
        ]

    def _told_shapes(self, output_schema: Mapping[str, Any] | None) -> dict[str, Shape]:
        """Return the shapes of the columns that have the same one in every batch of a schema."""
        output = None if output_schema is None else shapes.shape_of_schema(output_schema)
        paths = self.columns or {name: name for name in RESULT_FIELDS}
        found = {name: _shape_at(path, output) for name, path in paths.items()}
        return {name: shape for name, shape in found.items() if shape is not None}

    def _check_seen(self, seen: SeenColumns, told: Mapping[str, Shape]) -> None:
        for name, path in (self.columns or {}).items():
            if seen.count and name not in seen.shapes and name not in told:
                raise InvalidBatchError(f"no row has {path!r}, which column {name!r} of {self.path} is to hold")

    def _given_type(self, arrow: Any, name: str) -> Any:
        kind = self.types[name]
        if not isinstance(kind, str) or kind == "json":
            return kind
        try:
            return type_named(arrow, kind)
        except ValueError as error:
            raise ConfigurationError(
                f"Arrow has no type named {kind!r}, which is given for column {name!r}; give a name such as 'date32',"
                " 'timestamp[us, tz=UTC]', 'decimal128(8, 2)' or 'string', 'json', or a type of pyarrow's"
            ) from error


def _shape_at(path: str, output: Shape | None) -> Shape | None:
    """Return the shape that the value at a path has in every batch of this schema; ``None``: that is not known."""
    head, *names = path.split(".")
    shape = output if head == "output" else _RESULT_SHAPES.get(head, shapes.STRING if head == "custom_id" else None)
    for name in names:
        shape = shape.fields.get(name) if shape is not None else None
    return shape


def _batch(arrow: Any, schema: Any, columns: Sequence[Column], rows: Sequence[Row]) -> Any:
    return arrow.record_batch([column.array(arrow, rows) for column in columns], schema=schema)


def _tables(arrow: Any, schema: Any, batches: Iterator[Any]) -> Iterator[Any]:
    """Gather batches to row groups of bounded size."""
    gathered: list[Any] = []
    rows = size = 0
    for batch in batches:
        gathered.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows + CHUNK_ROWS > ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield arrow.Table.from_batches(gathered, schema)
            gathered, rows, size = [], 0, 0
    if gathered:
        yield arrow.Table.from_batches(gathered, schema)
