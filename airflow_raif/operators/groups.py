"""A task group of the three steps of a batch."""

from __future__ import annotations

from typing import Any, Unpack, cast

from airflow.sdk import TaskGroup

from airflow_raif.operators.arguments import SourcedBatchArguments, TaskArguments
from airflow_raif.operators.batch import ApplyBatchResultsOperator, SubmitBatchOperator
from airflow_raif.sensors.batch import WaitForBatchSensor

_OF_WAIT = ("poll_interval", "timeout", "cancel_on_timeout")
_OF_APPLY = ("output_path", "destination", "handler", "max_failed_fraction", "outlets", "do_xcom_push")
#: What says when the group begins, and what one task of it is called; all else of Airflow's own is for each step.
_OF_SUBMIT = frozenset((
    "trigger_rule", "depends_on_past", "ignore_first_depends_on_past", "wait_for_past_depends_before_skipping",
    "wait_for_downstream", "inlets", "doc", "doc_md", "doc_json", "doc_yaml", "doc_rst", "task_display_name",
))  # fmt: skip
_OF_EACH = TaskArguments.__annotations__.keys() - _OF_SUBMIT - set(_OF_APPLY)


def batch_group(
    group_id: str,
    *,
    by_parts: bool = False,
    default_args: dict[str, Any] | None = None,
    **arguments: Unpack[SourcedBatchArguments],
) -> TaskGroup:
    """Return the tasks ``submit``, ``wait`` and ``apply`` of a batch as a group; ``apply`` returns the manifest.

    :param group_id: the group's id, with which its tasks' ids begin.
    :param by_parts: apply in mapped tasks, one for each part, so that several workers share a large batch.
    :param default_args: arguments of all three tasks, such as ``retries`` or ``pool``.
    :param arguments: those of :class:`~airflow_raif.operators.batch.BatchInferenceOperator`; each step is given what it
        takes. Of Airflow's own each has ``retries``, callbacks and so on, and the first what says when it may begin.
    """
    kwargs = dict[str, Any](arguments)
    waiting = {name: kwargs.pop(name) for name in _OF_WAIT if name in kwargs}
    applying = {name: kwargs.pop(name) for name in _OF_APPLY if name in kwargs}
    shared = {name: kwargs[name] for name in ("deferrable", *_OF_EACH) if name in kwargs}
    waiting |= shared | {name: kwargs[name] for name in ("cancel_on_kill",) if name in kwargs}
    applying |= shared
    with TaskGroup(group_id, default_args=cast("Any", default_args or {})) as group:
        submit = SubmitBatchOperator(task_id="submit", **kwargs)
        wait = WaitForBatchSensor(
            task_id="wait", batch=submit.output, returns="parts" if by_parts else "manifest", **waiting
        )
        if by_parts:
            apply = ApplyBatchResultsOperator.partial(task_id="apply", batch=submit.output, **applying)
            apply.expand(part=wait.output)
        else:
            ApplyBatchResultsOperator(task_id="apply", batch=wait.output, **applying)
    return group
