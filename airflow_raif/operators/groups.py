"""A task group of the three steps of a batch."""

from __future__ import annotations

from typing import Any, Unpack, cast

from airflow.sdk import TaskGroup

from airflow_raif.operators.arguments import SourcedBatchArguments
from airflow_raif.operators.batch import ApplyBatchResultsOperator, SubmitBatchOperator
from airflow_raif.sensors.batch import WaitForBatchSensor

_OF_WAIT = ("poll_interval", "timeout", "cancel_on_timeout")
_OF_APPLY = ("output_path", "destination", "handler", "max_failed_fraction")


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
        takes.
    """
    kwargs = dict[str, Any](arguments)
    waiting = {name: kwargs.pop(name) for name in _OF_WAIT if name in kwargs}
    applying = {name: kwargs.pop(name) for name in _OF_APPLY if name in kwargs}
    waiting |= {name: kwargs[name] for name in ("deferrable", "cancel_on_kill") if name in kwargs}
    applying |= {name: kwargs[name] for name in ("deferrable",) if name in kwargs}
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
