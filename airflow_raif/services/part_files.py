"""Requests on their way into the spool, cut into parts within the provider's limits."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Self
from uuid import uuid4

import msgspec

from airflow_raif.adapters.base import Limits
from airflow_raif.domain.wire_id import PREFIX_LENGTH, index_of
from airflow_raif.spool.files import Folder, requests_file
from airflow_raif.store import NewPart


class _RequestId(msgspec.Struct):
    """The id in a spooled request, with any of the providers."""

    custom_id: str = ""
    key: str = ""


_decode_id = msgspec.json.Decoder(_RequestId).decode


def row_of(line: bytes) -> int | None:
    """Return the index of the row that a spooled request was made of."""
    found = _decode_id(line)
    wire_id = found.custom_id or found.key
    return index_of(wire_id, wire_id[: PREFIX_LENGTH + 1])


#: Entries moved into other parts by one statement.
MOVE_CHUNK = 2000
#: Index, part number, offset and length of one.
_MOVED = struct.Struct("<4q")


class Drafts:
    """Files of new parts under names of their own, and where each entry's request lies in them. Used as a context.

    Another process may write and send parts of the same numbers meanwhile.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        #: What the files' names end with.
        self.suffix = f".{uuid4().hex}.draft"
        # On disk, since they may be as many as the batch has entries.
        self._places = tempfile.TemporaryFile(prefix="raif-", buffering=1 << 16)  # noqa: SIM115 - closed at the end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._places.close()

    def add(self, index: int, part_number: int, offset: int, length: int) -> None:
        """Note where an entry's request lies."""
        self._places.write(_MOVED.pack(index, part_number, offset, length))

    def publish(self, parts: Sequence[NewPart]) -> Iterator[list[tuple[int, int, int, int]]]:
        """Give the parts' files their names, and yield what was noted, in chunks.

        The store asks once nobody else can add the parts, in a transaction.
        """
        for part in parts:
            name = requests_file(part.number)
            self._folder.rename(name + self.suffix, name)
        self._places.seek(0)
        while block := self._places.read(MOVE_CHUNK * _MOVED.size):
            yield [(index, number, offset, length) for index, number, offset, length in _MOVED.iter_unpack(block)]

    def remove(self, parts: Sequence[NewPart]) -> None:
        """Leave nothing of parts that are not added."""
        for part in parts:
            self._folder.remove(requests_file(part.number) + self.suffix)


@dataclass
class _OpenPart:
    number: int
    model: str
    first_row: int | None
    file: IO[bytes]
    close: ExitStack
    last_line: bytes = b""
    count: int = 0
    size: int = 0
    embedding_inputs: int = 0

    def is_full(self, limits: Limits, size: int, embedding_inputs: int) -> bool:
        inputs = limits.max_embedding_inputs
        return self.count > 0 and (
            self.count >= limits.max_requests
            or self.size + size > limits.max_bytes
            or (inputs is not None and self.embedding_inputs + embedding_inputs > inputs)
        )


@dataclass
class PartFiles:
    """Writes requests into parts; one part is open per model, since a part holds one model.

    Used as a context: parts that are open at its end are finished, and at an error dropped.

    :param on_part: told of each part once its file is whole.
    :param before_part: called before a part's file gets its name.
    :param taken: numbers that other parts of the batch have.
    """

    folder: Folder
    limits: Limits
    on_part: Callable[[NewPart], object]
    before_part: Callable[[], object] = lambda: None
    next_number: int = 0
    taken: Collection[int] = ()
    round: int = 0
    #: Put after the names of the files; whoever sets it renames them.
    suffix: str = ""
    _open: dict[str, _OpenPart] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for part in list(self._open.values()):
                    self._finish(part)
        finally:
            self._drop()

    def add(self, model: str, line: bytes, embedding_inputs: int = 1) -> tuple[int, int]:
        """Write one request; return its part's number and its offset in the part's file."""
        size = len(line) + 1
        part = self._open.get(model)
        if part is not None and part.is_full(self.limits, size, embedding_inputs):
            self._finish(part)
            part = None
        if part is None:
            part = self._start(model, row_of(line))
        offset = part.size
        part.file.write(line)
        part.file.write(b"\n")
        part.last_line = line
        part.count += 1
        part.size += size
        part.embedding_inputs += embedding_inputs
        return part.number, offset

    def _start(self, model: str, first_row: int | None) -> _OpenPart:
        while self.next_number in self.taken:
            self.next_number += 1
        close = ExitStack()
        file = close.enter_context(self.folder.write(requests_file(self.next_number) + self.suffix))
        part = self._open[model] = _OpenPart(self.next_number, model, first_row, file, close)
        self.next_number += 1
        return part

    def _finish(self, part: _OpenPart) -> None:
        self.before_part()
        del self._open[part.model]
        part.close.close()
        self.on_part(
            NewPart(
                number=part.number,
                round=self.round,
                model=part.model,
                first_row=part.first_row,
                last_row=row_of(part.last_line),
                request_count=part.count,
                request_bytes=part.size,
            )
        )

    def _drop(self) -> None:
        """Leave nothing of the parts that are open."""
        dropped = InterruptedError("the part was not finished")
        for part in self._open.values():
            part.close.__exit__(type(dropped), dropped, None)
        self._open.clear()
