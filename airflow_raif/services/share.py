"""Share: the rows that one part of a batch was made of, wherever rounds have taken them since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.services.runtime import Runtime
from airflow_raif.store import PartRows


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
        if self.part.is_shared:
            # Its rows are the same as some of other parts.
            return self.batch.results_fetched_at is not None
        return all(each.results_fetched_at is not None for each in self.parts)

    @property
    def is_to_end_batch(self) -> bool:
        """Whether all parts are applied, the batch is not, and this one was the last: the end of the batch is its own.

        Which one was last never changes, so that two who look at the same time do not both end the batch.
        """
        parts = self.batch.first_parts
        if self.batch.applied_at is not None or self.batch.results_fetched_at is None:
            return False
        applied = {each.number: each.applied_at for each in parts if each.applied_at is not None}
        return len(applied) == len(parts) and max(applied, key=applied.__getitem__) == self.part.number


def find_share(runtime: Runtime, batch_id: str, number: int) -> Share:
    """Return what a part's rows are, and where.

    A part takes the rows of its model in input order, so they are that model's of one range of the input. Where an
    attempt broke off, an answer that came or was lost since may have put rows between those of a part; then they are
    dealt out in their order, so that each is in one share.

    :raises InvalidBatchError: the batch has no such part, or none that was made of its input.
    """
    batch = runtime.store.get_batch(batch_id)
    if batch.spooled_at is None:
        raise InvalidBatchError(f"the input of batch {batch_id} was not read to its end; let its submission finish")
    part = _first_part(batch, number)
    if part.first_row is None:
        raise InvalidBatchError(f"batch {batch_id} was made by an older version of this package; apply it as a whole")
    start = _start_of_rows(runtime, batch, part)
    if not batch.is_cut_short and all(each.model == part.model for each in batch.parts):
        rows = PartRows(start, start + part.request_count)
    else:
        # Rows of other models lie between them, or did until the batch was given up.
        rows = PartRows(start, runtime.store.end_of_rows(batch, start, part.model, part.request_count), part.model)
    numbers = frozenset(runtime.store.parts_of_rows(batch, rows))
    if not numbers <= {each.number for each in batch.parts}:
        # A round was opened since the batch was read.
        return find_share(runtime, batch_id, number)
    return Share(batch, part, rows, numbers)


def _start_of_rows(runtime: Runtime, batch: Batch, part: Part) -> int:
    """Return the first row of a part's share: its own, unless a part that begins before goes on beyond that."""
    first = [each for each in batch.first_parts if each.model == part.model and each.first_row is not None]
    start, count, last_row = 0, 0, -1
    for each in sorted(first, key=attrgetter("first_row")):
        assert each.first_row is not None  # noqa: S101 - the others were left out
        is_apart = each.first_row > last_row
        start = each.first_row if is_apart else runtime.store.end_of_rows(batch, start, part.model, count)
        if each.number == part.number:
            break
        count, last_row = each.request_count, max(last_row, each.last_row or 0)
    return start


def _first_part(batch: Batch, number: int) -> Part:
    parts = batch.first_parts
    part = next((each for each in parts if each.number == number), None)
    if part is not None:
        return part
    repeated = next((each for each in batch.parts if each.number == number and each.round), None)
    why = f"; part {number} repeats rows of these in round {repeated.round}" if repeated else ""
    raise InvalidBatchError(f"batch {batch.batch_id} has no part {number} to apply, {numbers_of(parts)}{why}")


def numbers_of(parts: Sequence[Part]) -> str:
    """Return the numbers that parts have, for the message that one is not among them."""
    numbers = [each.number for each in parts]
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"only {numbers[0]} to {numbers[-1]}"
    return "only " + ", ".join(map(str, numbers)) if numbers else "none at all"
