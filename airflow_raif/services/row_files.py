"""Row files: the rows' own columns on their way into the spool and back, found without reading the rows before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import IO, Self

from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.spool.files import Folder, rows_file

#: Rows in one file; so many are passed over at most to find one.
ROWS_PER_FILE = 50_000


@dataclass
class RowFiles:
    """Writes one line of columns per row, in input order; a file appears once its last row is written.

    Used as a context: at an error the file that is open is dropped.
    """

    folder: Folder
    _count: int = 0
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
        if self._file is None or self._count % ROWS_PER_FILE == 0:
            self._open.close()
            self._file = self._open.enter_context(self.folder.write(rows_file(self._count // ROWS_PER_FILE)))
        self._file.write(line)
        self._count += 1


def columns_reader(folder: Folder) -> Callable[[Sequence[int]], list[bytes]]:
    """Return a function that reads the columns of rows; asked in input order, it may pass rows over."""
    number, at = -1, 0
    lines: Iterator[tuple[int, bytes]] = iter(())

    def seek(index: int) -> None:
        nonlocal number, at, lines
        if index // ROWS_PER_FILE != number:
            number = index // ROWS_PER_FILE
            at = number * ROWS_PER_FILE
            lines = split_lines(folder.blocks(rows_file(number))())
        next(islice(lines, index - at, index - at), None)
        at = index

    def read(indexes: Sequence[int]) -> list[bytes]:
        nonlocal at
        found: list[bytes] = []
        while len(found) < len(indexes):
            start = indexes[len(found)]
            seek(start)
            # As many as follow each other in one file, which is all of them where a batch has one model.
            count = min(len(indexes) - len(found), (number + 1) * ROWS_PER_FILE - start)
            if indexes[len(found) + count - 1] - start >= count:
                count = 1
            found += [line for _, line in islice(lines, count)]
            at += count
        return found

    return read
