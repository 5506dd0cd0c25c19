"""The hook: an official client, Test Connection, and every step of a batch for a DAG author's own Python task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseHook

from airflow_raif.hooks.connections import resolve

if TYPE_CHECKING:
    from datetime import timedelta
    from decimal import Decimal

    from airflow_raif.adapters.base import ConnectionSettings
    from airflow_raif.domain.batch import Batch
    from airflow_raif.domain.status import BatchStatus
    from airflow_raif.rich.codec import RichCodec


class BatchHook(BaseHook):
    """Work with the batches of one connection.

    :param conn_id: a connection of any type the operators take.
    :param model: ``provider:model``, where the connection serves several providers.
    :param agent: what batches are made and read with: a pydantic-ai ``Agent``, a function that makes one, or the dotted
        path of either. Whoever else is to read their answers needs the path.
    """

    conn_name_attr = "conn_id"
    default_conn_name: ClassVar[str] = "openai_default"
    conn_type: ClassVar[str] = "raif_openai"
    hook_name: ClassVar[str] = "LLM batches (raif): OpenAI"

    def __init__(self, conn_id: str | None = None, model: str | None = None, agent: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id or self.default_conn_name
        self.model = model
        self.agent = agent

    @property
    def settings(self) -> ConnectionSettings:
        """What the connection says."""
        return resolve(self.conn_id, self.model).settings

    def get_conn(self) -> Any:
        """Return the provider's official SDK client.

        :raises ConfigurationError: the connection is wrong, or the SDK is not installed.
        """
        from airflow_raif.hooks.sdk import make_client

        return make_client(self.settings)

    async def aget_conn(self) -> Any:
        """Return the provider's official asynchronous SDK client; as :meth:`get_conn`."""
        from airflow_raif.hooks.connections import aresolve
        from airflow_raif.hooks.sdk import make_client

        return make_client((await aresolve(self.conn_id, self.model)).settings, is_async=True)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the provider for its models; say what is wrong if it will not answer."""
        from airflow_raif.adapters.http import HttpTransport
        from airflow_raif.adapters.registry import make_adapter
        from airflow_raif.domain.errors import RaifError

        try:
            adapter = make_adapter(self.settings)
            with HttpTransport(adapter) as transport:
                transport.send(adapter.check_request(), retry=False)
        except RaifError as error:
            return False, str(error)
        return True, f"{adapter.name} at {adapter.base_url} accepts the key"

    def _codec(self) -> RichCodec:
        from airflow_raif.rich.codec import RichCodec

        return RichCodec(self.agent)

    # The seed's verbs

    def create_batch(
        self,
        requests: Iterable[Any],
        *,
        model: str | None = None,
        endpoint: str = "",
        system_prompt: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        output_schema: dict[str, Any] | None = None,
        request_params: dict[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        deduplicate: bool = True,
        reuse: timedelta | str | None = None,
        max_cost: Decimal | float | str | None = None,
        expected_output_tokens: int | None = None,
    ) -> Batch:
        """Spool requests as a new batch; nothing is sent. The arguments are those of the operators.

        :raises InvalidBatchError: the batch is empty, or a row cannot be sent.
        """
        from airflow_raif.adapters.registry import split_model
        from airflow_raif.domain.errors import ConfigurationError
        from airflow_raif.domain.money import Budget, picodollars
        from airflow_raif.domain.request import RequestDefaults
        from airflow_raif.domain.sharing import Sharing, age_of
        from airflow_raif.hooks.runtime import open_runtime
        from airflow_raif.rich.models import agent_model
        from airflow_raif.services.create import create_batch

        name = model or self.model
        if name is None and self.agent is not None:
            name = agent_model(self.agent)
        if name is None:
            raise ConfigurationError("give the model of the batch, or an agent")
        defaults = RequestDefaults(
            model=split_model(name)[1],
            endpoint=endpoint,
            system=system_prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            output_schema=output_schema,
            params=request_params,
        )
        with open_runtime(self.conn_id, name, codec=self._codec()) as runtime:
            return create_batch(
                runtime,
                requests,
                defaults=defaults,
                metadata=metadata,
                sharing=Sharing(deduplicate, age_of(reuse)),
                budget=Budget(picodollars(max_cost) if max_cost else None, expected_output_tokens, max_tokens),
            )

    def submit_batch(self, batch_id: str) -> Batch:
        """Send a created batch to the provider; refuses what is not submittable with ``InvalidBatchError``."""
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.submit import submit_batch

        with open_batch_runtime(batch_id) as (runtime, _):
            return submit_batch(runtime, batch_id)

    def fetch_batch_status(self, batch_id: str) -> BatchStatus:
        """Ask the provider once; update and return the status."""
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.poll import fetch_batch_status

        with open_batch_runtime(batch_id) as (runtime, _):
            return fetch_batch_status(runtime, batch_id)

    def fetch_batch_results(self, batch_id: str) -> Batch:
        """Bring the results of a terminal batch into the spool; every entry is completed or failed afterwards."""
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.fetch import fetch_batch_results

        with open_batch_runtime(batch_id, codec=self._codec()) as (runtime, _):
            return fetch_batch_results(runtime, batch_id)

    def advance_batch(self, batch_id: str, *, part: int | None = None) -> Batch:
        """Do what the batch needs next: submit what is pending, fetch what has ended, open a round.

        :param part: only for the rows of this part.
        """
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.advance import advance_batch, advance_part

        with open_batch_runtime(batch_id, codec=self._codec()) as (runtime, _):
            return advance_batch(runtime, batch_id) if part is None else advance_part(runtime, batch_id, part).batch

    def apply_batch_results(self, batch_id: str, output_path: str | None = None, *, part: int | None = None) -> str:
        """Write one row per input row; return the result file's address.

        :param part: only the rows of this part, into a file of its own.
        """
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.hooks.spool import result_folder
        from airflow_raif.services.apply import apply_part, apply_results

        with open_batch_runtime(batch_id, codec=self._codec()) as (runtime, _):
            if part is not None:
                share = apply_part(runtime, batch_id, part, result_folder(output_path, batch_id))
                return str(share.part.result_uri)
            return str(apply_results(runtime, batch_id, result_folder(output_path, batch_id)).result_uri)

    def cancel_batch(self, batch_id: str) -> BatchStatus:
        """Ask the provider to stop a batch; return the status, which may be transitional."""
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.cancel import cancel_batch

        with open_batch_runtime(batch_id, codec=self._codec()) as (runtime, _):
            return cancel_batch(runtime, batch_id)

    def expire_batch(self, batch_id: str, *, may_cancel: bool = False) -> Batch:
        """Ask about a batch whose time is up; cancel it if it still runs and may be canceled; fetch what has ended."""
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.expire import expire_batch

        with open_batch_runtime(batch_id, codec=self._codec()) as (runtime, _):
            return expire_batch(runtime, batch_id, may_cancel=may_cancel)


class OpenAIBatchHook(BatchHook):
    """Batches of OpenAI, and of servers that speak its API."""


class AnthropicBatchHook(BatchHook):
    """Batches of Anthropic."""

    default_conn_name = "anthropic_default"
    conn_type = "raif_anthropic"
    hook_name = "LLM batches (raif): Anthropic"


class GeminiBatchHook(BatchHook):
    """Batches of Google Gemini."""

    default_conn_name = "gemini_default"
    conn_type = "raif_gemini"
    hook_name = "LLM batches (raif): Gemini"
