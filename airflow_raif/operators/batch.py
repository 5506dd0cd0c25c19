"""Operators that submit, apply and cancel batches, and one that does the whole job."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_raif.destinations.handler import Handler, load_handler
from airflow_raif.domain.errors import InvalidBatchError, TransientProviderError
from airflow_raif.operators import _waiting
from airflow_raif.operators._agents import codec_of
from airflow_raif.operators._finishing import finish, finish_part, fraction_of
from airflow_raif.operators._showing import ShowsItsBatch
from airflow_raif.operators._submitting import RequestsOperator

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context

    from airflow_raif.destinations import Destination
    from airflow_raif.domain.batch import Batch
    from airflow_raif.services.runtime import Runtime


class SubmitBatchOperator(RequestsOperator):
    """Create a batch of requests and submit it; a retry or a clear finds the running batch and submits nothing.

    Returns the batch's manifest. Parts that the provider's queue has no room for are ``pending`` in it; the sensor that
    waits for the batch sends them as others end.

    :param conn_id: connection of type ``openai``, ``anthropic``, ``pydanticai``, ``raif_openai``, ``raif_anthropic``
        or ``raif_gemini``.
    :param model: the provider's model name, with or without a ``provider:`` prefix.
    :param agent: in place of model, system prompt and output type: a pydantic-ai ``Agent``, a function that
        makes one in the worker, or the dotted path of either. Every row is then a prompt of it, and ``output`` what the
        agent makes of the answer. With ``model`` too, it asks that one.
    :param requests: prompts or rows (see :func:`~airflow_raif.domain.request.request_of`), also with pydantic-ai's
        messages and files (see :func:`~airflow_raif.rich.rows.is_rich`): a list, a function that returns or yields them
        (its parameters are filled from the context), the address of a ``.jsonl``, ``.csv`` or ``.parquet`` file, of
        several with ``*`` in it, an asset that is such a file, or an upstream task's output. Only an address is
        rendered as a template; prompts never are.
    :param sql: instead of ``requests``: a query, or a ``.sql`` file of one, whose rows they are; read as a stream. Give
        it an ORDER BY, since a retry compares the rows with those it submitted, in their order.
    :param sql_conn_id: connection of the database to query.
    :param sql_parameters: for the query's placeholders, as the database's driver has them.
    :param prompt_template: makes a prompt of each row, which then is nothing but columns of the user's own: a Jinja
        template of the row's columns, rendered in a sandbox in the worker, or a function from a row to a prompt or to
        a request. Airflow's own variables are not in it.
    :param id_column: column that holds each row's ``custom_id``; default: ``custom_id``, or the row's position.
    :param endpoint: the provider's batch endpoint; the default is the provider's main one.
    :param system_prompt: system prompt of every row that has none of its own.
    :param cache_system_prompt: mark the batch's system prompt for the provider's prompt cache (Anthropic, for an hour;
        others cache by themselves), so that most requests pay a tenth for it; default: where it is long enough.
    :param max_tokens: most tokens of an answer; Anthropic needs one.
    :param temperature: sampling temperature.
    :param output_type: JSON schema of the answer as a dict, or a Pydantic model.
    :param request_params: merged into the native request of every row that is not one itself (``body``).
    :param batch_metadata: the user's own key-value pairs, kept with the batch and sent where the provider takes them;
        with them the ``partition_key`` of a run that is for one partition of an asset.
    :param max_rounds: how often entries that expired, got no result, or met a rate limit or a fault of the provider are
        sent again, and only those; 0: never. The rounds are run by the sensor that waits for the batch.
    :param repeat_invalid_output: a round also repeats answers that do not follow ``output_type``; each is paid again.
    :param truncated_max_tokens: a round also repeats answers that were cut off, with this higher limit.
    :param synchronous_stragglers: when at most so many entries are left to repeat, they go through the synchronous API
        at once, at its (double) price; 0: never.
    :param deduplicate: send requests that are the same once, and give each of their rows that answer; False where
        several answers to one question are wanted.
    :param reuse: take answers that earlier batches with ``reuse`` got since so long (a timedelta, or a text such as
        ``30d``) to the very same request of the same model, so that only rows that changed are paid. What a request is
        includes the system prompt, the schema and all parameters.
    :param max_cost: US dollars that the batch may cost, by an estimate: one that would cost more fails before anything
        is sent. With it, or with a ``max_cost_per_day`` of the connection, nothing is sent before all rows were read.
    :param expected_output_tokens: output tokens of an answer, for that estimate; default: as in the task's last batch,
        else ``max_tokens``.
    :param estimate_only: read all rows, tell in the log what the batch would be and cost, and skip the task without
        sending anything; the account is in the XCom ``raif_estimate``.
    :param on_input_change: what to do when the task's batch was made of other input (rows in their order, model, system
        prompt, schema, parameters, endpoint, connection; not a row's own columns): ``refuse`` fails the task, since
        both would be paid; ``resubmit`` cancels the batch, waits until it has stopped, and submits a new one.
    :param on_empty: ``skip`` the task, or let it ``fail``, if the input has no row.
    :param deferrable: wait without a worker while the provider is away.
    :param cancel_on_kill: cancel the batch when a user ends the task, or its ``execution_timeout`` is over.
    """

    _leaves_batch_running = True

    def _go_on(self, batch_id: str, context: Context) -> dict[str, Any]:
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.manifest import manifest_of

        with open_batch_runtime(batch_id, codec=codec_of(self)) as (runtime, batch):
            self._manifest = manifest_of(runtime, batch)
            return self._manifest


class _BatchOperator(ShowsItsBatch, BaseOperator):
    """One step for a batch that exists; an outage of its provider is waited out."""

    template_fields_renderers: ClassVar[dict[str, str]] = {"batch": "json"}

    def __init__(self, *, batch: _waiting.BatchArgument, deferrable: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch = batch
        self.deferrable = deferrable

    def execute(self, context: Context) -> Any:
        """Do it, now or once the provider answers again."""
        from airflow_raif.hooks.runtime import open_batch_runtime

        # Killed while it waits it leaves the batch as it is.
        patience = _waiting.Patience(cancel_on_kill=False)
        batch_id, codec = _waiting.batch_id_of(self.batch), codec_of(self)
        with _waiting.airflow_errors(), open_batch_runtime(batch_id, codec=codec) as (runtime, batch):
            self._show(context["ti"], runtime, batch)
            while True:
                try:
                    return self._do(runtime, batch, context)
                except TransientProviderError as error:
                    patience.pause(self, batch, "execute_complete", error)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Do it after an outage, or go on after a round."""
        _waiting.check_event(event)
        return self.execute(context)

    def _do(self, runtime: Runtime, batch: Batch, context: Context) -> Any:
        raise NotImplementedError


