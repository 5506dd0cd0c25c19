"""Parts that an earlier attempt wrote, found again in the input as it is read once more."""

from __future__ import annotations

from collections.abc import Callable

from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.errors import InputChangedError
from airflow_raif.services.fingerprint import Fingerprint


class RecordedParts:
    """Knows the requests that need no part any more, and sees to it that they are what they were.

    A part keeps the requests it has, whatever the limits are now.

    :param fingerprint: of the input as far as it was read.
    :param on_part: told of each part that was found again.
    """

    def __init__(self, batch: Batch, fingerprint: Fingerprint, on_part: Callable[[Part], object]) -> None:
        self._batch = batch
        self._fingerprint = fingerprint
        self._on_part = on_part
        self._parts: dict[str, list[Part]] = {}
        #: Requests of the first part of each model that were read.
        self._counts: dict[str, int] = {}
        for part in sorted(batch.parts, key=lambda each: each.number, reverse=True):
            self._parts.setdefault(part.model, []).append(part)

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers of the parts."""
        return frozenset(part.number for part in self._batch.parts)

    def take(self, model: str) -> bool:
        """Take the next request of a model; False: it lies in none of the parts.

        :raises InputChangedError: the part before it is not what the input holds.
        """
        if model not in self._parts:
            return False
        count = self._counts.get(model, 0)
        if count == self._parts[model][-1].request_count:
            self._end(model)
            count = 0
            if model not in self._parts:
                return False
        self._counts[model] = count + 1
        return True

    def check_end(self) -> None:
        """See to it that the input, which is at its end, held all of the parts.

        :raises InputChangedError: it did not.
        """
        for model, parts in list(self._parts.items()):
            if len(parts) > 1 or self._counts.get(model, 0) < parts[0].request_count:
                raise self._changed(parts[-1])
            self._end(model)

    def _end(self, model: str) -> None:
        part = self._parts[model].pop()
        if part.digest != str(self._fingerprint):
            raise self._changed(part)
        if not self._parts[model]:
            del self._parts[model]
        self._on_part(part)

    def _changed(self, part: Part) -> InputChangedError:
        return InputChangedError(
            f"the input changed since part {part.number} of batch {self._batch.batch_id} was made of it by an attempt"
            " that did not read it to its end"
        )
