"""Arguments that are handed on as ``**kwargs``, by name and type, so that an editor completes and checks them."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict

if TYPE_CHECKING:
    from airflow_raif.destinations import Destination
    from airflow_raif.destinations.handler import Handler
    from airflow_raif.sources.prompts import PromptTemplate
    from airflow_raif.sources.requests import Requests


class TaskArguments(TypedDict, total=False):
    """Those of every operator of Airflow's; see :class:`airflow.sdk.BaseOperator`."""

    owner: str
    email: str | Sequence[str] | None
    email_on_retry: bool
    email_on_failure: bool
    retries: int | None
    retry_delay: timedelta | float
    retry_exponential_backoff: float
    max_retry_delay: timedelta | float | None
    retry_policy: Any
    start_date: datetime | None
    end_date: datetime | None
    depends_on_past: bool
    ignore_first_depends_on_past: bool
    wait_for_past_depends_before_skipping: bool
    wait_for_downstream: bool
    params: MutableMapping[str, Any] | None
    priority_weight: int
    weight_rule: Any
    queue: str
    pool: str | None
    pool_slots: int
    execution_timeout: timedelta | None
    on_execute_callback: Any
    on_failure_callback: Any
    on_success_callback: Any
    on_retry_callback: Any
    on_skipped_callback: Any
    pre_execute: Any
    post_execute: Any
    trigger_rule: str
    resources: dict[str, Any] | None
    run_as_user: str | None
    map_index_template: str | None
    max_active_tis_per_dag: int | None
    max_active_tis_per_dagrun: int | None
    executor: str | None
    executor_config: dict[str, Any] | None
    do_xcom_push: bool
    inlets: Any
    outlets: Any
    doc: str | None
    doc_md: str | None
    doc_json: str | None
    doc_yaml: str | None
    doc_rst: str | None
    task_display_name: str | None
    logger_name: str | None
    render_template_as_native_obj: bool | None


class BatchArguments(TaskArguments, total=False):
    """Those of :class:`~airflow_raif.operators.batch.BatchInferenceOperator`, but for where its rows come from."""

    conn_id: Required[str]
    model: Required[str]
    prompt_template: PromptTemplate | None
    id_column: str | None
    endpoint: str
    system_prompt: str | None
    cache_system_prompt: bool | None
    max_tokens: int | None
    temperature: float | None
    output_type: Any
    request_params: dict[str, Any] | None
    batch_metadata: dict[str, Any] | None
    max_rounds: int
    repeat_invalid_output: bool
    truncated_max_tokens: int | None
    synchronous_stragglers: int
    deduplicate: bool
    reuse: timedelta | str | None
    max_cost: Decimal | float | str | None
    expected_output_tokens: int | None
    estimate_only: bool | str
    on_input_change: Literal["refuse", "resubmit"]
    on_empty: Literal["fail", "skip"]
    deferrable: bool
    cancel_on_kill: bool
    output_path: str | None
    destination: Destination | None
    handler: Handler | None
    max_failed_fraction: float
    poll_interval: float | None
    timeout: float | timedelta | None
    cancel_on_timeout: bool


class SourcedBatchArguments(BatchArguments, total=False):
    """Those of :class:`~airflow_raif.operators.batch.BatchInferenceOperator`."""

    requests: Requests | None
    sql: str | None
    sql_conn_id: str | None
    sql_parameters: Mapping[str, Any] | Sequence[Any] | None
