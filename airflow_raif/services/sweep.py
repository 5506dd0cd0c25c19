"""Sweep: one pass over the store that does what nobody is at for batches that are not done; it sends no request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import groupby

from airflow_raif.adapters.registry import adapter_class
from airflow_raif.domain.batch import Batch, Claim, Part
from airflow_raif.domain.errors import (
    AmbiguousSubmitError,
    AuthenticationError,
    ConfigurationError,
    ProviderError,
    RaifError,
    StoreError,
    StoreUnavailableError,
    TransientProviderError,
)
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.sweep import (
    ABANDONED_STATES,
    Need,
    SweepRules,
    is_half_read,
    lost_parts,
    needs_of,
    unsent_parts,
)
from airflow_raif.services.cancel import stop_part
from airflow_raif.services.expire import expire_batch
from airflow_raif.services.fetch import fetch_ended_parts
from airflow_raif.services.find import find_part
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.report import SweepReport
from airflow_raif.services.retain import delete_provider_files, delete_spool, discard_half_created, results_vanish_at
from airflow_raif.services.runtime import Runtime, utc_now
from airflow_raif.spool.files import Folder
from airflow_raif.store import Store

log = logging.getLogger(__name__)

#: Opens what work on the batches of one batch's connection needs.
OpenRuntime = Callable[[Batch], AbstractContextManager[Runtime]]
#: Tells the state of the task instance that holds a batch; ``None``: it is not known, or has none yet.
TaskState = Callable[[Claim], str | None]
#: A batch, and something to do for it.
Step = tuple[Batch, Callable[[Runtime], None]]


def sweep_batches(
    store: Store,
    open_runtime: OpenRuntime,
    spool: Folder,
    rules: SweepRules | None = None,
    *,
    task_state: TaskState | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> SweepReport:
    """Look at every batch that is not done and do what nobody is at; an error with one does not stop the others.

    Batches are polled and what ended is fetched, so that no paid answer is lost at the provider; lost creates are
    looked up and adopted. Nothing is sent, no round is opened and nothing is applied: that is for the task. A live task
    finds what was done here as if it had done it itself.

    :param task_state: given, a batch that nobody polls any more is canceled if its task failed or was removed.
    :raises StoreUnavailableError: the store does not answer.
    """
    sweep = _Sweep(store, open_runtime, spool, rules or SweepRules(), task_state, clock)
    sweep.tend()
    sweep.delete()
    sweep.look_ahead()
    return sweep.report


@dataclass
class _Sweep:
    store: Store
    open_runtime: OpenRuntime
    spool: Folder
    rules: SweepRules
    task_state: TaskState | None
    clock: Callable[[], datetime]
    report: SweepReport = field(default_factory=SweepReport)

    def tend(self) -> None:
        """Do what open batches need."""
        acts = {Need.ADOPT: self._adopt, Need.EXPIRE: self._expire, Need.RESUME: self._resume, Need.FETCH: self._fetch}
        batches, now = self.store.open_batches(), self.clock()
        self.report.counts["open"] = len(batches)
        steps: list[Step] = [
            (batch, partial(acts[need], batch)) for batch in batches for need in needs_of(batch, self.rules, now)
        ]
        self.report.is_futile = bool(steps) and not self._do(steps)

    def delete(self) -> None:
        """Delete what was kept long enough."""
        now = self.clock()
        if (after := self.rules.delete_files_after) is not None:
            self._do(
                [(batch, partial(self._delete_files, batch)) for batch in self.store.batches_with_files(now - after)]
            )
        if (after := self.rules.delete_spools_after) is not None:
            for batch in self.store.batches_with_spool(now - after, now):
                self._attempt(batch, partial(self._delete_spool, batch, now))
            for batch in self.store.half_created_batches(now - after):
                self._attempt(batch, partial(self._discard, batch))

    def look_ahead(self) -> None:
        """Warn of what will be lost, or does not go on, unless somebody does something."""
        now = self.clock()
        for batch in self.store.open_batches():
            vanish_at = _vanish_at(batch)
            if vanish_at is not None and vanish_at - self.rules.warn_before < now:
                line = f"its results were not fetched, and the provider may delete them on {_minute(vanish_at)}"
                self.report.warn("vanishing", f"{_name(batch)}: {line}")
            if unsent := unsent_parts(batch, self.rules, now):
                line = f"part {unsent[0].number} was not sent, and nobody is at it; clear its task to go on"
                self.report.warn("stalled", f"{_name(batch)}: {line}")
            if is_half_read(batch, self.rules, now):
                line = "its input was not read to the end, and nobody is at it; clear its task to go on"
                self.report.warn("stalled", f"{_name(batch)}: {line}")

    # Steps

    def _adopt(self, batch: Batch, runtime: Runtime) -> None:
        for part in lost_parts(batch, self.rules, self.clock()):
            try:
                if part.is_cancel_requested:
                    self._stop_part(batch, part, runtime)
                else:
                    self._adopt_part(batch, part, runtime)
            except AmbiguousSubmitError as doubt:
                self.report.warn("undecided", f"{_name(batch)}: {doubt}")

    def _adopt_part(self, batch: Batch, part: Part, runtime: Runtime) -> None:
        """Take what a lost create made; a part of which it made nothing may be sent again, by its task."""
        found = find_part(runtime, batch, part)
        create = f"{_name(batch)}: the create of part {part.number}, whose reply was lost,"
        if found is None:
            assert part.intent_at is not None  # noqa: S101 - that makes it lost
            self.store.clear_intent(part.id, part.intent_at)
            self.report.tell("cleared", f"{create} made nothing; clear its task to have it sent")
        elif not runtime.adapter.has_tag and not found.status.is_terminal:
            # Only time and size speak for it: a task that is submitting just now may be about to note it as its own.
            self.report.warn("undecided", f"{create} may have made {found.provider_batch_id}; its results will tell")
        else:
            self.store.record_submitted(part.id, found, self.clock())
            self.report.tell("adopted", f"{create} made {found.provider_batch_id}, which was adopted")
            self._fetch(batch, runtime)

    def _stop_part(self, batch: Batch, part: Part, runtime: Runtime) -> None:
        """Cancel what a create made that was on its way when its batch was canceled."""
        stop_part(runtime, batch, part)
        self.report.tell("canceled", f"{_name(batch)}: part {part.number}, which was to be canceled, was told to stop")
        self._fetch(batch, runtime)

    def _expire(self, batch: Batch, runtime: Runtime) -> None:
        self._end(batch, runtime, f"it is older than {self.rules.max_age}", may_cancel=self.rules.cancel_expired)

    def _resume(self, batch: Batch, runtime: Runtime) -> None:
        """Poll in place of a task that is gone; a cancel that did not get through is made again."""
        if batch.is_cancel_requested:
            self._end(batch, runtime, "it was to be canceled", may_cancel=True)
            return
        if self.task_state and batch.claim and batch.claim_released_at is None:
            state = self.task_state(batch.claim)
            if state in ABANDONED_STATES:
                self._end(batch, runtime, f"nobody waited for it and its task is {state}", may_cancel=True)
                return
        status = fetch_batch_status(runtime, batch.batch_id)
        self.report.tell("resumed", f"{_name(batch)}: nobody waited for it; it is {status}")
        self._fetch(batch, runtime)

    def _end(self, batch: Batch, runtime: Runtime, why: str, *, may_cancel: bool) -> None:
        after = expire_batch(runtime, batch.batch_id, may_cancel=may_cancel)
        if may_cancel and (not after.status.is_terminal or after.status is BatchStatus.CANCELED):
            self.report.tell("canceled", f"{_name(batch)}: {why}; it was told to stop and is {after.status}")
        elif not after.status.is_terminal:
            self.report.warn("late", f"{_name(batch)}: {why} and goes on; cancel_expired would have it canceled")
        self._tell_fetched(batch, after)

    def _fetch(self, batch: Batch, runtime: Runtime) -> None:
        self._tell_fetched(batch, fetch_ended_parts(runtime, batch.batch_id))

    def _tell_fetched(self, before: Batch, after: Batch) -> None:
        if _fetched(after) == _fetched(before) and after.results_fetched_at is None:
            return
        tally = self.store.count_entries(after)
        counts = f"{tally.completed} completed, {tally.failed} failed, {tally.pending} to come"
        self.report.tell("fetched", f"{_name(after)}: results fetched ({after.status}): {counts}; {_next_step(after)}")

    def _delete_files(self, batch: Batch, runtime: Runtime) -> None:
        if count := delete_provider_files(runtime, batch.batch_id):
            self.report.tell("files_deleted", f"{_name(batch)}: {count} files at {batch.provider} deleted")

    def _delete_spool(self, batch: Batch, now: datetime) -> None:
        if delete_spool(self.store, self.spool, batch, now):
            self.report.tell("spools_deleted", f"{_name(batch)}: spool deleted")

    def _discard(self, batch: Batch) -> None:
        if discard_half_created(self.store, self.spool, batch):
            self.report.tell("discarded", f"{_name(batch)}: was never created whole; discarded")

    # Each on its own

    def _do(self, steps: Iterable[Step]) -> int:
        """Do steps, connection by connection; return how many succeeded."""

        def connection(step: Step) -> tuple[str, str]:
            return step[0].conn_id, step[0].provider

        return sum(self._do_on(list(group)) for _, group in groupby(sorted(steps, key=connection), connection))

    def _do_on(self, steps: list[Step]) -> int:
        """Do the steps of one connection, as long as it works."""
        succeeded = 0
        with ExitStack() as stack:
            try:
                runtime = stack.enter_context(self.open_runtime(steps[0][0]))
            except StoreError:
                raise
            except RaifError as error:
                self._skip(steps, error)
                return 0
            for number, (batch, act) in enumerate(steps, 1):
                failure = self._attempt(batch, partial(act, runtime))
                if failure is None:
                    succeeded += 1
                elif steps[number:] and (reason := _why_away(runtime, failure)):
                    self._skip(steps[number:], reason)
                    break
        return succeeded

    def _skip(self, steps: list[Step], error: RaifError) -> None:
        batch, count = steps[0][0], len({batch.batch_id for batch, _ in steps})
        line = f"connection {batch.conn_id}: skipped {count} batches that need something: {error}"
        self.report.warn("skipped", line, count)

    def _attempt(self, batch: Batch, act: Callable[[], None]) -> Exception | None:
        """Do one thing for one batch; an error is reported and returned.

        :raises StoreUnavailableError: nothing can be done for any batch.
        """
        try:
            act()
        except StoreUnavailableError:
            raise
        except RaifError as error:
            self.report.warn("failed", f"{_name(batch)}: {error}")
            return error
        except Exception as error:
            log.exception("%s", _name(batch))
            self.report.warn("failed", f"{_name(batch)}: {type(error).__name__}: {error}")
            return error
        return None


def _why_away(runtime: Runtime, error: Exception) -> RaifError | None:
    """Return why a connection does not work, after an error that may mean that."""
    if isinstance(error, AuthenticationError | TransientProviderError):
        try:
            runtime.transport.send(runtime.adapter.check_request(), retry=False)
        except (AuthenticationError, TransientProviderError) as still:
            return still
        except ProviderError:
            # A compatible server may not serve that call; it answers all the same.
            return None
    return None


def _vanish_at(batch: Batch) -> datetime | None:
    """Return when the first results that were not fetched may be deleted."""
    try:
        adapter = adapter_class(batch.provider)
    except ConfigurationError:
        return None
    waiting = [part for part in batch.parts if part.provider_batch_id and part.results_fetched_at is None]
    return min(filter(None, (results_vanish_at(adapter, part) for part in waiting)), default=None)


def _fetched(batch: Batch) -> int:
    return sum(part.results_fetched_at is not None for part in batch.parts)


def _name(batch: Batch) -> str:
    if batch.claim is None:
        return f"batch {batch.batch_id}"
    claim = batch.claim
    index = f"[{claim.map_index}]" if claim.map_index >= 0 else ""
    return f"batch {batch.batch_id} of {claim.dag_id}.{claim.task_id}{index} in {claim.run_id}"


def _next_step(batch: Batch) -> str:
    """Say how fetched results come to be applied; a task whose batch was canceled makes a new one once cleared."""
    if batch.claim is None or batch.claim_released_at is not None or batch.status is BatchStatus.CANCELED:
        return "BatchHook.apply_batch_results writes them"
    return "its task applies them; clear it if it is over"


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
