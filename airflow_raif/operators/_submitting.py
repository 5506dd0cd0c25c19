"""What operators share that submit requests: their arguments, and the submission, through outages and retries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_raif.domain.errors import BatchStoppingError, EmptyBatchError, StoreError, TransientProviderError
from airflow_raif.hooks.airflow_compat import partition_key_of
from airflow_raif.operators import _waiting
from airflow_raif.operators._agents import agent_schema, check_at_parse, codec_of, schema_of
from airflow_raif.operators._ending import EndsItsBatch
from airflow_raif.operators._showing import ShowsItsBatch
from airflow_raif.sources.requests import Requests, depend_on, open_requests

if TYPE_CHECKING:
    from datetime import timedelta
    from decimal import Decimal

    from airflow.sdk import Context

    from airflow_raif.domain.batch import Batch, Claim
    from airflow_raif.domain.money import Budget
    from airflow_raif.domain.request import RequestDefaults
    from airflow_raif.domain.rounds import RoundPolicy
    from airflow_raif.domain.sharing import Sharing
    from airflow_raif.services.runtime import Runtime
    from airflow_raif.sources.prompts import PromptTemplate


#: What a template that was given a truth renders as.
_YES = frozenset(("true", "1", "yes"))


class RequestsOperator(EndsItsBatch, ShowsItsBatch, BaseOperator):
    """Arguments that describe requests, and starting a batch of them."""

    template_fields: Sequence[str] = (
        "conn_id", "model", "endpoint", "batch_metadata", "address", "sql", "sql_conn_id", "sql_parameters",
        "max_cost",
        "estimate_only",
    )  # fmt: skip
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "batch_metadata": "json",
        "sql": "sql",
        "sql_parameters": "json",
    }
    #: Whether the task succeeds while its batch runs.
    _leaves_batch_running = False

    def __init__(
        self,
        *,
        conn_id: str,
        model: str | None = None,
        agent: Any = None,
        requests: Requests | None = None,
        sql: str | None = None,
        sql_conn_id: str | None = None,
        sql_parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        prompt_template: PromptTemplate | None = None,
        id_column: str | None = None,
        endpoint: str = "",
        system_prompt: str | None = None,
        cache_system_prompt: bool | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        output_type: Any = None,
        request_params: dict[str, Any] | None = None,
        batch_metadata: dict[str, Any] | None = None,
        max_rounds: int = 2,
        repeat_invalid_output: bool = False,
        truncated_max_tokens: int | None = None,
        synchronous_stragglers: int = 0,
        deduplicate: bool = True,
        reuse: timedelta | str | None = None,
        max_cost: Decimal | float | str | None = None,
        expected_output_tokens: int | None = None,
        estimate_only: bool | str = False,
        on_input_change: Literal["refuse", "resubmit"] = "refuse",
        on_empty: Literal["fail", "skip"] = "fail",
        deferrable: bool = True,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (requests is None) == (sql is None) or (sql is None) != (sql_conn_id is None):
            raise ValueError("give either requests, or sql and sql_conn_id")
        if agent is not None and (system_prompt is not None or output_type is not None):
            raise ValueError(
                "an agent has a system prompt and an output type of its own; leave system_prompt and output_type out"
            )
        self.conn_id = conn_id
        self.model = model
        self.agent = agent
        self.requests = requests
        # Of all that requests may be, only an address that stands in the DAG is a template.
        self.address = requests if isinstance(requests, str) else None
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.sql_parameters = sql_parameters
        self.prompt_template = prompt_template
        self.id_column = id_column
        self.endpoint = endpoint
        self.system_prompt = system_prompt
        self.cache_system_prompt = cache_system_prompt
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.output_type = output_type
        self.request_params = request_params
        self.batch_metadata = batch_metadata
        self.max_rounds = max_rounds
        self.repeat_invalid_output = repeat_invalid_output
        self.truncated_max_tokens = truncated_max_tokens
        self.synchronous_stragglers = synchronous_stragglers
        self.deduplicate = deduplicate
        self.reuse = reuse
        self.max_cost = max_cost
        self.expected_output_tokens = expected_output_tokens
        self.estimate_only = estimate_only
        self.on_input_change: Literal["refuse", "resubmit"] = on_input_change
        self.on_empty = on_empty
        self.deferrable = deferrable
        self.cancel_on_kill = cancel_on_kill
        check_at_parse(model, agent, output_type)
        if reuse is not None:
            from airflow_raif.domain.sharing import age_of

            self.reuse = age_of(reuse)
        if requests is not None:
            depend_on(self, requests)
        if prompt_template is not None:
            from airflow_raif.sources.prompts import compile_prompt

            # A template that is none shows as the DAG is parsed.
            compile_prompt(prompt_template)

    def _model(self) -> str:
        """Return the model's name, with the provider before it where it is the agent's own."""
        from airflow_raif.rich.models import agent_model

        return self.model or agent_model(self.agent)

    def _output_schema(self) -> Mapping[str, Any] | None:
        """Return the schema of what a result row has as output; ``None``: that is a text."""
        return schema_of(self.output_type) if self.agent is None else agent_schema(self.agent)

    def _defaults(self) -> RequestDefaults:
        from airflow_raif.adapters.registry import split_model
        from airflow_raif.domain.request import RequestDefaults

        return RequestDefaults(
            model=split_model(self._model())[1],
            endpoint=self.endpoint,
            system=self.system_prompt,
            cache_system=self.cache_system_prompt,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            output_schema=schema_of(self.output_type),
            params=self.request_params,
        )

    def _round_policy(self) -> RoundPolicy:
        from airflow_raif.domain.rounds import RoundPolicy

        return RoundPolicy(
            self.max_rounds, self.repeat_invalid_output, self.truncated_max_tokens, self.synchronous_stragglers
        )

    def _sharing(self) -> Sharing:
        from airflow_raif.domain.sharing import Sharing, age_of

        return Sharing(within_batch=self.deduplicate, reuse_for=age_of(self.reuse))

    def _budget(self) -> Budget:
        from airflow_raif.domain.money import Budget, picodollars

        try:
            most = None if self.max_cost in (None, "") else picodollars(self.max_cost)
        except ValueError as error:
            raise AirflowFailException(f"max_cost: {error}") from error
        return Budget(most, self.expected_output_tokens, self.max_tokens)

    def _start(self, context: Context, *, is_again: bool = False) -> Batch:
        """Create and submit the batch, or find the running one.

        A provider that is away, and an earlier batch that is being canceled, are waited out, deferred.

        :param is_again: the submission was begun before an outage; a batch that was canceled since is not replaced.
        :raises TaskDeferred: see above.
        """
        from airflow_raif.hooks.runtime import open_runtime

        claim = self._begin(context)
        patience = _waiting.Patience(
            cancel_on_kill=self.cancel_on_kill, cancel_on_success=not self._leaves_batch_running
        )
        with open_runtime(self.conn_id, self._model(), self._is_told_to_end, codec_of(self)) as runtime:
            while True:
                made = runtime.store.find_by_claim(claim)
                if (
                    is_again
                    and made is not None
                    and (made.is_cancel_requested or made.is_canceling or made.was_canceled)
                ):
                    return made
                try:
                    with self._empty_input():
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
            with open_batch_runtime(made.batch_id, self._is_told_to_end, codec_of(self)) as (own, _):
                resume_batch(own, claim, lambda: self.conn_id, on_input_change=self.on_input_change)
        try:
            batch = start_batch(
                runtime,
                self._open_rows(context),
                defaults=self._defaults(),
                claim=claim,
                metadata=self._metadata(context),
                round_policy=self._round_policy(),
                sharing=self._sharing(),
                budget=self._budget(),
                on_input_change=self.on_input_change,
                on_batch=lambda batch: self._show(context["ti"], runtime, batch),
            )
        except Exception:
            with suppress(StoreError):
                if runtime.store.without_wait().find_by_claim(claim) is None:
                    self._show_nothing(context["ti"])
            raise
        self._show(context["ti"], runtime, batch)
        return batch

    @contextmanager
    def _empty_input(self) -> Iterator[None]:
        """Skip the task if its input has no row and that is what it should do."""
        try:
            yield
        except EmptyBatchError as error:
            if self.on_empty == "skip":
                raise AirflowSkipException(str(error)) from error
            raise

    def _metadata(self, context: Context) -> dict[str, Any]:
        """Return the user's own pairs, and the partition that the run is for."""
        own, key = self.batch_metadata or {}, partition_key_of(context)
        return own if key is None or "partition_key" in own else {**own, "partition_key": key}

    def _open_rows(self, context: Context) -> Callable[[], Iterable[Any]]:
        open_rows = self._open_source(context)
        if self.prompt_template is None and self.id_column is None:
            return open_rows
        from airflow_raif.sources.prompts import with_prompts

        return lambda: with_prompts(open_rows(), self.prompt_template, self.id_column)

    def _open_source(self, context: Context) -> Callable[[], Iterable[Any]]:
        if self.requests is not None:
            return open_requests(self.requests if self.address is None else self.address, context)
        from airflow_raif.sources.sql import sql_rows

        return lambda: sql_rows(self.sql or "", self.sql_conn_id or "", self.sql_parameters)

    def execute(self, context: Context) -> Any:
        """Submit the batch, then do what the operator does with it.

        :raises AirflowSkipException: with ``estimate_only``, after what it would be was told.
        """
        with _waiting.airflow_errors():
            if str(self.estimate_only).strip().lower() in _YES:
                self._estimate(context)
            return self._go_on(self._start(context).batch_id, context)

    def _estimate(self, context: Context) -> NoReturn:
        from airflow_raif.hooks.runtime import open_runtime
        from airflow_raif.services.dry_run import dry_run

        with open_runtime(self.conn_id, self._model(), codec=codec_of(self)) as runtime, self._empty_input():
            found = dry_run(
                runtime,
                self._open_rows(context)(),
                defaults=self._defaults(),
                claim=_waiting.claim_of(context),
                sharing=self._sharing(),
                budget=self._budget(),
            )
        for line in found.lines():
            self.log.info("%s", line)
        context["ti"].xcom_push(key="raif_estimate", value=found.as_dict())
        raise AirflowSkipException("estimate_only: nothing was sent")

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
