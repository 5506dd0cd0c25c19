"""What operators and the sensor share: arguments of waiting, deferral, and errors as Airflow wants them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from time import time
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_raif.domain.errors import BatchOutcomeError, DeadlineExceededError, InvalidBatchError, RaifError

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

    from airflow_raif.domain.batch import Batch, Claim
    from airflow_raif.services.runtime import Runtime

log = logging.getLogger(__name__)

#: A little over the providers' window of 24 hours, so that their own ``expired`` comes first.
DEFAULT_TIMEOUT = 25 * 3600
#: Seconds a canceled batch gets to become terminal, so that what it finished can be fetched.
CANCEL_GRACE_SECONDS = 3600


def seconds_of(value: float | timedelta) -> float:
    """Return a duration in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def claim_of(context: Context) -> Claim:
    """Return what identifies a task instance across its tries."""
    from airflow_raif.domain.batch import Claim

    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    return Claim(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=map_index)


def batch_id_of(batch: str | Mapping[str, Any]) -> str:
    """Return the batch id of a manifest, or the id itself."""
    batch_id = batch if isinstance(batch, str) else batch.get("batch_id") if isinstance(batch, Mapping) else None
    if not isinstance(batch_id, str) or not batch_id:
        raise AirflowFailException(f"give a batch id or a batch's manifest, not {batch!r:.100}")
    return batch_id


@contextmanager
def airflow_errors() -> Iterator[None]:
    """Fail the task for good where trying again unchanged cannot help."""
    try:
        yield
    except RaifError as error:
        if error.retryable or isinstance(error, BatchOutcomeError):
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error


def poll_intervals(first: float | None) -> list[float]:
    """Return the poll schedule: the configured one, or one fixed interval."""
    if first is not None:
        return [first]
    text = conf.get("raif", "poll_intervals", fallback="60,120,300,600,1800")
    return [float(each) for each in str(text).split(",")]


def defer_until_terminal(
    operator: BaseOperator,
    batch: Batch,
    *,
    poll_interval: float | None,
    end_time: float,
    cancel_on_kill: bool,
    method_name: str,
) -> NoReturn:
    """Leave the worker until the batch is terminal or the deadline passes."""
    from airflow_raif.triggers.batch import BatchTrigger

    trigger = BatchTrigger(
        conn_id=batch.conn_id,
        batch_id=batch.batch_id,
        model=f"{batch.provider}:{batch.model}",
        end_time=end_time,
        poll_intervals=poll_intervals(poll_interval),
        min_dwell=float(conf.get("raif", "min_dwell_seconds", fallback="10")),
        cancel_on_kill=cancel_on_kill,
    )
    # The trigger's own deadline comes first; Airflow's is for a trigger that hangs.
    operator.defer(
        trigger=trigger, method_name=method_name, timeout=timedelta(seconds=max(end_time - time(), 0.0) + 600)
    )
    raise AssertionError("defer returned")


def end_time_of(batch: Batch, timeout: float) -> float:
    """Return when waiting ends, in Unix seconds, counted from the submission."""
    since = batch.submitted_at or batch.created_at
    return since.timestamp() + timeout


def look(runtime: Runtime, batch: Batch) -> Batch:
    """Ask the provider once and return the batch as it is then; an outage is no answer and changes nothing."""
    from airflow_raif.domain.errors import TransientProviderError
    from airflow_raif.services.poll import fetch_batch_status

    if batch.status.is_terminal:
        return batch
    try:
        fetch_batch_status(runtime, batch.batch_id)
    except TransientProviderError as error:
        log.warning("Batch %s cannot be polled, trying again later: %s", batch.batch_id, error)
    return runtime.store.get_batch(batch.batch_id)


def is_past_deadline(event: Mapping[str, Any]) -> bool:
    """Whether waiting ended because time was up.

    :raises AirflowException: polling is not possible any more; the batch goes on and a retry waits for it again.
    """
    if event.get("status") == "error":
        raise AirflowException(f"waiting for batch {event.get('batch_id')} failed: {event.get('message')}")
    return event.get("status") == "timeout"


def cancel_after_deadline(runtime: Runtime, batch: Batch, timeout: float) -> Batch:
    """Cancel a batch whose time is up, after asking once more whether it ended.

    :return: the batch, terminal or on its way there.
    """
    from airflow_raif.services.cancel import cancel_batch
    from airflow_raif.services.poll import fetch_batch_status

    if not fetch_batch_status(runtime, batch.batch_id).is_terminal:
        log.warning("Batch %s did not end within %s s of its submission; canceling it", batch.batch_id, timeout)
        try:
            cancel_batch(runtime, batch.batch_id)
        except InvalidBatchError as error:
            log.info("Nothing to cancel: %s", error)
    return runtime.store.get_batch(batch.batch_id)


def deadline_error(batch: Batch, timeout: float) -> DeadlineExceededError:
    """Return the error of a batch that is left running past the user's deadline."""
    return DeadlineExceededError(
        f"batch {batch.batch_id} is {batch.status} {timeout:.0f} s after its submission; it was not canceled, and a"
        " retry waits for it again"
    )


def wait_in_worker(runtime: Runtime, batch: Batch, intervals: Sequence[float], end_time: float) -> Batch:
    """Poll from the worker until the batch is terminal or time is up; outages are waited out.

    :return: the batch; not terminal if time was up.
    """
    from time import sleep

    attempt = 0
    while not batch.status.is_terminal and time() < end_time:
        sleep(min(intervals[min(attempt, len(intervals) - 1)], max(end_time - time(), 0.0)))
        attempt += 1
        batch = look(runtime, batch)
        log.info("Batch %s is %s", batch.batch_id, batch.status)
    return batch


def cancel_quietly(conn_id: str, model: str | None, batch_id: str) -> None:
    """Cancel a batch because its task was ended; never raises, since it runs while the task dies."""
    from airflow_raif.hooks.runtime import open_runtime
    from airflow_raif.services.cancel import cancel_batch

    try:
        with open_runtime(conn_id, model) as runtime:
            status = cancel_batch(runtime, batch_id)
        log.info("Batch %s was canceled with its task and is %s", batch_id, status)
    except InvalidBatchError as error:
        log.info("Nothing to cancel: %s", error)
    except RaifError:
        log.exception("Batch %s could not be canceled; it may go on at the provider", batch_id)
