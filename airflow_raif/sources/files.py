"""Files of rows on any object storage that Airflow speaks, read as streams."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from airflow.sdk import ObjectStoragePath

from airflow_raif.domain.errors import InvalidRequestError
from airflow_raif.sources.parquet import parquet_rows

log = logging.getLogger(__name__)

#: The longest field of a CSV file in characters; more than any model reads.
MAX_FIELD_LENGTH = 64 << 20


def suffix_of(address: str) -> str:
    """Return what an address ends with, such as ``.jsonl``."""
    dot = address.rfind(".")
    return address[dot:].lower() if dot >= 0 else ""


def files_at(address: str) -> list[str]:
    """Return the addresses of the files that an address with ``*`` in it stands for, in the order of their names."""
    if "*" not in address:
        return [address]
    path = ObjectStoragePath(address)
    prefix = f"{path.protocol}://{path.conn_id}@" if path.conn_id else f"{path.protocol or 'file'}://"
    there = path.fs.glob(path.path, detail=True)
    found = sorted(prefix + name for name, info in there.items() if info["type"] != "directory")
    log.info("%s files are at %s", len(found) or "No", address)
    return found


def json_lines(address: str) -> Iterator[Any]:
    """Yield the value of each line that is not blank.

    :raises InvalidRequestError: a line is not JSON in UTF-8.
    """
    import msgspec

    from airflow_raif.adapters.jsonl import split_lines

    decode = msgspec.json.Decoder().decode
    with ObjectStoragePath(address).open("rb") as file:
        for index, (_, line) in enumerate(split_lines(iter(lambda: file.read(1 << 20), b""))):
            try:
                row = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InvalidRequestError(
                    f"row {index} of {address} is not JSON in UTF-8: {error}; the line begins {line[:60]!r}", row=index
                ) from error
            yield row


def csv_rows(address: str) -> Iterator[dict[str, str]]:
    """Yield a mapping of texts for each record after the first one, which names the columns.

    :raises InvalidRequestError: the file is not UTF-8 or no CSV, or a record has more or fewer fields than the first.
    """
    csv.field_size_limit(MAX_FIELD_LENGTH)
    index = -1
    with ObjectStoragePath(address).open("rb") as file:
        reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        try:
            names = next(reader, [])
            _check_names(names, address)
            for index, fields in enumerate(filter(None, reader)):
                if len(fields) != len(names):
                    raise InvalidRequestError(
                        f"row {index} of {address} (line {reader.line_num}) has {len(fields)} fields, not the"
                        f" {len(names)} that the first line names: {fields!r:.100}",
                        row=index,
                    )
                yield dict(zip(names, fields, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidRequestError(
                f"row {index + 1} of {address} (line {reader.line_num + 1}) is no CSV in UTF-8: {error}", row=index + 1
            ) from error


def _check_names(names: list[str], address: str) -> None:
    if again := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequestError(f"{address} has several columns named {', '.join(map(repr, again))}; rename them")


#: Readers by what an address ends with.
READERS: Mapping[str, Callable[[str], Iterator[Any]]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".csv": csv_rows,
    ".parquet": parquet_rows,
}
