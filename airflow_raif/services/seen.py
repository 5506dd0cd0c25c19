"""Requests of a batch that were read already, found again by their hashes in bounded memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Self

#: Requests kept in memory; what came before them is looked up in a temporary file.
KEPT = 20_000
#: Bits of the filter that tells most requests which are certainly not in the file: a mebibyte of them.
_FILTER_BITS = 1 << 23
#: Values in one statement's ``IN``.
_CHUNK = 500


class SeenRequests:
    """Remembers the first row of each request.

    Used as a context; the temporary file, which only a batch of more than :data:`KEPT` requests needs, goes with it.
    """

    def __init__(self) -> None:
        self._new: dict[bytes, int] = {}
        #: A bit for each request in the file, by the first bytes of its hash.
        self._filter = bytearray()
        self._file: sqlite3.Connection | None = None
        #: Whether there are more than are kept in memory, so that they are found faster many at a time.
        self.is_full = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def find(self, hashes: Sequence[bytes]) -> dict[bytes, int]:
        """Return the first rows of those of these requests that were added."""
        new = self._new
        found = {each: new[each] for each in hashes if each in new}
        if self._file is not None:
            maybe = [each for each in hashes if self._may_be_in_file(each)]
            for start in range(0, len(maybe), _CHUNK):
                chunk = maybe[start : start + _CHUNK]
                marks = ", ".join("?" * len(chunk))
                found |= self._file.execute(f"SELECT hash, row FROM seen WHERE hash IN ({marks})", chunk)  # noqa: S608
        return found

    def note(self, content: bytes, row: int) -> int | None:
        """Remember a request, unless it is in memory; return the row that it was in first, if so."""
        first = self._new.setdefault(content, row)
        if first != row:
            return first
        if len(self._new) > KEPT:
            self._put_away()
        return None

    def add(self, content: bytes, row: int) -> None:
        """Remember a request that was not found."""
        if len(self._new) >= KEPT:
            self._put_away()
        self._new[content] = row

    def _may_be_in_file(self, content: bytes) -> bool:
        bit = int.from_bytes(content[:4]) % _FILTER_BITS
        return bool(self._filter[bit >> 3] & 1 << (bit & 7))

    def _put_away(self) -> None:
        if self._file is None:
            # Without a name it is a temporary file, of which SQLite keeps no more than its cache in memory.
            self._file, self.is_full = sqlite3.connect("", isolation_level=None), True
            for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-4096"):
                self._file.execute(f"PRAGMA {pragma}")
            self._filter = bytearray(_FILTER_BITS >> 3)
            self._file.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY, row INTEGER) WITHOUT ROWID")
        # In the order of the tree each of its pages is written once.
        with closing(self._file.cursor()) as cursor:
            cursor.execute("BEGIN")
            cursor.executemany("INSERT INTO seen VALUES (?, ?)", sorted(self._new.items()))
            cursor.execute("COMMIT")
        for content in self._new:
            bit = int.from_bytes(content[:4]) % _FILTER_BITS
            self._filter[bit >> 3] |= 1 << (bit & 7)
        self._new = {}
