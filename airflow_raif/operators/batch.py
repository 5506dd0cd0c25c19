"""Operators that submit, apply and cancel batches, and one that does the whole job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator

from airflow_raif.operators import _waiting
from airflow_raif.operators._ending import EndsItsBatch
from airflow_raif.operators.requests import Requests, depend_on, open_requests

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_raif.domain.batch import Batch, Claim
    from airflow_raif.domain.request import RequestDefaults
    from airflow_raif.domain.rounds import RoundPolicy
    from airflow_raif.services.runtime import Runtime


class _RequestsOperator(EndsItsBatch, BaseOperator):
    """Arguments that describe requests, and starting a batch of them."""

    template_fields: Sequence[str] = ("conn_id", "model", "endpoint", "batch_metadata")
    #: Whether the task succeeds while its batch runs.
    _leaves_batch_running = False

    def __init__(
        self,
        *,
        conn_id: str,
        model: str,
        requests: Requests,
        endpoint: str = "",
        system_prompt: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        output_type: Any = None,
        request_params: dict[str, Any] | None = None,
        batch_metadata: dict[str, Any] | None = None,
        max_rounds: int = 2,
        repeat_invalid_output: bool = False,
        truncated_max_tokens: int | None = None,
        synchronous_stragglers: int = 0,
        on_input_change: Literal["refuse", "resubmit"] = "refuse",
        deferrable: bool = True,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.model = model
        self.requests = requests
        self.endpoint = endpoint
        self.system_prompt = system_prompt
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.output_type = output_type
        self.request_params = request_params
        self.batch_metadata = batch_metadata
        self.max_rounds = max_rounds
        self.repeat_invalid_output = repeat_invalid_output
        self.truncated_max_tokens = truncated_max_tokens
        self.synchronous_stragglers = synchronous_stragglers
        self.on_input_change: Literal["refuse", "resubmit"] = on_input_change
        self.deferrable = deferrable
        self.cancel_on_kill = cancel_on_kill
        depend_on(self, requests)

    def _defaults(self) -> RequestDefaults:
        from airflow_raif.adapters.registry import split_model
        from airflow_raif.domain.request import RequestDefaults

        schema = self.output_type
        if hasattr(schema, "model_json_schema"):
            schema = schema.model_json_schema()
        return RequestDefaults(
            model=split_model(self.model)[1],
            endpoint=self.endpoint,
            system=self.system_prompt,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            output_schema=schema,
            params=self.request_params,
        )

    def _round_policy(self) -> RoundPolicy:
        from airflow_raif.domain.rounds import RoundPolicy

        return RoundPolicy(
            self.max_rounds, self.repeat_invalid_output, self.truncated_max_tokens, self.synchronous_stragglers
        )

    def _start(self, context: Context, *, is_again: bool = False) -> Batch:
        """Create and submit the batch, or find the running one.

        A provider that is away, and an earlier batch that is being canceled, are waited out, deferred.

        :param is_again: the submission was begun before an outage; a batch that was canceled since is not replaced.
        :raises TaskDeferred: see above.
        """
        from airflow_raif.domain.errors import BatchStoppingError, TransientProviderError
        from airflow_raif.hooks.runtime import open_runtime

        claim = self._begin(context)
        patience = _waiting.Patience(
            cancel_on_kill=self.cancel_on_kill, cancel_on_success=not self._leaves_batch_running
        )
        with open_runtime(self.conn_id, self.model, self._is_told_to_end) as runtime:
            while True:
                made = runtime.store.find_by_claim(claim)
                if (
                    is_again
                    and made is not None
                    and (made.is_cancel_requested or made.is_canceling or made.was_canceled)
                ):
                    return made
                try:
                    return self._start_or_resume(runtime, claim, context)
                except BatchStoppingError as stopping:
                    is_again = False
                    old = runtime.store.get_batch(stopping.batch_id)
                    if stopping.outage is not None:
                        patience.pause(self, old, "execute_anew", stopping.outage)
                    else:
                        patience.wait_until_stopped(self, old, "execute_anew")
                except TransientProviderError as error:
                    made = runtime.store.find_by_claim(claim)
                    if made is None:
                        raise
                    is_again = True
                    patience.pause(self, made, "execute_again", error)

    def _start_or_resume(self, runtime: Runtime, claim: Claim, context: Context) -> Batch:
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.resume import resume_batch
        from airflow_raif.services.start import start_batch

        made = runtime.store.find_by_claim(claim)
        if made is not None and (made.conn_id, made.provider) != (runtime.conn_id, runtime.adapter.name):
            # Another connection is other input, and only the batch's own can cancel it.
            with open_batch_runtime(made.batch_id, self._is_told_to_end) as (own, _):
                resume_batch(own, claim, lambda: self.conn_id, on_input_change=self.on_input_change)
        return start_batch(
            runtime,
            open_requests(self.requests, context),
            defaults=self._defaults(),
            claim=claim,
            metadata=self.batch_metadata,
            round_policy=self._round_policy(),
            on_input_change=self.on_input_change,
            on_batch=lambda batch: context["ti"].xcom_push(key="raif_batch_id", value=batch.batch_id),
        )

    def execute(self, context: Context) -> Any:
        """Submit the batch, then do what the operator does with it."""
        with _waiting.airflow_errors():
            return self._go_on(self._start(context).batch_id, context)

    def execute_anew(self, context: Context, event: dict[str, Any]) -> Any:
        """Submit after an earlier batch has stopped."""
        _waiting.check_event(event)
        return self.execute(context)

    def execute_again(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on with the submission after the provider was away; a batch that was canceled meanwhile stays that."""
        _waiting.check_event(event)
        with _waiting.airflow_errors():
            return self._go_on(self._start(context, is_again=True).batch_id, context)

    def _go_on(self, batch_id: str, context: Context) -> dict[str, Any]:
        """Do what comes after the submission."""
        raise NotImplementedError

    def _find_batch_id(self, claim: Claim) -> str | None:
        from airflow_raif.hooks.store import find_store

        batch = find_store().find_by_claim(claim)
        return None if batch is None else batch.batch_id


