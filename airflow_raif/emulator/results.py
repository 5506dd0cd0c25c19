"""Making a batch's result files row by row, with the row and file faults that are asked for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from airflow_raif.emulator.faults import RowFaults
from airflow_raif.emulator.state import Batch, EmulatorState

#: Writes one row: (raw request line, kind of fault or "") -> (result line, whether it belongs in the error file).
RowWriter = Callable[[bytes, str], tuple[bytes, bool]]
#: Row kinds that change the file, not the answer.
_FILE_KINDS = frozenset(("missing", "duplicated", "in_both_files", "malformed", "blank"))


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file that hold something, split on the line feed only."""
    with path.open("rb") as lines:
        for line in lines:
            stripped = line.strip()
            if stripped:
                yield stripped


class ResultFiles:
    """The output file and, if a second path is given, the error file of a batch while they are written."""

    def __init__(self, state: EmulatorState, output: Path, errors: Path | None) -> None:
        self._state = state
        self._paths = (output, errors or output)
        self._has_two = errors is not None

    def write(self, batch: Batch, done: int, rest: str, row_id: Callable[[bytes], str], write_row: RowWriter) -> None:
        """Write every row: the first ``done`` answered, the others ``expired`` or ``canceled``.

        :param row_id: reads the id in a request line; asked only if there are row faults.
        """
        faults = RowFaults(self._state.faults)
        with self._paths[0].open("wb") as output, self._paths[1].open("ab") as errors:
            target: tuple[BinaryIO, BinaryIO] = (output, errors if self._has_two else output)
            for index, raw in enumerate(read_lines(batch.rows_path)):
                kind = faults.strike(index, row_id(raw), raw) if faults else ""
                if index >= done and kind != "missing":
                    kind = rest
                self._write_one(target, raw, kind, write_row)
        for path in dict.fromkeys(self._paths):
            self._spoil(path)

    def _write_one(self, target: tuple[BinaryIO, BinaryIO], raw: bytes, kind: str, write_row: RowWriter) -> None:
        if kind == "missing":
            return
        line, is_error = write_row(raw, "" if kind in _FILE_KINDS else kind)
        target[is_error].write(line + b"\n")
        if kind == "duplicated":
            target[is_error].write(line + b"\n")
        elif kind == "in_both_files":
            target[not is_error].write(line + b"\n")
        elif kind == "malformed":
            target[is_error].write(b'{"id": "broken", "custom_id": \n')
        elif kind == "blank":
            target[is_error].write(b"\n")

    def _spoil(self, path: Path) -> None:
        faults = self._state.faults
        if not (faults.shuffle or faults.torn_last_line or faults.crlf):
            return
        lines = path.read_bytes().split(b"\n")[:-1]
        if faults.shuffle:
            random.Random(len(lines)).shuffle(lines)  # noqa: S311 - no secret
        whole = b"".join(line + (b"\r\n" if faults.crlf else b"\n") for line in lines)
        if faults.torn_last_line and lines:
            whole = whole[: -(len(lines[-1]) // 2 + 1)]
        path.write_bytes(whole)
