"""Results: the rows of a result file, read as a stream as often as somebody asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.domain.batch import Batch
from airflow_raif.spool.files import Folder


@dataclass(frozen=True)
class Results:
    """The rows of a result file that is whole; whoever iterates over them opens it anew.

    :param batch: the batch whose results they are.
    :param first_row: position in the input of the first of them, if they are those of one part.
    """

    batch: Batch
    folder: Folder
    name: str
    first_row: int | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        for _, line in split_lines(self.folder.blocks(self.name)()):
            yield decode(line)
