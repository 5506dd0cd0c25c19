"""Reading: rows on their way into a batch, each as its request, with where its answer comes from if it is not sent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import msgspec

from airflow_raif.adapters.base import Limits
from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import LimitExceededError
from airflow_raif.domain.sharing import Sharing
from airflow_raif.domain.wire_id import make_wire_id
from airflow_raif.services.fingerprint import (
    Encoder,
    content_hash,
    encoded,
    encoded_id,
    model_of,
    numbered_requests,
)
from airflow_raif.services.known_answers import KnownAnswers
from airflow_raif.services.recorded import RecordedParts
from airflow_raif.services.row_files import row_line
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.seen import SeenRequests

#: Rows, or bytes of requests, that are looked up together; so many are held in memory.
CHUNK_ROWS, CHUNK_BYTES = 500, 4 << 20


class Row(msgspec.Struct, gc=False):
    """One row on its way."""

    index: int
    custom_id: str
    raw_id: bytes
    model: str
    line: bytes
    content: bytes
    inputs: int
    columns: bytes
    #: The part that an earlier attempt put it in.
    part_number: int | None = None


#: Where a row gets its answer from: a raw result, or the first row of the batch with the same request.
Other = bytes | int


@dataclass(frozen=True)
class Reader:
    """Reads the rows of one batch."""

    runtime: Runtime
    batch: Batch
    encode: Encoder
    #: Of rows that name none.
    model: str
    sharing: Sharing
    limits: Limits
    #: Where answers of earlier batches are known.
    known: Runtime

    def read(
        self, rows: Iterable[Any], recorded: RecordedParts, stack: ExitStack
    ) -> Iterator[tuple[Row, Other | None]]:
        """Yield each row with where its answer comes from, if it is not to be sent.

        :param recorded: what an earlier attempt made of them.
        :param stack: closes what is open.
        :raises InvalidRequestError: a row cannot be sent.
        """
        found = self._requests(rows, recorded)
        shared = {part.number for part in self.batch.parts if part.is_shared}
        seen = stack.enter_context(SeenRequests()) if self.sharing.within_batch else None
        if self.sharing.reuse_for is not None and self.batch.answer_scope is not None:
            known = KnownAnswers(self.known, self.batch.answer_scope, self.sharing.reuse_for)
            yield from _looked_up(found, shared, seen, stack.enter_context(known))
            return
        if seen is None:
            yield from ((row, None) for row in found)
            return
        for row in found:
            yield row, None if row.part_number in shared else seen.note(row.content, row.index)
            if seen.is_full:
                yield from _looked_up(found, shared, seen, None)

    def _requests(self, rows: Iterable[Any], recorded: RecordedParts) -> Iterator[Row]:
        batch_id, inputs_of = self.batch.batch_id, self.runtime.adapter.count_embedding_inputs
        has_recorded = bool(self.batch.parts)
        for index, request in numbered_requests(rows):
            columns = row_line(request, index)
            custom_id, wire_id = request.custom_id or str(index), make_wire_id(batch_id, index)
            model = model_of(request, self.model, index)
            line = encoded(self.encode, request, index, wire_id)
            raw_id, inputs = encoded_id(custom_id, index), inputs_of(request)
            self._check_size(index, custom_id, len(line) + 1, inputs)
            content = content_hash(line, wire_id, model)
            part_number = recorded.part_of(index) if has_recorded else None
            yield Row(index, custom_id, raw_id, model, line, content, inputs, columns, part_number)

    def _check_size(self, index: int, custom_id: str, size: int, inputs: int) -> None:
        limits, provider = self.limits, self.batch.provider
        if size > limits.max_request_bytes or size > limits.max_bytes:
            raise LimitExceededError(
                f"row {index} (custom_id {custom_id!r}) is {size:,} bytes as a request; {provider} takes at"
                f" most {min(limits.max_request_bytes, limits.max_bytes):,}; shorten it or split it into several rows",
                row=index,
            )
        if limits.max_embedding_inputs is not None and inputs > limits.max_embedding_inputs:
            raise LimitExceededError(
                f"row {index} (custom_id {custom_id!r}) has {inputs:,} texts to embed; {provider} takes at most"
                f" {limits.max_embedding_inputs:,} in one batch job; split it into several rows",
                row=index,
            )


def _looked_up(
    rows: Iterator[Row], shared: Collection[int], seen: SeenRequests | None, known: KnownAnswers | None
) -> Iterator[tuple[Row, Other | None]]:
    """Yield each row with where its answer comes from; they are looked up many at a time.

    :param shared: the parts of rows whose answers come from others, as an earlier attempt put them there.
    """
    for chunk in _chunks(rows):
        hashes = [row.content for row in chunk if row.part_number not in shared]
        first = seen.find(hashes) if seen is not None else {}
        answers = known.find([each for each in hashes if each not in first]) if known is not None else {}
        for row in chunk:
            content = row.content
            if row.part_number in shared:
                yield row, None
            elif (answer := answers.get(content)) is not None:
                yield row, answer
            elif (same := first.get(content)) is not None:
                yield row, same
            else:
                if seen is not None:
                    first[content] = row.index
                    seen.add(content, row.index)
                yield row, None


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Yield rows in chunks; those before one that cannot be read come before its error."""
    chunk: list[Row] = []
    size = 0
    try:
        for row in rows:
            chunk.append(row)
            size += len(row.line)
            if len(chunk) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                full, chunk, size = chunk, [], 0
                yield full
    except Exception:
        yield chunk
        raise
    yield chunk
