"""The shared poller: one per triggerer process, event loop and connection; watches every waiting batch of it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Protocol

from airflow_raif.adapters.base import Adapter, Request, Response
from airflow_raif.domain.batch import PartState
from airflow_raif.domain.errors import (
    AuthenticationError,
    BatchNotFoundError,
    MalformedResponseError,
    ProviderError,
    RateLimitedError,
    RejectedError,
    StoreError,
    TransientProviderError,
)
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.runtime import utc_now
from airflow_raif.store import BatchMissingError, Store, WaitingPart

log = logging.getLogger(__name__)

DEFAULT_INTERVALS = (60.0, 120.0, 300.0, 600.0, 1800.0)
#: Pages asked for in one tick before the rest is asked one by one.
MAX_PAGES = 50
#: Single requests in flight at once.
MAX_CONCURRENCY = 8


class AsyncTransport(Protocol):
    """The asynchronous calls the poller makes."""

    async def send(self, request: Request, *, retry: bool = False) -> Response:
        """Send and read the whole answer."""
        ...

    async def aclose(self) -> None:
        """Close the client."""
        ...


@dataclass
class _Watch:
    """One waiting batch and when it is asked about next."""

    future: asyncio.Future[BatchStatus]
    intervals: Sequence[float]
    due_at: float
    attempt: int = 0
    waiters: int = 0

    def schedule_next(self, now: float, at_least: float = 0.0) -> None:
        """Set the next poll: the schedule's interval with a tenth of jitter, so that batches spread out."""
        interval = self.intervals[min(self.attempt, len(self.intervals) - 1)]
        self.attempt += 1
        self.due_at = now + max(interval * random.uniform(0.9, 1.1), at_least)  # noqa: S311 - no secret


