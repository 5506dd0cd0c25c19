"""Spooler: writes a batch's rows into the spool and the store, those to be sent apart from those that are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from airflow_raif.domain.batch import SHARED, Batch, Part
from airflow_raif.domain.errors import EmptyBatchError
from airflow_raif.services.fingerprint import Fingerprint
from airflow_raif.services.part_files import PartFiles
from airflow_raif.services.reading import Other, Reader, Row
from airflow_raif.services.recorded import RecordedParts
from airflow_raif.services.row_files import RowFiles, forget_rows
from airflow_raif.spool.files import Folder, results_file
from airflow_raif.store import NewEntry, NewPart, SharedEntry

#: Entries written to the store in one transaction.
ENTRY_CHUNK = 5000
#: Told of each part that is whole while the input goes on.
OnPart = Callable[[Batch, Part], object]


@dataclass
class Spooler:
    """Writes one batch's rows, each once."""

    reader: Reader
    fingerprint: Fingerprint
    on_part: OnPart
    count: int = 0
    _is_read: bool = False
    _entries: list[NewEntry] = field(default_factory=list)
    _shared: list[SharedEntry] = field(default_factory=list)
    _answers: _AnswerFile = field(init=False)

    def __post_init__(self) -> None:
        self.runtime, self.batch = self.reader.runtime, self.reader.batch
        self._folder = self.runtime.folder(self.batch.batch_id)
        self._answers = _AnswerFile(self._folder)

    def spool(self, rows: Iterable[Any]) -> None:
        """Read every row.

        :raises InvalidBatchError: there is none, or one cannot be sent.
        """
        recorded = RecordedParts(self.runtime.store, self.batch, self.fingerprint, self._tell)
        row_files = RowFiles(self._folder)
        if self.batch.spool_attempt:
            # A part came once the rows before its end were there, so that those of parts stay.
            forget_rows(self._folder, max((part.rows_read or 0 for part in self.batch.parts), default=0))

        def before_part() -> None:
            self._flush_entries()
            row_files.publish()

        files = PartFiles(self._folder, self.reader.limits, self._on_part, before_part, taken=recorded.numbers)
        with ExitStack() as stack:
            for each in (self._answers, row_files, files):
                stack.enter_context(each)
            for row, other in self.reader.read(rows, recorded, stack):
                if self.batch.parts:
                    recorded.check(row.index)
                self._add(files, row, other)
                row_files.add(row.columns)
            self._is_read = True
            recorded.check_end(self.count)
            if not self.count:
                raise EmptyBatchError

    def _add(self, files: PartFiles, row: Row, other: Other | None) -> None:
        if row.part_number is None:
            kept = row.content if self.batch.answer_scope is not None else None
            if other is None:
                number, offset = files.add(row.model, row.line, row.inputs)
                self._entries.append((row.index, row.custom_id, number, offset, len(row.line), kept))
            else:
                number, offset = files.add(SHARED, row.line, 0)
                entry = (row.index, row.custom_id, number, offset, len(row.line), kept)
                if isinstance(other, int):
                    self._shared.append((*entry, other, None, None, None))
                else:
                    self._shared.append((*entry, None, number, self._answers.add(number, other), len(other)))
        self.fingerprint.add(row.content, row.raw_id)
        self.count += 1
        if len(self._entries) + len(self._shared) >= ENTRY_CHUNK:
            self._flush_entries()

    def _on_part(self, new: NewPart) -> None:
        at, name = None, results_file(new.number)
        if new.model == SHARED:
            self._answers.publish()
            at = self.runtime.clock()
        elif self.batch.spool_attempt and self._folder.exists(name):
            # Answers that an attempt put there before it broke off would be taken for the part's results.
            self._folder.remove(name)
        new = msgspec.structs.replace(new, digest=str(self.fingerprint), rows_read=self.count, shared_at=at)
        self._tell(self.runtime.store.add_part(self.batch, new))

    def _tell(self, part: Part) -> None:
        # What ends with the input is submitted once the batch is whole.
        if not self._is_read:
            self.on_part(self.batch, part)

    def _flush_entries(self) -> None:
        """Write the entries so far, and see to it that the batch is still this attempt's own."""
        self.runtime.store.add_entries(self.batch, self._entries, self._shared)
        self._entries, self._shared = [], []


class _AnswerFile:
    """Raw results that rows of one part after the other take from earlier batches.

    Used as a context: at an error the file that is open is dropped.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._number = -1
        self._file: IO[bytes] | None = None
        self._open = ExitStack()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def add(self, part_number: int, raw: bytes) -> int:
        """Write a result; return its offset in the part's file."""
        if self._file is None or part_number != self._number:
            self.publish()
            self._file = self._open.enter_context(self._folder.write(results_file(part_number)))
            self._number, self._size = part_number, 0
        offset = self._size
        self._file.write(raw)
        self._file.write(b"\n")
        self._size += len(raw) + 1
        return offset

    def publish(self) -> None:
        """Let the file appear: its part is about to."""
        self._file = None
        self._open.close()
