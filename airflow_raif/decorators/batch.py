"""``@task.raif_batch``: the function gives the rows, the task submits them, waits and applies the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from airflow.sdk.bases.decorator import DecoratedOperator, determine_kwargs, task_decorator_factory

from airflow_raif.operators.arguments import BatchArguments
from airflow_raif.operators.batch import BatchInferenceOperator
from airflow_raif.sources.requests import rows_of

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.bases.decorator import TaskDecorator


class _BatchDecoratedOperator(DecoratedOperator, BatchInferenceOperator):
    """A :class:`BatchInferenceOperator` whose requests are what a function returns or yields."""

    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *BatchInferenceOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **BatchInferenceOperator.template_fields_renderers,
        **DecoratedOperator.template_fields_renderers,
    }
    custom_operator_name: str = "@task.raif_batch"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(requests=(), **kwargs)

    def _open_source(self, context: Context) -> Callable[[], Iterable[Any]]:
        # Parameters that the call left out are filled from the context.
        named = determine_kwargs(self.python_callable, self.op_args, {**context, **self.op_kwargs})

        return lambda: rows_of(self.python_callable, self.python_callable(*self.op_args, **named))


def raif_batch_task(
    python_callable: Callable[..., Iterable[Any]] | None = None, **arguments: Unpack[BatchArguments]
) -> TaskDecorator:
    """Make of a function that returns or yields rows a task that does their whole batch and returns its manifest.

    :param python_callable: is called in the worker, and again by a retry, which compares its rows with those that were
        submitted.
    :param arguments: those of :class:`~airflow_raif.operators.batch.BatchInferenceOperator` but for ``requests`` and
        ``sql``.
    """
    kwargs = dict[str, Any](arguments)
    kwargs.pop("multiple_outputs", None)
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_BatchDecoratedOperator, **kwargs
    )