class _DeliveringOperator(BaseOperator):
    """Has a destination, which is rendered for each execution anew though tasks and runs of one process share it."""

    destination: Destination | None

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render a copy of what else Airflow would render in its place."""
        self.destination = _copy_of(self.destination)
        super().render_template_fields(context, jinja_env)


def _copy_of(destination: Destination | None) -> Destination | None:
    return copy(destination) if hasattr(destination, "template_fields") else destination


class ApplyBatchResultsOperator(_DeliveringOperator, _BatchOperator):
    """Fetch a terminal batch's results and write one row per input row, in input order.

    Returns the manifest with counts, usage, cost and ``result_uri``. With ``part``, all of it is about the rows of one
    part, so that mapped tasks share the work: ``.partial(batch=submit.output).expand(part=wait.output)``, where
    ``wait`` is a ``WaitForBatchSensor(returns="parts")``. Each sends its part's failed entries again in rounds, for
    which it waits deferred, and writes a file of its own. The batch is applied with the last of them.

    :param batch: a batch's manifest or id.
    :param part: number of the part whose rows to apply; default: all rows.
    :param output_path: folder for the result file; default: the configured result folder, then the batch id.
    :param destination: where the results go beside the file: a
        :class:`~airflow_raif.destinations.parquet.Parquet` file or a
        :class:`~airflow_raif.destinations.sql.SqlTable`; each execution of the task writes them there.
    :param handler: your own code for each result and for the batch, called once in its life: a
        :class:`~airflow_raif.destinations.handler.BatchHandler`, its class, a dotted path, or a function of one row.
        With ``part`` the end of the batch is told to the handler of the task that is through last.
    :param max_failed_fraction: the task fails if more of the entries failed, or all of them.
    :param deferrable: wait without a worker while the provider is away.
    """

    template_fields: Sequence[str] = ("batch", "part", "output_path", "destination")

    def __init__(
        self,
        *,
        batch: _waiting.BatchArgument,
        part: int | _waiting.BatchArgument | None = None,
        output_path: str | None = None,
        destination: Destination | None = None,
        handler: Handler | None = None,
        max_failed_fraction: float = 1.0,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(batch=batch, deferrable=deferrable, **kwargs)
        self.part = part
        self.output_path = output_path
        # Mapped tasks are not rendered by themselves, but each is made anew.
        self.destination = _copy_of(destination)
        self.handler = handler
        self.max_failed_fraction = fraction_of(max_failed_fraction)

    def _do(self, runtime: Runtime, batch: Batch, context: Context) -> dict[str, Any]:
        if self.part is not None:
            return self._apply_part(runtime, batch, _waiting.part_number_of(self.part), context)
        return finish(runtime, batch, context, self)

    def _apply_part(self, runtime: Runtime, batch: Batch, number: int, context: Context) -> dict[str, Any]:
        # The batch is others'' as well, so nothing that becomes of this task cancels it.
        patience = _waiting.Patience(cancel_on_timeout=False, cancel_on_kill=False)
        while True:
            share = patience.proceed_part(runtime, batch, number)
            if not share.is_fetched:
                patience.defer(self, share.batch, "execute_complete")
            try:
                return finish_part(runtime, share, context, self)
            except InvalidBatchError as error:
                # Others may open a round of the same rows meanwhile.
                if not error.retryable:
                    raise


class CancelBatchOperator(_BatchOperator):
    """Ask the provider to cancel a batch; what finished can still be applied.

    Returns the status after the request, which may be transitional.

    :param batch: a batch's manifest or id.
    :param missing_ok: succeed where there is nothing left to cancel.
    :param deferrable: wait without a worker while the provider is away.
    """

    template_fields: Sequence[str] = ("batch",)

    def __init__(
        self, *, batch: _waiting.BatchArgument, missing_ok: bool = True, deferrable: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(batch=batch, deferrable=deferrable, **kwargs)
        self.missing_ok = missing_ok

    def _do(self, runtime: Runtime, batch: Batch, context: Context) -> str:
        from airflow_raif.services.cancel import cancel_batch

        try:
            return cancel_batch(runtime, batch.batch_id).value
        except InvalidBatchError as error:
            if not self.missing_ok:
                raise
            self.log.info("Nothing to cancel: %s", error)
            return runtime.store.get_batch(batch.batch_id).status.value


class BatchInferenceOperator(_DeliveringOperator, RequestsOperator):
    """Submit a batch, wait for it, and apply its results, in one task.

    Returns the manifest. Takes the arguments of :class:`SubmitBatchOperator`, and:

    :param output_path: folder for the result file; default: the configured result folder, then the batch id.
    :param destination: where the results go beside the file: a
        :class:`~airflow_raif.destinations.parquet.Parquet` file or a
        :class:`~airflow_raif.destinations.sql.SqlTable`; each execution of the task writes them there. That it can is
        checked before anything is submitted.
    :param handler: your own code for each result and for the batch, called once in its life: a
        :class:`~airflow_raif.destinations.handler.BatchHandler`, its class, a dotted path, or a function of one row.
    :param max_failed_fraction: the task fails if more of the entries failed, or all of them.
    :param poll_interval: seconds between polls; default: the schedule ``[raif] poll_intervals``.
    :param timeout: seconds from the first submission after which waiting ends and no round is opened any more;
        default: an hour after the provider's own limit for each round (24 hours; Gemini's: 48), or 7 days after the
        last submission while parts are held back because the provider's queue is full.
    :param cancel_on_timeout: cancel the batch when time is up, and apply what it finished before the task fails;
        otherwise the task fails and the batch goes on.
    """

    template_fields: Sequence[str] = (*RequestsOperator.template_fields, "output_path", "destination")

    def __init__(
        self,
        *,
        output_path: str | None = None,
        destination: Destination | None = None,
        handler: Handler | None = None,
        max_failed_fraction: float = 1.0,
        poll_interval: float | None = None,
        timeout: float | timedelta | None = None,
        cancel_on_timeout: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_path = output_path
        # Mapped tasks are not rendered by themselves, but each is made anew.
        self.destination = _copy_of(destination)
        self.handler = handler
        self.max_failed_fraction = fraction_of(max_failed_fraction)
        self.poll_interval = poll_interval
        self.timeout = _waiting.seconds_of(timeout)
        self.cancel_on_timeout = cancel_on_timeout

    def execute(self, context: Context) -> Any:
        """Submit the batch, wait for it and apply it."""
        with _waiting.airflow_errors():
            if self.destination is not None:
                self.destination.check(self._output_schema())
            if self.handler is not None:
                load_handler(self.handler)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Fetch and apply what the trigger waited for, or wait on."""
        self._begin(context)
        _waiting.check_event(event)
        with _waiting.airflow_errors():
            return self._go_on(event["batch_id"], context)

    def _go_on(self, batch_id: str, context: Context) -> dict[str, Any]:
        from airflow_raif.hooks.runtime import open_batch_runtime

        with open_batch_runtime(batch_id, self._is_told_to_end, codec_of(self)) as (runtime, batch):
            self._show(context["ti"], runtime, batch)
            batch = self._wait_for(runtime, batch)
            return finish(runtime, batch, context, self)

    def _wait_for(self, runtime: Runtime, batch: Batch) -> Batch:

        patience = _waiting.Patience(self.timeout, self.poll_interval, self.cancel_on_timeout, self.cancel_on_kill)
        if not self.deferrable:
            return patience.wait_in_worker(runtime, batch)
        try:
            batch = patience.proceed(runtime, batch)
        except TransientProviderError as error:
            patience.pause(self, batch, "execute_complete", error)
        if not _waiting.is_done(batch):
            patience.defer(self, batch, "execute_complete")
        return batch
