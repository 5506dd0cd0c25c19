"""The sensor that waits for a submitted batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_raif.operators import _waiting

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_raif.domain.batch import Batch
    from airflow_raif.services.runtime import Runtime


class WaitForBatchSensor(BaseSensorOperator):
    """Wait until a batch is terminal, without a worker by default; succeeds however it ended, the results tell.

    Returns the manifest.

    :param batch: a batch's manifest or id.
    :param deferrable: free the worker while waiting.
    :param poll_interval: seconds between polls; default: the schedule ``[raif] poll_intervals``.
    :param timeout: seconds from the submission after which the sensor fails.
    :param cancel_on_timeout: cancel the batch when time is up, then go on waiting until it has stopped, so that what
        it finished can be applied.
    :param cancel_on_kill: cancel the batch when a user ends the waiting task.
    """

    template_fields: Sequence[str] = ("batch",)

    def __init__(
        self,
        *,
        batch: str | Mapping[str, Any],
        deferrable: bool = True,
        poll_interval: float | None = None,
        timeout: float | timedelta = _waiting.DEFAULT_TIMEOUT,
        cancel_on_timeout: bool = True,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        batch_timeout = _waiting.seconds_of(timeout)
        if poll_interval is not None:
            kwargs.setdefault("poke_interval", poll_interval)
        super().__init__(timeout=batch_timeout + _waiting.CANCEL_GRACE_SECONDS, **kwargs)
        self.batch = batch
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.batch_timeout = batch_timeout
        self.cancel_on_timeout = cancel_on_timeout
        self.cancel_on_kill = cancel_on_kill

    def execute(self, context: Context) -> Any:
        """Defer, or poke in the worker."""
        if not self.deferrable:
            return super().execute(context)
        return self._wait(past_deadline=False)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the manifest, or wait on where the batch is being canceled."""
        return self._wait(past_deadline=_waiting.is_past_deadline(event))

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask once; an outage of the provider is no answer."""
        from time import time

        from airflow_raif.hooks.runtime import open_batch_runtime

        with _waiting.airflow_errors(), open_batch_runtime(_waiting.batch_id_of(self.batch)) as (runtime, batch):
            batch = self._look(runtime, batch, past_deadline=time() > self._end_time(batch))
            return PokeReturnValue(batch.status.is_terminal, self._manifest(runtime, batch))

    def on_kill(self) -> None:
        """Cancel the batch if a user ended the task."""
        if self.cancel_on_kill:
            from airflow_raif.hooks.runtime import open_batch_runtime

            with open_batch_runtime(_waiting.batch_id_of(self.batch)) as (_, batch):
                _waiting.cancel_quietly(batch.conn_id, f"{batch.provider}:{batch.model}", batch.batch_id)

    def _wait(self, *, past_deadline: bool) -> dict[str, Any]:
        from airflow_raif.hooks.runtime import open_batch_runtime

        with _waiting.airflow_errors(), open_batch_runtime(_waiting.batch_id_of(self.batch)) as (runtime, batch):
            batch = self._look(runtime, batch, past_deadline=past_deadline)
            if batch.status.is_terminal:
                return self._manifest(runtime, batch)
        return _waiting.defer_until_terminal(
            self,
            batch,
            poll_interval=self.poll_interval,
            end_time=self._end_time(batch) + (_waiting.CANCEL_GRACE_SECONDS if past_deadline else 0),
            cancel_on_kill=self.cancel_on_kill,
            method_name="execute_complete",
        )

    def _look(self, runtime: Runtime, batch: Batch, *, past_deadline: bool) -> Batch:
        from time import time

        if batch.status.is_terminal or not past_deadline:
            return _waiting.look(runtime, batch)
        if not self.cancel_on_timeout or time() > self._end_time(batch) + _waiting.CANCEL_GRACE_SECONDS:
            raise _waiting.deadline_error(batch, self.batch_timeout)
        return _waiting.cancel_after_deadline(runtime, batch, self.batch_timeout)

    def _end_time(self, batch: Batch) -> float:
        return _waiting.end_time_of(batch, self.batch_timeout)

    def _manifest(self, runtime: Runtime, batch: Batch) -> dict[str, Any]:
        from airflow_raif.services.manifest import manifest_of

        return manifest_of(runtime, batch)
