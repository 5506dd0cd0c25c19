"""Answers that earlier batches got to the same requests, read from their spools."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Self

from airflow_raif.services.runtime import Runtime
from airflow_raif.spool.files import OpenFiles, results_file
from airflow_raif.store import KnownAnswer

log = logging.getLogger(__name__)

#: Result files of earlier batches that are open at one time.
MAX_OPEN_FILES = 8


@dataclass
class KnownAnswers:
    """Finds answers by the hashes of their requests. Used as a context.

    :param scope: what they are kept under.
    :param kept_for: how old they may be.
    """

    runtime: Runtime
    scope: bytes
    kept_for: timedelta
    _files: OpenFiles[int] = field(init=False)
    #: Batch and part of those that are not there any more.
    _missing: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._files = OpenFiles(MAX_OPEN_FILES, lambda file: file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    def find(self, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the raw results of those of these requests that were answered; what cannot be read is left out."""
        since = self.runtime.clock() - self.kept_for
        known = self.runtime.store.find_answers(self.scope, hashes, since)
        return dict(self._read(known.values()))

    def _read(self, known: Iterable[KnownAnswer]) -> Iterable[tuple[bytes, bytes]]:
        # In the order of the files each is opened once.
        for each in sorted(known, key=lambda each: (each.batch_id, each.part_number, each.offset)):
            if (file_number := self._open(each.batch_id, each.part_number)) is None:
                continue
            raw = os.pread(file_number, each.length, each.offset)
            # A file that was cut off has no answer; its rows are sent.
            if len(raw) == each.length:
                yield each.content_hash, raw

    def _open(self, batch_id: str, part_number: int) -> int | None:
        if (batch_id, part_number) in self._missing:
            return None
        folder, name = self.runtime.folder(batch_id), results_file(part_number)
        try:
            return self._files.get(folder, name)
        except FileNotFoundError:
            log.warning("Answers of batch %s are not taken again, since its spool has no %s", batch_id, name)
            self._missing.add((batch_id, part_number))
            return None
