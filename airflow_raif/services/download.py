"""Download: bring one part's results into a file, whole, and not a page or a rest that stands in their place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from airflow_raif.adapters.jsonl import UNREADABLE, split_lines
from airflow_raif.domain.batch import Batch, Part, PartState
from airflow_raif.domain.errors import MalformedResponseError
from airflow_raif.domain.result import EntryResult
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.wire_id import index_of, wire_prefix
from airflow_raif.services.retain import may_be_gone
from airflow_raif.services.runtime import Runtime

#: How often results that look incomplete are downloaded.
MAX_DOWNLOADS = 3


@dataclass
class _Look:
    """What a download seems to hold."""

    size: int = 0
    lines: int = 0
    #: Lines that do not end as a row does.
    broken: int = 0
    #: Whether a row of the batch is in it, though it may be cut off.
    has_row: bool = False
    #: Whether the batch is at least named in it, if only in what is left of a row.
    is_of_batch: bool = False
    head: bytes = b""


def download_results(runtime: Runtime, batch: Batch, part: Part, file: IO[bytes]) -> None:
    """Write a part's results to a file.

    Results that look incomplete are downloaded again, until that gives the same: then it is what the provider has.

    :raises MalformedResponseError: it never does, or there is not one row of the batch in it, though there should be.
    """
    state, before = _state_of(part), None
    for _ in range(MAX_DOWNLOADS):
        look = _copy(runtime, batch, state, file)
        answered = state.counts.completed if state.counts and part.status is BatchStatus.ENDED else 0
        if look.has_row and not look.broken and look.lines >= answered:
            return
        if not look.lines and (may_be_gone(runtime, part) or not _should_have_results(part, state)):
            return
        if look == before:
            if look.is_of_batch:
                return
            break
        before = look
        request = runtime.adapter.get_request(state.provider_batch_id)
        state = runtime.adapter.parse_part(runtime.transport.send(request).content)
        file.seek(0)
        file.truncate()
    raise MalformedResponseError(_no_results(runtime, part, look, answered), provider=runtime.adapter.name)


def is_unreadable(result: EntryResult) -> bool:
    """Whether a row tells no more than its id: it is no JSON, as if it was cut off."""
    return result.error is not None and result.error.code == UNREADABLE


def _should_have_results(part: Part, state: PartState) -> bool:
    """Whether answers are sure to be there, or may be, since the provider does not count them."""
    return part.status is BatchStatus.ENDED and (state.counts is None or state.counts.completed > 0)


def _copy(runtime: Runtime, batch: Batch, state: PartState, file: IO[bytes]) -> _Look:
    prefix, look = wire_prefix(batch.batch_id), _Look()

    def written() -> Iterator[bytes]:
        for block in runtime.adapter.result_blocks(runtime.transport, state):
            look.size += file.write(block)
            yield block

    for _, line in split_lines(written()):
        look.lines += 1
        if not line.endswith(b"}"):
            look.broken += 1
        look.is_of_batch = look.is_of_batch or prefix.encode() in line
        if not look.has_row:
            look.head = look.head or line[:60]
            look.has_row = _is_row(runtime, prefix, line)
    return look


def _is_row(runtime: Runtime, prefix: str, line: bytes) -> bool:
    try:
        result = runtime.adapter.apply_batch_result(line)
    except MalformedResponseError:
        return False
    return index_of(result.wire_id, prefix) is not None


def _no_results(runtime: Runtime, part: Part, look: _Look, answered: int) -> str:
    what = f"says that {part.provider_batch_id} is {part.raw_status}"
    if answered:
        what = f"counts {answered} answers of {part.provider_batch_id}"
    if not look.lines:
        but = "gives no results yet"
    elif look.has_row:
        but = "its results are other ones at each download"
    else:
        but = f"no line of its results is a row of it; they begin {look.head!r}"
    return runtime.adapter.secrets.text(
        f"{runtime.adapter.name} {what} but {but}; nothing was written, retry the task later"
    )


def _state_of(part: Part) -> PartState:
    return PartState(
        provider_batch_id=part.provider_batch_id or "",
        status=part.status,
        raw_status=part.raw_status or "",
        counts=part.counts,
        refs=part.refs,
        error=part.error,
        error_code=part.error_code,
    )
