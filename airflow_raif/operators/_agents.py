"""An agent that stands in place of a task's model, system prompt and output type, and the tasks that find it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from airflow_raif.domain.batch import Batch
    from airflow_raif.rich.codec import RichCodec


def codec_of(operator: BaseOperator) -> RichCodec:
    """Return a codec that knows the task's own agent, and those of the other tasks of its DAG."""
    from airflow_raif.rich.codec import RichCodec

    def find(batch: Batch) -> Any:
        """An agent without a path is where the task is that submitted the batch, if that is in the same DAG."""
        claim, dag = batch.claim, operator.get_dag()
        if claim is None or dag is None or claim.dag_id != dag.dag_id or claim.task_id not in dag.task_ids:
            return None
        task: Any = dag.get_task(claim.task_id)
        # A mapped task holds its arguments until it runs.
        return getattr(task, "agent", None) or getattr(task, "partial_kwargs", {}).get("agent")

    return RichCodec(getattr(operator, "agent", None), find)


def agent_schema(agent: Any) -> Mapping[str, Any] | None:
    """Return the JSON schema of an agent's output; ``None``: that is a text."""
    from airflow_raif.rich.models import require

    require()
    from airflow_raif.rich.agents import load_agent, output_schema

    return output_schema(load_agent(agent))


def schema_of(output_type: Any) -> dict[str, Any] | None:
    """Return the JSON schema of an ``output_type``: of a Pydantic model, or itself."""
    if hasattr(output_type, "model_json_schema"):
        schema: dict[str, Any] = output_type.model_json_schema()
        return schema
    return None if output_type is None else dict(output_type)


def check_at_parse(model: str | None, agent: Any, output_type: Any) -> None:
    """See, as the DAG is parsed, that answers can be had as asked; what needs the connection is seen in the worker.

    :raises RaifError: they cannot.
    """
    from airflow_raif.adapters.registry import split_model
    from airflow_raif.adapters.schemas import strict_schema
    from airflow_raif.domain.errors import ConfigurationError
    from airflow_raif.rich.models import agent_model
    from airflow_raif.services.output import make_parser

    if agent is None and model is None:
        raise ConfigurationError("give a model, or an agent")
    if agent is not None and not isinstance(agent, str) and not callable(agent):
        agent_schema(agent)
        if model is None:
            agent_model(agent)
    if output_type is not None:
        if not isinstance(output_type, Mapping) and not hasattr(output_type, "model_json_schema"):
            raise ConfigurationError(
                f"output_type is {output_type!r:.60}; give a Pydantic model, or a JSON schema as a dict"
            )
        schema = schema_of(output_type) or {}
        make_parser(schema)
        if (provider := split_model(model or "")[0]) is not None:
            strict_schema(provider, schema)