@dataclass
class SharedPoller:
    """Asks the provider's list, page by page, about all waiting batches together.

    It runs while somebody waits, and closes its transport when nobody does. An outage of the provider or of the
    store is waited out; nothing is ever canceled because polling failed.
    """

    adapter: Adapter
    transport: AsyncTransport
    store: Store
    clock: Callable[[], datetime] = utc_now
    on_close: Callable[[], Awaitable[None]] | None = None
    _watches: dict[str, _Watch] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set once nobody waits any more; a closed poller takes no new batch.
    is_closed: bool = False

    async def wait(self, batch_id: str, intervals: Sequence[float] = DEFAULT_INTERVALS) -> BatchStatus:
        """Wait until a batch is terminal; return its status.

        :raises AuthenticationError: the key is not accepted any more.
        :raises BatchNotFoundError: the provider does not know one of its parts.
        """
        watch = self._watches.get(batch_id)
        if watch is None:
            loop = asyncio.get_running_loop()
            watch = self._watches[batch_id] = _Watch(loop.create_future(), tuple(intervals), monotonic())
        watch.waiters += 1
        self._start()
        try:
            return await asyncio.shield(watch.future)
        finally:
            watch.waiters -= 1
            if watch.waiters == 0 and self._watches.get(batch_id) is watch:
                del self._watches[batch_id]
                self._wake.set()

    def _start(self) -> None:
        self._wake.set()
        if self._task is None:
            # An empty context, so that its log lines do not land in the log of whichever task came first.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def _run(self) -> None:
        try:
            while self._watches:
                now = monotonic()
                if due := [batch_id for batch_id, watch in self._watches.items() if watch.due_at <= now]:
                    await self._tick(due)
                await self._sleep()
            self.is_closed = True
        except BaseException as error:
            for watch in self._watches.values():
                watch.future.set_exception(error if isinstance(error, Exception) else RuntimeError("poller stopped"))
            raise
        finally:
            self.is_closed = True
            self._watches.clear()
            await self.transport.aclose()
            if self.on_close is not None:
                await self.on_close()

    async def _sleep(self) -> None:
        self._wake.clear()
        if not self._watches:
            return
        seconds = min(watch.due_at for watch in self._watches.values()) - monotonic()
        if seconds > 0:
            try:
                await asyncio.wait_for(self._wake.wait(), seconds)
            except TimeoutError:
                return

    async def _tick(self, due: Sequence[str]) -> None:
        at_least = 0.0
        try:
            statuses = await asyncio.to_thread(self.store.statuses, due)
            running = [each for each in due if each in statuses and not statuses[each].is_terminal]
            waiting = await asyncio.to_thread(self.store.waiting_parts, running)
            states, failures, at_least = await self._ask(waiting)
            failures |= {
                each: BatchMissingError(f"the store knows no batch {each!r}") for each in due if each not in statuses
            }
            if states:
                await asyncio.to_thread(self.store.record_states, states, self.clock())
                statuses = await asyncio.to_thread(self.store.statuses, due)
        except StoreError as error:
            log.warning("The store does not answer, polling again later: %s", error)
            statuses, failures = {}, {}
        self._deliver(due, statuses, failures, at_least)

    def _deliver(
        self,
        due: Sequence[str],
        statuses: Mapping[str, BatchStatus],
        failures: Mapping[str, Exception],
        at_least: float,
    ) -> None:
        now = monotonic()
        for batch_id in due:
            watch = self._watches.get(batch_id)
            if watch is None:
                continue
            status = statuses.get(batch_id)
            if status is not None and status.is_terminal:
                watch.future.set_result(status)
            elif batch_id in failures:
                watch.future.set_exception(failures[batch_id])
            else:
                watch.schedule_next(now, at_least)
                continue
            # Told once: whoever asks from now on is told anew, and no further call is made for it.
            del self._watches[batch_id]

    async def _ask(self, waiting: Sequence[WaitingPart]) -> tuple[dict[int, PartState], dict[str, Exception], float]:
        """Return states by part, errors by batch, and the seconds the provider asked to wait."""
        wanted = {part.provider_batch_id: part for part in waiting}
        states: dict[int, PartState] = {}
        failures: dict[str, Exception] = {}
        try:
            listed = await self._listed(set(wanted))
        except AuthenticationError as error:
            return states, dict.fromkeys((part.batch_id for part in waiting), error), 0.0
        except (RejectedError, BatchNotFoundError, MalformedResponseError) as error:
            log.warning("The list of %s cannot be read, asking for each batch: %s", self.adapter.name, error)
            listed = []
        except TransientProviderError as error:
            log.warning("%s cannot be polled, trying again later: %s", self.adapter.name, error)
            return states, failures, _retry_after(error)
        for state in listed:
            states[wanted[state.provider_batch_id].id] = state
        missing = [part for part in waiting if part.id not in states]
        at_least = await self._ask_singly(missing, states, failures)
        return states, failures, at_least

    async def _listed(self, wanted: set[str]) -> list[PartState]:
        found: list[PartState] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES if len(wanted) > 1 else 0):
            page = self.adapter.parse_list((await self.transport.send(self.adapter.list_request(cursor))).content)
            found += [state for state in page.parts if state.provider_batch_id in wanted]
            cursor = page.next_cursor
            if cursor is None or len(found) >= len(wanted):
                break
        return found

    async def _ask_singly(
        self, parts: Sequence[WaitingPart], states: dict[int, PartState], failures: dict[str, Exception]
    ) -> float:
        at_least = 0.0
        gate = asyncio.Semaphore(MAX_CONCURRENCY)

        async def ask(part: WaitingPart) -> None:
            nonlocal at_least
            async with gate:
                try:
                    response = await self.transport.send(self.adapter.get_request(part.provider_batch_id))
                    states[part.id] = self.adapter.parse_part(response.content)
                except (AuthenticationError, BatchNotFoundError) as error:
                    failures[part.batch_id] = error
                except ProviderError as error:
                    log.warning("Part %s of batch %s cannot be polled: %s", part.number, part.batch_id, error)
                    at_least = max(at_least, _retry_after(error))

        await asyncio.gather(*(ask(part) for part in parts))
        return at_least


def _retry_after(error: Exception) -> float:
    """Return the provider's hint, capped at an hour."""
    hint = error.retry_after if isinstance(error, RateLimitedError) else None
    return min(hint or 0.0, 3600.0)
