"""Row files: the rows' own columns on their way into the spool and back, found without reading the rows before them."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import IO, Self

import msgspec

from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.domain.request import READING, EntryRequest
from airflow_raif.services.fingerprint import not_utf8
from airflow_raif.spool.files import Folder, rows_file, rows_in

#: The most rows in one file; so many are passed over at most to find one.
ROWS_PER_FILE = 50_000
_encode = msgspec.json.Encoder(enc_hook=str).encode
_HEAD = f'{{"{READING}":'.encode()
_EMPTY = b"{}"


def row_line(request: EntryRequest, index: int) -> bytes:
    """Return the line of a row: its own columns, and before them how its answer is read if that is not as usual.

    :raises InvalidRequestError: a column cannot be written.
    """
    try:
        columns = _encode(request.columns)
    except UnicodeEncodeError as error:
        raise not_utf8(index, "a column", error) from error
    if request.reading is not None:
        rest = b"}" if columns == _EMPTY else b"," + columns[1:]
        columns = b"".join((_HEAD, request.reading, rest))
    return columns + b"\n"


def split_reading(line: bytes) -> tuple[bytes | None, bytes]:
    """Return how the answer of a row is read, if not as usual, and the row's own columns."""
    if not line.startswith(_HEAD):
        return None, line
    columns = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    return bytes(columns.pop(READING)), _encode(columns)


@dataclass
class RowFiles:
    """Writes one line of columns per row, in input order; a file appears once it is closed, named after its rows.

    Used as a context: at an error the file that is open is dropped.
    """

    folder: Folder
    _count: int = 0
    _start: int = 0
    _file: IO[bytes] | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def add(self, line: bytes) -> None:
        """Write the columns of the next row."""
        if self._file is None:
            self._start = self._count
            self._file = self._open.enter_context(self.folder.write(lambda: rows_file(self._start, self._count)))
        self._file.write(line)
        self._count += 1
        if self._count - self._start == ROWS_PER_FILE:
            self.publish()

    def publish(self) -> None:
        """Let the rows so far appear: a part of them is about to."""
        self._file = None
        self._open.close()


def forget_rows(folder: Folder, start: int) -> None:
    """Remove what an attempt that broke off wrote of the rows from one on, which may be others now."""
    for name in folder.names():
        rows = rows_in(name)
        if rows is not None and rows[1] > start:
            folder.remove(name)


def columns_reader(folder: Folder) -> Callable[[Sequence[int]], list[bytes]]:
    """Return a function that reads the columns of rows; asked in input order, it may pass rows over.

    Attempts that broke off left files that overlap; each is right for all of its rows.
    """
    files = sorted(range_ for range_ in map(rows_in, folder.names()) if range_ is not None)
    starts = [start for start, _ in files]
    at = end = 0
    lines: Iterator[tuple[int, bytes]] = iter(())

    def seek(index: int) -> None:
        nonlocal at, end, lines
        if not at <= index < end:
            number = bisect(starts, index) - 1
            while number >= 0 and files[number][1] <= index:
                number -= 1
            if number < 0:
                raise FileNotFoundError(f"{folder.uri} has no file with the columns of row {index}")
            at, end = files[number]
            lines = split_lines(folder.blocks(rows_file(at, end))())
        next(islice(lines, index - at, index - at), None)
        at = index

    def read(indexes: Sequence[int]) -> list[bytes]:
        nonlocal at
        found: list[bytes] = []
        while len(found) < len(indexes):
            start = indexes[len(found)]
            seek(start)
            # As many as follow each other in one file, which is all of them where a batch has one model.
            count = min(len(indexes) - len(found), end - start)
            if indexes[len(found) + count - 1] - start >= count:
                count = 1
            found += [line for _, line in islice(lines, count)]
            at += count
        return found

    return read
