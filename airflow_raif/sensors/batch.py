"""The sensor that waits for a submitted batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_raif.operators import _waiting

if TYPE_CHECKING:
    from airflow.sdk import Context


class WaitForBatchSensor(BaseSensorOperator):
    """Wait until a batch has ended, without a worker by default; succeeds however it ended, the results tell.

    Entries that failed in a way worth repeating are sent again in rounds, as the batch was submitted to.

    Returns the manifest.

    :param batch: a batch's manifest or id.
    :param deferrable: free the worker while waiting.
    :param poll_interval: seconds between polls; default: the schedule ``[raif] poll_intervals``.
    :param timeout: seconds from the first submission after which waiting ends and no round is opened any more;
        default: 25 hours from each round's submission, a little over the providers' own window; as long as parts are
        held back because the provider's queue is full, none.
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
        timeout: float | timedelta | None = None,
        cancel_on_timeout: bool = True,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        self._patience = _waiting.Patience(
            _waiting.seconds_of(timeout), poll_interval, cancel_on_timeout, cancel_on_kill
        )
        if poll_interval is not None:
            kwargs.setdefault("poke_interval", poll_interval)
        # Ours ends first: Airflow's would leave the batch running.
        super().__init__(timeout=timedelta(days=365).total_seconds(), **kwargs)
        self.batch = batch
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.cancel_on_timeout = cancel_on_timeout
        self.cancel_on_kill = cancel_on_kill

    def execute(self, context: Context) -> Any:
        """Defer, or poke in the worker."""
        return self._wait() if self.deferrable else super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the manifest, or wait on: a round was opened, or the batch is being canceled."""
        _waiting.check_event(event)
        return self._wait()

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask once; an outage of the provider is no answer."""
        from airflow_raif.domain.errors import TransientProviderError
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.manifest import manifest_of

        with _waiting.airflow_errors(), open_batch_runtime(_waiting.batch_id_of(self.batch)) as (runtime, batch):
            try:
                batch = self._patience.proceed(runtime, batch)
            except TransientProviderError as error:
                self._patience.outlast(batch, error)
                return PokeReturnValue(is_done=False)
            return PokeReturnValue(_waiting.is_done(batch), manifest_of(runtime, batch))

    def on_kill(self) -> None:
        """Cancel the batch if a user ended the task."""
        if self.cancel_on_kill:
            from airflow_raif.hooks.runtime import open_batch_runtime

            with open_batch_runtime(_waiting.batch_id_of(self.batch)) as (_, batch):
                _waiting.cancel_quietly(batch.conn_id, f"{batch.provider}:{batch.model}", batch.batch_id)

    def _wait(self) -> dict[str, Any]:
        from airflow_raif.domain.errors import TransientProviderError
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.manifest import manifest_of

        with _waiting.airflow_errors(), open_batch_runtime(_waiting.batch_id_of(self.batch)) as (runtime, batch):
            try:
                batch = self._patience.proceed(runtime, batch)
            except TransientProviderError as error:
                self._patience.pause(self, batch, "execute_complete", error)
            if not _waiting.is_done(batch):
                self._patience.defer(self, batch, "execute_complete")
            return manifest_of(runtime, batch)
