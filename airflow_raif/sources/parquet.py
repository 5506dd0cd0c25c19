"""Parquet files of rows on any object storage that Airflow speaks, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from airflow.sdk import ObjectStoragePath

from airflow_raif.domain.errors import InvalidBatchError, InvalidRequestError
from airflow_raif.hooks.arrow import load_parquet

#: Rows that are here at one time.
BUFFERED_ROWS = 256
#: Bytes that are read at one time of all columns, and of each at least and at most, however large row groups are.
BUFFER_BYTES = 16 << 20
MIN_COLUMN_BYTES, MAX_COLUMN_BYTES = 1 << 16, 1 << 20


def parquet_rows(address: str) -> Iterator[dict[str, Any]]:
    """Yield a mapping of columns for each row.

    Values are Python's own: decimals, dates, times to the microsecond, bytes, lists; structs and maps are dicts, nulls
    ``None``.

    :raises ConfigurationError: pyarrow is not installed.
    :raises InvalidBatchError: the file is no Parquet file, is broken, or has several columns of one name.
    :raises InvalidRequestError: a row has a value that Python does not have, such as a day in the year 12,000.
    """
    arrow, parquet = load_parquet()
    path = ObjectStoragePath(address)
    index = 0
    # What reads ahead for one column would read anew for each of the others.
    with path.fs.open(path.path, "rb", cache_type="none") as file:
        try:
            metadata = parquet.read_metadata(file)
            size = min(max(BUFFER_BYTES // max(metadata.num_columns, 1), MIN_COLUMN_BYTES), MAX_COLUMN_BYTES)
            opened = parquet.ParquetFile(file, metadata=metadata, buffer_size=size, pre_buffer=False)
            schema = opened.schema_arrow
            _check_names(schema.names, address)
            schema = arrow.schema([field.with_type(_as_python_has_it(arrow, field.type)) for field in schema])
            for batch in opened.iter_batches(BUFFERED_ROWS, use_threads=False):
                yield from _rows_of(batch.cast(schema, safe=False), index, address)
                index += batch.num_rows
        except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError) as error:
            raise InvalidBatchError(
                f"{address} cannot be read as a Parquet file after row {index}: {error}; write it anew"
            ) from error


def _check_names(names: list[str], address: str) -> None:
    if again := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidBatchError(f"{address} has several columns named {', '.join(map(repr, again))}; rename them")


def _rows_of(batch: Any, start: int, address: str) -> list[dict[str, Any]]:
    try:
        return list(batch.to_pylist(maps_as_pydicts="strict"))
    except (ValueError, OverflowError, KeyError) as error:
        if batch.num_rows > 1:
            # Which of them it is.
            half = batch.num_rows // 2
            return [
                *_rows_of(batch.slice(0, half), start, address),
                *_rows_of(batch.slice(half), start + half, address),
            ]
        name = next((name for name in batch.schema.names if _is_odd(batch.column(name))), "?")
        raise InvalidRequestError(
            f"row {start} of {address} has a value in column {name!r} that Python cannot hold: {error}; correct it",
            row=start,
        ) from error


def _is_odd(column: Any) -> bool:
    try:
        column.to_pylist(maps_as_pydicts="strict")
    except (ValueError, OverflowError, KeyError):
        return True
    return False


def _as_python_has_it(arrow: Any, kind: Any) -> Any:
    """Return a type whose values Python has: its times end at microseconds."""
    types = arrow.types
    if types.is_timestamp(kind) and kind.unit == "ns":
        return arrow.timestamp("us", kind.tz)
    if types.is_time64(kind):
        return arrow.time64("us")
    if types.is_duration(kind) and kind.unit == "ns":
        return arrow.duration("us")
    if types.is_dictionary(kind):
        return _as_python_has_it(arrow, kind.value_type)
    if types.is_struct(kind):
        return arrow.struct([field.with_type(_as_python_has_it(arrow, field.type)) for field in kind])
    if types.is_map(kind):
        return arrow.map_(_as_python_has_it(arrow, kind.key_type), _as_python_has_it(arrow, kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        item = kind.value_field.with_type(_as_python_has_it(arrow, kind.value_type))
        return arrow.large_list(item) if types.is_large_list(kind) else arrow.list_(item)
    return kind
