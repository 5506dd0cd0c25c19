"""The sensor that waits for a submitted batch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_raif.operators import _waiting
from airflow_raif.operators._agents import codec_of
from airflow_raif.operators._ending import EndsItsBatch
from airflow_raif.operators._showing import ShowsItsBatch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from airflow.sdk import Context

    from airflow_raif.domain.batch import Batch, Claim
    from airflow_raif.services.runtime import Runtime


class WaitForBatchSensor(EndsItsBatch, ShowsItsBatch, BaseSensorOperator):
    """Wait until a batch has ended, without a worker by default; succeeds however it ended, the results tell.

    Entries that failed in a way worth repeating are sent again in rounds, as the batch was submitted to.

    Returns the manifest, or the numbers of the parts.

    :param batch: a batch's manifest or id.
    :param returns: ``parts`` returns a list to expand ``ApplyBatchResultsOperator`` over. Then the results are fetched,
        and failed entries sent again, by the mapped tasks, each for its part, and the sensor does neither.
    :param deferrable: free the worker while waiting.
    :param poll_interval: seconds between polls; default: the schedule ``[raif] poll_intervals``.
    :param timeout: seconds from the first submission after which waiting ends and no round is opened any more;
        default: an hour after the provider's own limit for each round (24 hours; Gemini's: 48), or 7 days after the
        last submission while parts are held back because the provider's queue is full.
    :param cancel_on_timeout: cancel the batch when time is up, then go on waiting until it has stopped, so that what
        it finished can be applied.
    :param cancel_on_kill: cancel the batch when a user ends the waiting task, or its ``execution_timeout`` is over.
    """

    template_fields: Sequence[str] = ("batch",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"batch": "json"}

    def __init__(
        self,
        *,
        batch: _waiting.BatchArgument,
        returns: Literal["manifest", "parts"] = "manifest",
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
        self.returns: Literal["manifest", "parts"] = returns
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.cancel_on_timeout = cancel_on_timeout
        self.cancel_on_kill = cancel_on_kill

    def execute(self, context: Context) -> Any:
        """Defer, or poke in the worker."""
        self._begin(context)
        return self._wait(context) if self.deferrable else super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any] | list[int]:
        """Return the manifest or parts, or wait on: a round was opened, or the batch is being canceled."""
        self._begin(context)
        _waiting.check_event(event)
        return self._wait(context)

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask once; an outage of the provider is no answer."""
        from airflow_raif.domain.errors import TransientProviderError

        with _waiting.airflow_errors(), self._runtime() as (runtime, batch):
            self._show(context["ti"], runtime, batch)
            try:
                batch = self._proceed(runtime, batch)
            except TransientProviderError as error:
                self._patience.outlast(batch, error)
                return PokeReturnValue(is_done=False)
            return PokeReturnValue(self._is_done(batch), self._result(runtime, batch))

    def _find_batch_id(self, claim: Claim) -> str | None:
        return _waiting.batch_id_of(self.batch)

    def _runtime(self) -> AbstractContextManager[tuple[Runtime, Batch]]:
        from airflow_raif.hooks.runtime import open_batch_runtime

        return open_batch_runtime(_waiting.batch_id_of(self.batch), self._is_told_to_end, codec_of(self))

    def _wait(self, context: Context) -> dict[str, Any] | list[int]:
        from airflow_raif.domain.errors import TransientProviderError

        with _waiting.airflow_errors(), self._runtime() as (runtime, batch):
            self._show(context["ti"], runtime, batch)
            try:
                batch = self._proceed(runtime, batch)
            except TransientProviderError as error:
                self._patience.pause(self, batch, "execute_complete", error)
            if not self._is_done(batch):
                self._patience.defer(self, batch, "execute_complete")
            return self._result(runtime, batch)

    def _proceed(self, runtime: Runtime, batch: Batch) -> Batch:
        return self._patience.proceed(runtime, batch, may_fetch=self.returns == "manifest")

    def _is_done(self, batch: Batch) -> bool:
        return batch.status.is_terminal if self.returns == "parts" else _waiting.is_done(batch)

    def _result(self, runtime: Runtime, batch: Batch) -> dict[str, Any] | list[int]:
        from airflow_raif.services.manifest import manifest_of

        if self.returns == "parts":
            # Those who apply rows that are the same as others find these done by then.
            return [part.number for part in sorted(batch.first_parts, key=attrgetter("is_shared"))]
        self._manifest = manifest_of(runtime, batch)
        return self._manifest
