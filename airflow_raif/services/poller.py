"""The shared poller: one per triggerer process, event loop and connection; watches every waiting batch of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic

from airflow_raif.adapters.base import Adapter
from airflow_raif.domain.batch import PartState
from airflow_raif.domain.errors import StoreError, StoreUnavailableError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.ask import Answers, AsyncTransport, ask
from airflow_raif.services.metrics import Metrics, NoMetrics, poller_waits
from airflow_raif.services.offload import offload
from airflow_raif.services.runtime import utc_now
from airflow_raif.services.schedule import Schedule, pace
from airflow_raif.store import BatchMissingError, Store, WaitingPart

log = logging.getLogger(__name__)

DEFAULT_INTERVALS = (60.0, 120.0, 300.0, 600.0, 1800.0)
#: Batches settled after a tick in one turn of the event loop; each may wake a trigger.
SETTLED_AT_ONCE = 50


@dataclass(slots=True)
class _Watch:
    """One waiting batch and who waits for it."""

    schedule: Schedule
    waiters: set[asyncio.Future[BatchStatus]] = field(default_factory=set)
    #: How many of its parts ran when it was last asked about.
    parts: int = 0

    def tell(self, outcome: BatchStatus | Exception) -> None:
        for future in self.waiters:
            if future.done():
                continue
            if isinstance(outcome, BatchStatus):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)


@dataclass
class SharedPoller:
    """Asks the provider about all waiting batches together.

    It runs while somebody waits, and closes its transport when nobody does. An outage of the provider or of the
    store is waited out; nothing is ever canceled because polling failed.
    """

    adapter: Adapter
    transport: AsyncTransport
    store: Store
    clock: Callable[[], datetime] = utc_now
    on_close: Callable[[], Awaitable[None]] | None = None
    metrics: Metrics = field(default_factory=NoMetrics)
    #: Names the poller in its metrics.
    conn_id: str = ""
    _watches: dict[str, _Watch] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    #: No tick comes before this, whatever is due.
    _rests_until: float = 0.0
    _wakes_at: float = 0.0
    #: Set once nobody waits any more; a closed poller takes no new batch.
    is_closed: bool = False

    async def wait(self, batch_id: str, intervals: Sequence[float] = DEFAULT_INTERVALS) -> BatchStatus:
        """Wait until a batch is terminal, or parts of it that were held back may be sent, which is told as ``pending``.

        :raises AuthenticationError: the key is not accepted any more.
        :raises BatchNotFoundError: the provider does not know one of its parts.
        """
        watch = self._watches.get(batch_id)
        if watch is None:
            watch = self._watches[batch_id] = self._start(Schedule.starting(intervals, monotonic()))
        future: asyncio.Future[BatchStatus] = asyncio.get_running_loop().create_future()
        watch.waiters.add(future)
        try:
            return await future
        finally:
            watch.waiters.discard(future)
            if not watch.waiters and self._watches.get(batch_id) is watch:
                del self._watches[batch_id]
                if not self._watches:
                    self._wake.set()

    def _start(self, schedule: Schedule) -> _Watch:
        if self._task is None:
            # An empty context, so that its log lines do not land in the log of whichever task came first.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())
        if schedule.due_at < self._wakes_at:
            self._wake.set()
        return _Watch(schedule)

    async def _run(self) -> None:
        try:
            while self._watches:
                self._wakes_at = max(self._rests_until, min(each.schedule.due_at for each in self._watches.values()))
                if (seconds := self._wakes_at - monotonic()) > 0:
                    await self._sleep(seconds)
                else:
                    await self._tick()
        except BaseException as error:
            for watch in self._watches.values():
                watch.tell(error if isinstance(error, Exception) else RuntimeError("poller stopped"))
            raise
        finally:
            self.is_closed = True
            self._watches.clear()
            await self.transport.aclose()
            if self.on_close is not None:
                await self.on_close()
            await offload(poller_waits, self.metrics, self.conn_id, [], 0)

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _tick(self) -> None:
        now = monotonic()
        ripe = {batch_id: watch for batch_id, watch in self._watches.items() if watch.schedule.ripe_at <= now}
        statuses: Mapping[str, BatchStatus] = {}
        answers, ready = Answers(), dict[str, bool]()
        try:
            due_at = {each: watch.schedule.due_at for each, watch in ripe.items()}
            statuses, queued, parts = await offload(self._read, due_at)
            running = Counter(part.batch_id for part in parts)
            for batch_id, watch in ripe.items():
                watch.parts = running[batch_id]
            answers = await ask(self.adapter, self.transport, parts)
            answers.failures |= {
                each: BatchMissingError(f"the store knows no batch {each!r}") for each in ripe if each not in statuses
            }
            if answers.states:
                news, refused = await offload(self._note, answers.states, parts)
                statuses, queued = {**statuses, **news}, queued | refused
            if queued:
                ready = await offload(self.store.ready_batches, sorted(queued), self.adapter.quota, self.clock())
        except StoreError as error:
            log.warning("The store does not answer, polling again later: %s", error)
            answers = Answers(unanswered=set(ripe))
        self._rests_until = monotonic() + max(answers.pause, min(watch.schedule.rest for watch in ripe.values()))
        await self._tell(list(ripe), statuses, answers, ready)
        parts_left = [watch.parts for watch in self._watches.values()]
        # Not on the event loop: the first metric opens a socket, and may look up a host.
        await offload(poller_waits, self.metrics, self.conn_id, parts_left, len(answers.unanswered))

    def _read(self, due_at: Mapping[str, float]) -> tuple[dict[str, BatchStatus], set[str], list[WaitingPart]]:
        """Return what the store knows: statuses, batches that may be held back, and parts that run.

        Who is overdue comes first, should there be time for a few only.
        """
        statuses, queued = self.store.statuses_and_queued(list(due_at))
        open_ids = [each for each, status in statuses.items() if not status.is_terminal]
        parts = self.store.waiting_parts(open_ids)
        return statuses, queued.intersection(open_ids), sorted(parts, key=lambda part: due_at[part.batch_id])

    def _note(
        self, states: Mapping[int, PartState], parts: Sequence[WaitingPart]
    ) -> tuple[dict[str, BatchStatus], set[str]]:
        """Write down what the provider said; return the batches that are terminal now, and those it would not queue."""
        refused = {part.batch_id for part in parts if part.id in states and states[part.id].refusal is not None}
        return self.store.statuses(self._write(list(states.items()))), refused

    def _write(self, states: Sequence[tuple[int, PartState]]) -> list[str]:
        """Write states in one transaction, or in several if one cannot be written: that is to stop no other."""
        try:
            return self.store.record_states(dict(states), self.clock())
        except StoreUnavailableError:
            raise
        except StoreError as error:
            if len(states) == 1:
                log.warning("What is said of %s cannot be noted: %s", states[0][1].provider_batch_id, error)
                return []
            half = len(states) // 2
            return self._write(states[:half]) + self._write(states[half:])

    async def _tell(
        self, asked: Sequence[str], statuses: Mapping[str, BatchStatus], answers: Answers, ready: Mapping[str, bool]
    ) -> None:
        """Tell those whose wait is over, some at a time, and set when the others are asked about next."""
        now, stretch = monotonic(), pace()
        for number, batch_id in enumerate(asked):
            if number % SETTLED_AT_ONCE == 0:
                await asyncio.sleep(0)
            watch = self._watches.get(batch_id)
            if watch is None:
                continue
            status, failure = statuses.get(batch_id), answers.failures.get(batch_id)
            outcome = status if status is not None and status.is_terminal else failure
            if outcome is None and ready.get(batch_id):
                outcome = BatchStatus.PENDING
            if outcome is not None:
                # Told once: whoever asks from now on is told anew, and no further call is made for it.
                del self._watches[batch_id]
                watch.tell(outcome)
            elif batch_id in answers.unanswered:
                watch.schedule.failed(now, stretch)
            elif batch_id not in answers.postponed:
                # For a batch that is held back room may come at any time.
                watch.schedule.answered(now, stretch, backs_off=batch_id not in ready)
