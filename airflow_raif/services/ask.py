"""Ask: the provider about many parts, by its list where that is cheaper, one by one where not."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from airflow_raif.adapters.base import Adapter, ListPage, Request, Response
from airflow_raif.adapters.lookup import UNKNOWN_SKEW_SECONDS, is_past
from airflow_raif.domain.batch import PartState
from airflow_raif.domain.errors import (
    AuthenticationError,
    BatchNotFoundError,
    ProviderError,
    RateLimitedError,
    TransientProviderError,
)
from airflow_raif.services.offload import offload
from airflow_raif.store import WaitingPart

log = logging.getLogger(__name__)

#: Pages read at one time, and how many of them may follow each other without a batch that is looked for.
MAX_PAGES = 300
MAX_FRUITLESS_PAGES = 50
#: Single calls made at one time, and how many of them are under way together.
MAX_SINGLE_CALLS = 64
MAX_CONCURRENCY = 8
#: A provider may ask for any pause; we take no longer one.
MAX_PAUSE_SECONDS = 3600.0


class AsyncTransport(Protocol):
    """The asynchronous calls the poller makes."""

    async def send(self, request: Request, *, retry: bool = False) -> Response:
        """Send and read the whole answer."""
        ...

    async def aclose(self) -> None:
        """Close the client."""
        ...


@dataclass
class Answers:
    """What came of asking about parts."""

    #: By part.
    states: dict[int, PartState] = field(default_factory=dict)
    #: By batch: why waiting for it makes no sense any more.
    failures: dict[str, Exception] = field(default_factory=dict)
    #: Batches about which the provider could not answer.
    unanswered: set[str] = field(default_factory=set)
    #: Batches whose turn did not come.
    postponed: set[str] = field(default_factory=set)
    #: Seconds for which the provider wants no call.
    pause: float = 0.0


async def ask(adapter: Adapter, transport: AsyncTransport, parts: Sequence[WaitingPart]) -> Answers:
    """Ask about parts; where these are too many for single calls, the last ones are postponed.

    A refused key fails every wait, and an id that the provider does not know its own; no other error fails any.
    """
    asking = _Asking(adapter, transport, {part.provider_batch_id: part for part in parts})
    try:
        await asking.read_list()
    except RateLimitedError as error:
        asking.give_up(error)
    except ProviderError as error:
        # A key that is forbidden the list may all the same be allowed to see each batch.
        if isinstance(error, AuthenticationError) and error.status != 403:
            asking.fail(error)
        else:
            log.warning("The list of %s cannot be read, asking for each batch: %s", adapter.name, error)
    await asking.call_singly()
    return asking.answers


@dataclass
class _Asking:
    adapter: Adapter
    transport: AsyncTransport
    #: What nobody asked about yet, by the provider's id.
    missing: dict[str, WaitingPart]
    answers: Answers = field(default_factory=Answers)
    _errors: list[ProviderError] = field(default_factory=list)
    _is_answering: bool = False

    async def read_list(self) -> None:
        """Read pages as long as they are worth it: a single call costs less than a page that may not show a batch."""
        oldest, size = _oldest(self.missing.values()), len(self.missing)
        cursor: str | None = None
        fruitless = 0
        for _ in range(MAX_PAGES):
            if len(self.missing) <= fruitless + 1 or fruitless == MAX_FRUITLESS_PAGES:
                return
            response = await self.transport.send(self.adapter.list_request(cursor, size))
            page = await offload(self.adapter.parse_list, response.content)
            fruitless = 0 if self._take(page) else fruitless + 1
            cursor = page.next_cursor
            if cursor is None or (self.adapter.lists_newest_first and is_past(_times(page), oldest)):
                return

    def _take(self, page: ListPage) -> bool:
        before = len(self.missing)
        for state in page.parts:
            if (part := self.missing.pop(state.provider_batch_id, None)) is not None:
                self.answers.states[part.id] = state
        return len(self.missing) < before

    async def call_singly(self) -> None:
        """Ask about what is missing one by one, some at once, unless nobody answers."""
        gate = asyncio.Semaphore(MAX_CONCURRENCY)
        await asyncio.gather(*(self._call(name, gate) for name in list(self.missing)[:MAX_SINGLE_CALLS]))
        self.answers.postponed = {part.batch_id for part in self.missing.values()}
        if self._errors:
            log.warning(
                "%d batches at %s cannot be polled now: %s",
                len(self.answers.unanswered),
                self.adapter.name,
                self._errors[0],
            )

    async def _call(self, provider_batch_id: str, gate: asyncio.Semaphore) -> None:
        async with gate:
            part = self.missing.pop(provider_batch_id, None)
            if part is None:
                return
            try:
                response = await self.transport.send(self.adapter.get_request(provider_batch_id))
                # Noted before the answer is read, in another thread: errors of others come meanwhile.
                self._is_answering = True
                self.answers.states[part.id] = await offload(self.adapter.parse_part, response.content)
            except (AuthenticationError, BatchNotFoundError) as error:
                self.answers.failures[part.batch_id] = error
                self._is_answering = True
            except ProviderError as error:
                self.answers.unanswered.add(part.batch_id)
                self._errors.append(error)
                is_away = len(self._errors) >= MAX_CONCURRENCY and not self._is_answering
                if is_away or isinstance(error, RateLimitedError):
                    self.give_up(error)

    def give_up(self, error: ProviderError) -> None:
        """Make no further call: the provider does not answer anybody now."""
        self.answers.unanswered.update(part.batch_id for part in self.missing.values())
        self.missing.clear()
        self._errors.append(error)
        if isinstance(error, TransientProviderError):
            self.answers.pause = max(self.answers.pause, min(error.retry_after or 0.0, MAX_PAUSE_SECONDS))

    def fail(self, error: ProviderError) -> None:
        """Fail every wait."""
        self.answers.failures.update(dict.fromkeys((part.batch_id for part in self.missing.values()), error))
        self.missing.clear()


def _oldest(parts: Iterable[WaitingPart]) -> float:
    """Return before when, in Unix seconds by the provider's clock, none of the parts was created."""
    times = [part.intent_at or part.submitted_at for part in parts]
    known = [each.timestamp() for each in times if each is not None]
    return min(known) - UNKNOWN_SKEW_SECONDS if len(known) == len(times) and known else -math.inf


def _times(page: ListPage) -> list[float | None]:
    return [state.created_at.timestamp() if state.created_at is not None else None for state in page.parts]