class SubmitBatchOperator(_RequestsOperator):
    """Create a batch of requests and submit it; a retry or a clear finds the running batch and submits nothing.

    Returns the batch's manifest.

    :param conn_id: connection of type ``openai``, ``anthropic``, ``pydanticai``, ``raif_openai``, ``raif_anthropic``
        or ``raif_gemini``.
    :param model: the provider's model name, with or without a ``provider:`` prefix.
    :param requests: prompts or rows (see :func:`~airflow_raif.domain.request.request_of`): a list, a function that
        returns or yields them (its parameters are filled from the context), the address of a ``.jsonl`` file, or an
        upstream task's output. Never rendered as a template.
    :param endpoint: the provider's batch endpoint; the default is the provider's main one.
    :param system_prompt: system prompt of every row that has none of its own.
    :param max_tokens: most tokens of an answer; Anthropic needs one.
    :param temperature: sampling temperature.
    :param output_type: JSON schema of the answer as a dict, or a Pydantic model.
    :param request_params: merged into every native request body.
    :param batch_metadata: the user's own key-value pairs, kept with the batch and sent where the provider takes them.
    :param max_rounds: how often entries that expired, got no result, or met a rate limit or a fault of the provider are
        sent again, and only those; 0: never. The rounds are run by the sensor that waits for the batch.
    :param repeat_invalid_output: a round also repeats answers that do not follow ``output_type``; each is paid again.
    :param truncated_max_tokens: a round also repeats answers that were cut off, with this higher limit.
    :param synchronous_stragglers: when at most so many entries are left to repeat, they go through the synchronous API
        at once, at its (double) price; 0: never.
    :param on_input_change: what to do when the task's batch was made of other input (rows in their order, model, system
        prompt, schema, parameters, endpoint, connection; not a row's own columns): ``refuse`` fails the task, since
        both would be paid; ``resubmit`` cancels the batch, waits until it has stopped, and submits a new one.
    :param deferrable: wait without a worker while the provider is away.
    :param cancel_on_kill: cancel the batch when a user ends the task, or its ``execution_timeout`` is over.
    """

    _leaves_batch_running = True

    def _go_on(self, batch_id: str, context: Context) -> dict[str, Any]:
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.manifest import manifest_of

        with open_batch_runtime(batch_id) as (runtime, batch):
            return manifest_of(runtime, batch)


