"""Share: the rows that one part of a batch was made of, wherever rounds have taken them since."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import msgspec

from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.domain.wire_id import index_of, wire_prefix
from airflow_raif.services.runtime import Runtime
from airflow_raif.spool.files import requests_file
from airflow_raif.store import PartRows


class _RequestId(msgspec.Struct):
    """The id in a spooled request, with any of the providers."""

    custom_id: str = ""
    key: str = ""


_decode_id = msgspec.json.Decoder(_RequestId).decode


def row_of(line: bytes, prefix: str) -> int | None:
    """Return the index of the row that a spooled request was made of."""
    found = _decode_id(line)
    return index_of(found.custom_id or found.key, prefix)


@dataclass(frozen=True)
class Share:
    """One part of the first round, the rows it was made of, and the parts that hold them now."""

    batch: Batch
    part: Part
    rows: PartRows
    numbers: frozenset[int]

    @property
    def parts(self) -> list[Part]:
        """The part, and those of rounds that hold rows of it."""
        return [each for each in self.batch.parts if each.number in self.numbers or each.number == self.part.number]

    @property
    def is_fetched(self) -> bool:
        """Whether every row is completed or failed."""
        return all(each.results_fetched_at is not None for each in self.parts)


def find_share(runtime: Runtime, batch_id: str, number: int) -> Share:
    """Return what a part's rows are, and where.

    A part takes the rows of its model in input order, so they are that model's of one range of the input.

    :raises InvalidBatchError: the batch has no such part, or none that was made of its input.
    """
    batch = runtime.store.get_batch(batch_id)
    if batch.spooled_at is None:
        raise InvalidBatchError(f"the input of batch {batch_id} was not read to its end; let its submission finish")
    part = _first_part(batch, number)
    start = part.first_row if part.first_row is not None else _first_row(runtime, batch, part)
    same = tuple(each.number for each in batch.parts if each.model == part.model)
    if len(same) == len(batch.parts):
        rows = PartRows(start, start + part.request_count)
    else:
        rows = PartRows(start, batch.request_count, same)
        stop = runtime.store.end_of_rows(batch, rows, part.request_count)
        rows = msgspec.structs.replace(rows, stop=stop)
    return Share(batch, part, rows, frozenset(runtime.store.parts_of_rows(batch, rows)))


def _first_part(batch: Batch, number: int) -> Part:
    parts = batch.first_parts
    part = next((each for each in parts if each.number == number), None)
    if part is not None:
        return part
    numbers = [each.number for each in parts]
    has = f"the parts {', '.join(map(str, numbers))}" if len(numbers) > 1 else f"only part {numbers[0]}"
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        has = f"the parts {numbers[0]} to {numbers[-1]}"
    repeated = next((each for each in batch.parts if each.number == number and each.round), None)
    why = f"; part {number} repeats rows of these in round {repeated.round}" if repeated else ""
    raise InvalidBatchError(f"batch {batch.batch_id} has no part {number} to apply, but {has}{why}")


def _first_row(runtime: Runtime, batch: Batch, part: Part) -> int:
    """Return the index of a part's first row, read off its requests."""
    check_spool(batch, batch.result_uri)
    folder, name = runtime.folder(batch.batch_id), requests_file(part.number)
    if not folder.exists(name):
        raise InvalidBatchError(
            f"the requests of part {part.number} are not in the spool at {folder.uri} any more; put {name} back to"
            " apply the part"
        )
    with closing(folder.blocks(name)()) as blocks:  # type: ignore[type-var]
        _, line = next(split_lines(blocks))
    index = row_of(line, wire_prefix(batch.batch_id))
    assert index is not None  # noqa: S101 - we wrote it
    return index


def check_spool(batch: Batch, result_uri: str | None) -> None:
    """Raise if a batch's spool was deleted, naming the result file there is.

    :raises InvalidBatchError: see above.
    """
    if batch.spool_deleted_at is not None:
        raise InvalidBatchError(
            f"the spool of batch {batch.batch_id} was deleted on {batch.spool_deleted_at:%Y-%m-%d}, and {result_uri} is"
            " the only result file there was; to pay for these answers again, trigger a new run"
        )
