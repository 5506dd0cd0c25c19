"""Looking through a provider's batches for the one whose create lost its reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime

from airflow_raif.adapters.base import Adapter, Lookup, Transport
from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.domain.batch import PartState
from airflow_raif.domain.errors import AmbiguousSubmitError, BatchNotFoundError, MalformedResponseError

#: A lookup reads no more pages than this.
MAX_PAGES = 50
#: A create may be this much older, by the provider's clock, than its intent seems to be.
CLOCK_SKEW_SECONDS = 120
#: The same, where the provider does not tell its time.
UNKNOWN_SKEW_SECONDS = 3600


def find_by_tag(adapter: Adapter, transport: Transport, lookup: Lookup) -> list[PartState]:
    """Return the batches that carry a part's tag.

    :raises AmbiguousSubmitError: none does, but there are more than were looked at.
    """
    found: list[PartState] = []
    try:
        found.extend(state for state, _ in listed(adapter, transport, lookup) if state.tag == lookup.part.tag)
    except AmbiguousSubmitError:
        if not found:
            raise
    return found


def listed(adapter: Adapter, transport: Transport, lookup: Lookup) -> Iterator[tuple[PartState, bool]]:
    """Yield each batch at the provider, and whether it may be as young as a create, until all others are older.

    :raises AmbiguousSubmitError: the list goes on beyond the pages that were looked at.
    """
    cursor: str | None = None
    times: list[float | None] = []
    seen: set[str] = set()
    for _ in range(MAX_PAGES):
        response = transport.send(adapter.list_request(cursor))
        page = adapter.parse_list(response.content)
        oldest = _oldest(response.headers, lookup)
        new = [state for state in page.parts if state.provider_batch_id not in seen]
        if page.parts and not new:
            # A server without pages begins again.
            return
        seen.update(state.provider_batch_id for state in new)
        for state in new:
            created_at = state.created_at.timestamp() if state.created_at is not None else None
            times.append(created_at)
            yield state, created_at is None or created_at >= oldest
        cursor = page.next_cursor
        if cursor is None or (adapter.lists_newest_first and is_past(times, oldest)):
            return
    raise AmbiguousSubmitError(
        f"it may be among more than the {len(times)} batches that were looked at; {adapter.name} lists more"
    )


def first_wire_id(adapter: Adapter, transport: Transport, state: PartState) -> str | None:
    """Return the first id in a terminal batch's results; ``None``: none can be read, or they were deleted by now."""
    with suppress(BatchNotFoundError), closing(adapter.result_blocks(transport, state)) as blocks:
        for _, line in split_lines(blocks):
            with suppress(MalformedResponseError):
                return adapter.apply_batch_result(line).wire_id
    return None


def is_past(times: list[float | None], oldest: float) -> bool:
    """Whether all that follows is older: what came so far is seen to be newest first, and to reach further back."""
    known = [each for each in times if each is not None]
    is_falling = len(known) == len(times) and known == sorted(known, reverse=True) and known[:1] > known[-1:]
    return is_falling and known[-1] < oldest


def _oldest(headers: Mapping[str, str], lookup: Lookup) -> float:
    """Return when a create was sent at the earliest, in Unix seconds by the provider's clock.

    A false candidate makes the lookup stop, a missed one is paid twice. So a provider that is ahead of us, or a gateway
    that seems to be, moves nothing.
    """
    try:
        ahead = parsedate_to_datetime(headers.get("date", "")).timestamp() - lookup.clock()
    except (TypeError, ValueError, OverflowError):
        return lookup.intent_at - UNKNOWN_SKEW_SECONDS
    return lookup.intent_at + min(ahead, 0.0) - CLOCK_SKEW_SECONDS
