"""What operators and the sensor share: arguments of waiting, deferral, and errors as Airflow wants them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from time import sleep, time
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_raif.domain.errors import (
    BatchOutcomeError,
    CanceledBatchError,
    DeadlineExceededError,
    InvalidBatchError,
    RaifError,
    TransientProviderError,
)

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context, XComArg

    from airflow_raif.domain.batch import Batch, Claim, Part
    from airflow_raif.services.runtime import Runtime
    from airflow_raif.services.share import Share

    #: A batch's manifest or id, or the task that returns one of both.
    BatchArgument = str | Mapping[str, Any] | XComArg

log = logging.getLogger(__name__)

#: How long after a provider's own limit a batch is waited for, so that its own ``expired`` comes first.
MARGIN = timedelta(hours=1)
#: The limits that providers set: at the least, at the most, and where they do not tell (Gemini's).
SHORTEST_WINDOW, LONGEST_WINDOW, UNTOLD_WINDOW = timedelta(hours=24), timedelta(days=7), timedelta(hours=48)
#: For how long after its last submission a batch waits in line for the provider's queue, in which others may be first.
HELD_BACK_WINDOW = timedelta(days=7)
#: Seconds a canceled batch gets to become terminal, so that what it finished can be fetched.
CANCEL_GRACE_SECONDS = 3600
#: What a canceled batch takes at the most (https://platform.openai.com/docs/guides/batch).
STOPPING_SECONDS = 600
#: Seconds after a provider's own limit for which it may be away, so that what the batch finished can be fetched.
OUTAGE_GRACE_SECONDS = 12 * 3600
#: A provider may ask for any pause; we take no longer one.
MAX_PAUSE_SECONDS = 3600.0


def seconds_of(value: float | timedelta | None) -> float | None:
    """Return a duration in seconds."""
    if value is None:
        return None
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def claim_of(context: Context) -> Claim:
    """Return what identifies a task instance across its tries."""
    from airflow_raif.domain.batch import Claim

    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    return Claim(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=map_index)


def batch_id_of(batch: BatchArgument) -> str:
    """Return the batch id of a manifest, or the id itself."""
    batch_id = batch if isinstance(batch, str) else batch.get("batch_id") if isinstance(batch, Mapping) else None
    if not isinstance(batch_id, str) or not batch_id:
        raise AirflowFailException(f"give a batch id or a batch's manifest, not {batch!r:.100}")
    return batch_id


def part_number_of(part: int | BatchArgument) -> int:
    """Return the number of a part: itself, as a template renders it, or that of a part in a manifest."""
    number = part.get("number") if isinstance(part, Mapping) else part
    if isinstance(number, bool) or not str(number).isdecimal():
        raise AirflowFailException(f"give the number of a part, from 0, not {part!r:.100}")
    return int(str(number))


@contextmanager
def airflow_errors() -> Iterator[None]:
    """Fail the task for good where trying again unchanged cannot help."""
    try:
        yield
    except RaifError as error:
        # A batch that was canceled is not paid anew unless somebody says so, by clearing the task.
        is_outcome = isinstance(error, BatchOutcomeError) and not isinstance(error, CanceledBatchError)
        if error.retryable or is_outcome:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error


def poll_intervals(first: float | None) -> list[float]:
    """Return the poll schedule: the configured one, or one fixed interval."""
    if first is not None:
        return [first]
    text = conf.get("raif", "poll_intervals", fallback="60,120,300,600,1800")
    return [float(each) for each in str(text).split(",")]


def is_done(batch: Batch) -> bool:
    """Whether a batch is terminal, its results are fetched, and no round of it is to come."""
    return batch.status.is_terminal and batch.results_fetched_at is not None


def check_event(event: Mapping[str, Any]) -> None:
    """Raise what a trigger could not cope with.

    :raises AirflowException: polling is not possible any more; the batch goes on and a retry waits for it again.
    """
    if event.get("status") == "error":
        raise AirflowException(f"waiting for batch {event.get('batch_id')} failed: {event.get('message')}")


@dataclass(frozen=True)
class Patience:
    """How long, how often and to what end an operator waits for a batch."""

    #: Seconds from the first submission; ``None``: an hour after the provider's own limit, or in line for its queue.
    timeout: float | None = None
    poll_interval: float | None = None
    cancel_on_timeout: bool = True
    cancel_on_kill: bool = True
    #: See :class:`~airflow_raif.triggers.batch.BatchTrigger`.
    cancel_on_success: bool = True

    def end_time(self, batch: Batch) -> float:
        """Return when time is up, in Unix seconds."""
        if self.timeout is not None:
            return (batch.submitted_at or batch.created_at).timestamp() + self.timeout
        if batch.is_held_back:
            submitted = [part.submitted_at for part in batch.parts if part.submitted_at]
            return (max(submitted, default=batch.created_at) + HELD_BACK_WINDOW).timestamp()
        ends = [part.submitted_at + _window(part) for part in batch.parts if part.submitted_at]
        return (max(ends, default=batch.created_at + UNTOLD_WINDOW) + MARGIN).timestamp()

    def proceed(self, runtime: Runtime, batch: Batch, *, may_fetch: bool = True) -> Batch:
        """Ask the provider once, then do whatever the batch needs next: cancel a late one, fetch, open a round.

        :param may_fetch: whether results and rounds are the caller's.
        :raises DeadlineExceededError: time is up and the batch is not to be canceled, or does not stop.
        :raises TransientProviderError: the provider does not answer; see :meth:`outlast`.
        """
        from airflow_raif.services.advance import advance_batch
        from airflow_raif.services.poll import fetch_batch_status

        is_late = time() >= self.end_time(batch)
        if not fetch_batch_status(runtime, batch.batch_id).is_terminal and is_late:
            self._give_up(runtime, batch)
        return advance_batch(runtime, batch.batch_id, may_repeat=not is_late, may_fetch=may_fetch)

    def proceed_part(self, runtime: Runtime, batch: Batch, number: int) -> Share:
        """Fetch what rows of one part have, open a round of it, and ask the provider for that once.

        :raises DeadlineExceededError: time is up for the round; it goes on.
        :raises TransientProviderError: the provider does not answer; see :meth:`outlast`.
        """
        from airflow_raif.services.advance import advance_part
        from airflow_raif.services.poll import fetch_batch_status

        share = advance_part(runtime, batch.batch_id, number)
        if not share.is_fetched:
            fetch_batch_status(runtime, batch.batch_id, None if share.part.is_shared else share.numbers)
            share = advance_part(runtime, batch.batch_id, number)
        if not share.is_fetched and time() >= self.end_time(share.batch):
            self._give_up(runtime, share.batch)
        return share

    def outlast(self, batch: Batch, error: Exception) -> None:
        """Raise the error of a provider that does not answer, if time is long up; otherwise it is waited out."""
        grace = OUTAGE_GRACE_SECONDS if self.timeout is None else CANCEL_GRACE_SECONDS
        if time() > self.end_time(batch) + grace:
            raise error
        log.warning("Batch %s waits until the provider answers again: %s", batch.batch_id, error)

    def wait_in_worker(self, runtime: Runtime, batch: Batch) -> Batch:
        """Poll from the worker until nothing is left to wait for; outages are waited out."""
        intervals = poll_intervals(self.poll_interval)
        for attempt in count():
            try:
                batch = self.proceed(runtime, batch)
            except TransientProviderError as error:
                self.outlast(batch, error)
            else:
                log.info("Batch %s is %s", batch.batch_id, batch.status)
                if is_done(batch):
                    break
            left = self.end_time(batch) - time()
            pause = intervals[0 if batch.is_held_back else min(attempt, len(intervals) - 1)]
            sleep(min(pause, left) if left > 0 else pause)
        return batch

    def defer(self, operator: BaseOperator, batch: Batch, method_name: str, *, until: float | None = None) -> NoReturn:
        """Leave the worker until the batch is terminal or time is up.

        :param until: Unix seconds at which to come back at the latest, whatever the batch does.
        """
        end_time = self.end_time(batch)
        if time() >= end_time:
            # After an outage it was told to stop only now.
            end_time = max(end_time + CANCEL_GRACE_SECONDS, time() + STOPPING_SECONDS)
        _defer(operator, batch, self, end_time if until is None else until, method_name)

    def wait_until_stopped(self, operator: BaseOperator, batch: Batch, method_name: str) -> None:
        """Leave the worker, or stay in it for a poll interval, until a batch that is being canceled has stopped.

        :raises DeadlineExceededError: it does not stop.
        """
        if time() > self.end_time(batch) + CANCEL_GRACE_SECONDS:
            raise DeadlineExceededError(
                f"batch {batch.batch_id} is {batch.status}; it was told to stop and has not, so none takes its place"
            )
        if getattr(operator, "deferrable", True):
            self.defer(operator, batch, method_name)
        sleep(poll_intervals(self.poll_interval)[0])

    def pause(self, operator: BaseOperator, batch: Batch, method_name: str, error: TransientProviderError) -> None:
        """Leave the worker, or stay in it, until the provider may answer again.

        :raises TransientProviderError: time is long up.
        """
        self.outlast(batch, error)
        pause = max(error.retry_after or 0.0, float(conf.get("raif", "outage_pause", fallback="300")))
        pause = min(pause, MAX_PAUSE_SECONDS)
        if getattr(operator, "deferrable", True):
            _defer(operator, batch, self, time() + pause, method_name, min_dwell=pause)
        sleep(pause)

    def _give_up(self, runtime: Runtime, batch: Batch) -> None:
        """Cancel a late batch, so that what it finished can be fetched; one that does not stop either fails the task.

        :raises DeadlineExceededError: see above.
        """
        from airflow_raif.services.cancel import cancel_batch

        batch = runtime.store.get_batch(batch.batch_id)
        late = time() - (batch.submitted_at or batch.created_at).timestamp()
        is_told = batch.is_canceling and time() > self.end_time(batch) + CANCEL_GRACE_SECONDS
        if is_told or not self.cancel_on_timeout:
            what = "it was canceled and has not stopped" if self.cancel_on_timeout else "it was not canceled"
            raise DeadlineExceededError(
                f"batch {batch.batch_id} is {batch.status} {late:.0f} s after its submission; {what}, and a retry"
                " waits for it again"
            )
        log.warning("Batch %s did not end within %.0f s of its submission; canceling it", batch.batch_id, late)
        try:
            cancel_batch(runtime, batch.batch_id)
        except InvalidBatchError as error:
            log.info("Nothing to cancel: %s", error)


def _window(part: Part) -> timedelta:
    """Return how long the provider may take for a part."""
    if part.expires_at is None or part.submitted_at is None:
        return UNTOLD_WINDOW
    return min(max(part.expires_at - part.submitted_at, SHORTEST_WINDOW), LONGEST_WINDOW)


def _defer(
    operator: BaseOperator,
    batch: Batch,
    patience: Patience,
    end_time: float,
    method_name: str,
    *,
    min_dwell: float | None = None,
) -> NoReturn:
    from airflow_raif.triggers.batch import BatchTrigger

    if min_dwell is None:
        min_dwell = float(conf.get("raif", "min_dwell_seconds", fallback="10"))
    trigger = BatchTrigger(
        conn_id=batch.conn_id,
        batch_id=batch.batch_id,
        model=f"{batch.provider}:{batch.model}",
        end_time=end_time,
        poll_intervals=poll_intervals(patience.poll_interval),
        min_dwell=min_dwell,
        cancel_on_kill=patience.cancel_on_kill,
        cancel_on_success=patience.cancel_on_success,
    )
    log.info(
        "Batch %s is %s: waiting without a worker until %s at the latest",
        batch.batch_id, batch.status, datetime.fromtimestamp(end_time, UTC).isoformat(" ", "minutes"),
    )  # fmt: skip
    # The trigger's own deadline comes first; Airflow's is for a trigger that hangs.
    operator.defer(
        trigger=trigger, method_name=method_name, timeout=timedelta(seconds=max(end_time - time(), 0.0) + 600)
    )
    raise AssertionError("defer returned")
