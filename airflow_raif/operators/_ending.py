"""What a task does about its batch when it is being ended."""

from __future__ import annotations

import atexit
import logging
import sys
from threading import Thread
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.hooks.airflow_compat import task_is_over
from airflow_raif.operators._waiting import claim_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_raif.domain.batch import Claim

log = logging.getLogger(__name__)

#: Airflow kills the process five seconds after it told it to end.
PATIENCE_SECONDS = 2.5


class EndsItsBatch:
    """Cancels the batch of a task that a user ended, or whose time is up; after a clear or a lost worker it goes on."""

    cancel_on_kill: bool
    _claim: Claim | None = None
    _task_instance: Any = None
    _is_ending = False

    def _begin(self, context: Context) -> Claim:
        """Keep what identifies the task: nothing else will say it when the task is ended."""
        self._task_instance = context["ti"]
        self._claim = claim_of(context)
        return self._claim

    def _is_told_to_end(self) -> bool:
        return self._is_ending

    def _find_batch_id(self, claim: Claim) -> str | None:
        """Return the batch that is the task's to cancel."""
        raise NotImplementedError

    def on_kill(self) -> None:
        """Send nothing more, and cancel the batch; never raises.

        Airflow calls this from a signal handler, in the middle of anything that the task does, and lets the task go on
        afterwards. So the work is done in a thread: what the task holds, such as the store's lock, is free only once
        the handler has returned.
        """
        self._is_ending = True
        if not self.cancel_on_kill or self._claim is None:
            return
        is_late = isinstance(sys.exc_info()[1], AirflowTaskTimeout)
        thread = Thread(target=self._end_batch, args=(self._claim, is_late), name="raif-on-kill")
        thread.start()
        atexit.register(thread.join)
        thread.join(PATIENCE_SECONDS)

    def _end_batch(self, claim: Claim, is_certain: bool) -> None:
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.cancel import cancel_batch

        batch_id: str | None = None
        try:
            if not (is_certain or task_is_over(self._task_instance, claim)):
                log.info("No user ended this task, so its batch goes on; the next attempt takes it up")
                return
            batch_id = self._find_batch_id(claim)
            if batch_id is None:
                log.info("The task has no batch to cancel")
                return
            with open_batch_runtime(batch_id) as (runtime, _):
                status = cancel_batch(runtime, batch_id)
            log.info("Batch %s was canceled with its task and is %s", batch_id, status)
        except InvalidBatchError as error:
            log.info("Nothing to cancel: %s", error)
        except Exception:
            name = f"Batch {batch_id}" if batch_id else "The task's batch"
            log.exception("%s could not be canceled; it may go on at the provider", name)
