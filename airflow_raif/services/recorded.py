"""Parts that an earlier attempt wrote, found again in the input as it is read once more."""

from __future__ import annotations

from collections.abc import Callable

from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.errors import InputChangedError
from airflow_raif.services.fingerprint import Fingerprint
from airflow_raif.store import Store

#: Rows about which the store is asked at one time.
PAGE_ROWS = 5000


class RecordedParts:
    """Knows the rows that need no part any more, and sees to it that they are what they were.

    A part keeps the requests it has, whatever the limits are now.

    :param fingerprint: of the input as far as it was read.
    :param on_part: told of each part that was found again.
    """

    def __init__(self, store: Store, batch: Batch, fingerprint: Fingerprint, on_part: Callable[[Part], object]) -> None:
        self._store = store
        self._batch = batch
        self._fingerprint = fingerprint
        self._on_part = on_part
        #: The one whose end comes next in the input at the end.
        self._left = sorted(batch.parts, key=lambda part: (part.rows_read or 0, part.number), reverse=True)
        self._page: dict[int, int] = {}
        self._page_end = 0

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers of the parts."""
        return frozenset(part.number for part in self._batch.parts)

    def part_of(self, index: int) -> int | None:
        """Return the number of the part that a row, not before one asked about, lies in; ``None``: in none of them."""
        if index >= self._page_end:
            self._page = self._store.part_numbers(self._batch, index, PAGE_ROWS)
            self._page_end = index + PAGE_ROWS
        return self._page.get(index)

    def check(self, index: int) -> None:
        """See to it that parts which end before a row, the next one that is read, are what the input holds.

        :raises InputChangedError: they are not.
        """
        while self._left and self._left[-1].rows_read == index:
            part = self._left.pop()
            if part.digest != str(self._fingerprint):
                raise self._changed(part)
            self._on_part(part)

    def check_end(self, count: int) -> None:
        """See to it that the input, which ended after so many rows, held all of the parts.

        :raises InputChangedError: it did not.
        """
        self.check(count)
        if self._left:
            raise self._changed(self._left[-1])

    def _changed(self, part: Part) -> InputChangedError:
        return InputChangedError(
            f"the input changed since part {part.number} of batch {self._batch.batch_id} was made of it by an attempt"
            " that did not read it to its end"
        )