class _BatchOperator(BaseOperator):
    """One step for a batch that exists; an outage of its provider is waited out."""

    batch: str | Mapping[str, Any]

    def execute(self, context: Context) -> Any:
        """Do it, now or once the provider answers again."""
        from airflow_raif.domain.errors import TransientProviderError
        from airflow_raif.hooks.runtime import open_batch_runtime

        # Killed while it waits it leaves the batch as it is.
        patience = _waiting.Patience(cancel_on_kill=False)
        with _waiting.airflow_errors(), open_batch_runtime(_waiting.batch_id_of(self.batch)) as (runtime, batch):
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


class ApplyBatchResultsOperator(_BatchOperator):
    """Fetch a terminal batch's results and write one row per input row, in input order.

    Returns the manifest with counts, usage, cost and ``result_uri``. With ``part``, all of it is about the rows of one
    part, so that mapped tasks share the work: ``.partial(batch=submit.output).expand(part=wait.output)``, where
    ``wait`` is a ``WaitForBatchSensor(returns="parts")``. Each sends its part's failed entries again in rounds, for
    which it waits deferred, and writes a file of its own. The batch is applied with the last of them.

    :param batch: a batch's manifest or id.
    :param part: number of the part whose rows to apply; default: all rows.
    :param output_path: folder for the result file; default: the configured result folder, then the batch id.
    :param max_failed_fraction: the task fails if more of the entries failed, or all of them.
    :param deferrable: wait without a worker while the provider is away.
    """

    template_fields: Sequence[str] = ("batch", "part", "output_path")

    def __init__(
        self,
        *,
        batch: str | Mapping[str, Any],
        part: int | str | Mapping[str, Any] | None = None,
        output_path: str | None = None,
        max_failed_fraction: float = 1.0,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch = batch
        self.part = part
        self.output_path = output_path
        self.max_failed_fraction = max_failed_fraction
        self.deferrable = deferrable

    def _do(self, runtime: Runtime, batch: Batch, context: Context) -> dict[str, Any]:
        if self.part is not None:
            return self._apply_part(runtime, batch, _waiting.part_number_of(self.part), context)
        return _finish(runtime, batch, context, self.output_path, self.max_failed_fraction)

    def _apply_part(self, runtime: Runtime, batch: Batch, number: int, context: Context) -> dict[str, Any]:
        from airflow_raif.hooks.spool import result_folder
        from airflow_raif.services.apply import apply_part
        from airflow_raif.services.manifest import part_manifest_of
        from airflow_raif.services.outcome import check_outcome

        # The batch is others' as well, so nothing that becomes of this task cancels it.
        patience = _waiting.Patience(cancel_on_timeout=False, cancel_on_kill=False)
        share = patience.proceed_part(runtime, batch, number)
        if not share.is_fetched:
            patience.defer(self, share.batch, "execute_complete")
        share = apply_part(runtime, batch.batch_id, number, result_folder(self.output_path, batch.batch_id))
        manifest = part_manifest_of(runtime, share)
        context["ti"].xcom_push(key="raif_manifest", value=manifest)
        check_outcome(runtime, share.batch, max_failed_fraction=self.max_failed_fraction, share=share)
        return manifest


class CancelBatchOperator(_BatchOperator):
    """Ask the provider to cancel a batch; what finished can still be applied.

    Returns the status after the request, which may be transitional.

    :param batch: a batch's manifest or id.
    :param missing_ok: succeed where there is nothing left to cancel.
    :param deferrable: wait without a worker while the provider is away.
    """

    template_fields: Sequence[str] = ("batch",)

    def __init__(
        self, *, batch: str | Mapping[str, Any], missing_ok: bool = True, deferrable: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.batch = batch
        self.missing_ok = missing_ok
        self.deferrable = deferrable

    def _do(self, runtime: Runtime, batch: Batch, context: Context) -> str:
        from airflow_raif.domain.errors import InvalidBatchError
        from airflow_raif.services.cancel import cancel_batch

        try:
            return cancel_batch(runtime, batch.batch_id).value
        except InvalidBatchError as error:
            if not self.missing_ok:
                raise
            self.log.info("Nothing to cancel: %s", error)
            return runtime.store.get_batch(batch.batch_id).status.value


class BatchInferenceOperator(_RequestsOperator):
    """Submit a batch, wait for it, and apply its results, in one task.

    Returns the manifest. Takes the arguments of :class:`SubmitBatchOperator`, and:

    :param output_path: folder for the result file; default: the configured result folder, then the batch id.
    :param max_failed_fraction: the task fails if more of the entries failed, or all of them.
    :param poll_interval: seconds between polls; default: the schedule ``[raif] poll_intervals``.
    :param timeout: seconds from the first submission after which waiting ends and no round is opened any more;
        default: an hour after the provider's own limit for each round (24 hours; Gemini's: 48).
    :param cancel_on_timeout: cancel the batch when time is up, and apply what it finished before the task fails;
        otherwise the task fails and the batch goes on.
    """

    template_fields: Sequence[str] = (*_RequestsOperator.template_fields, "output_path")

    def __init__(
        self,
        *,
        output_path: str | None = None,
        max_failed_fraction: float = 1.0,
        poll_interval: float | None = None,
        timeout: float | timedelta | None = None,
        cancel_on_timeout: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_path = output_path
        self.max_failed_fraction = max_failed_fraction
        self.poll_interval = poll_interval
        self.timeout = _waiting.seconds_of(timeout)
        self.cancel_on_timeout = cancel_on_timeout

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Fetch and apply what the trigger waited for, or wait on."""
        self._begin(context)
        _waiting.check_event(event)
        with _waiting.airflow_errors():
            return self._go_on(event["batch_id"], context)

    def _go_on(self, batch_id: str, context: Context) -> dict[str, Any]:
        from airflow_raif.hooks.runtime import open_batch_runtime

        with open_batch_runtime(batch_id, self._is_told_to_end) as (runtime, batch):
            batch = self._wait_for(runtime, batch)
            return _finish(runtime, batch, context, self.output_path, self.max_failed_fraction)

    def _wait_for(self, runtime: Runtime, batch: Batch) -> Batch:
        from airflow_raif.domain.errors import TransientProviderError

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


def _finish(
    runtime: Runtime, batch: Batch, context: Context, output_path: str | None, max_failed_fraction: float
) -> dict[str, Any]:
    """Fetch, apply and judge; the manifest goes to XCom even when the outcome fails the task."""
    from airflow_raif.hooks.spool import result_folder
    from airflow_raif.services.apply import apply_results
    from airflow_raif.services.fetch import fetch_batch_results
    from airflow_raif.services.manifest import manifest_of
    from airflow_raif.services.outcome import check_outcome

    fetch_batch_results(runtime, batch.batch_id)
    batch = apply_results(runtime, batch.batch_id, result_folder(output_path, batch.batch_id))
    manifest = manifest_of(runtime, batch)
    context["ti"].xcom_push(key="raif_manifest", value=manifest)
    check_outcome(runtime, batch, max_failed_fraction=max_failed_fraction)
    return manifest
