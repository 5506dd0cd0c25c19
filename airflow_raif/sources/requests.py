"""An operator's ``requests``: whatever they are, they are opened here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg
from airflow.sdk.exceptions import AirflowFailException

from airflow_raif.sources.files import READERS, suffix_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

#: Prompts or rows; a function that returns or yields them; the address of a file; an upstream task's output.
Requests = Iterable[Any] | Callable[..., Iterable[Any]] | str | XComArg


def depend_on(operator: BaseOperator, requests: Requests) -> None:
    """Set the task that the requests come from upstream of the operator.

    The requests are no template field, since prompts are data; so Airflow does not see this by itself.
    """
    if isinstance(requests, XComArg):
        XComArg.apply_upstream_relationship(operator, requests)


def open_requests(requests: Requests, context: Context) -> Callable[[], Iterable[Any]]:
    """Return a function that opens the input from its start.

    :raises AirflowFailException: the input is none of :data:`Requests`.
    """
    if isinstance(requests, XComArg):
        requests = requests.resolve(context)
    if callable(requests):
        return _of_function(requests, context)
    if isinstance(requests, str):
        return _of_file(requests)
    if isinstance(requests, Iterable) and not isinstance(requests, Iterator | bytes | dict):
        rows = requests
        return lambda: rows
    raise AirflowFailException(
        f"requests is a {type(requests).__name__}; give a list, a function that yields rows, or the address of a"
        f" {' or '.join(READERS)} file"
    )


def _of_function(function: Callable[..., Iterable[Any]], context: Context) -> Callable[[], Iterable[Any]]:
    names = inspect.signature(function).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in names.values()):
        return lambda: function(**context)
    arguments = {name: context[name] for name in names if name in context}  # type: ignore[literal-required]
    return lambda: function(**arguments)


def _of_file(address: str) -> Callable[[], Iterable[Any]]:
    read = READERS.get(suffix_of(address))
    if read is None:
        raise AirflowFailException(
            f"requests is the text {address!r:.100}; only the address of a {' or '.join(READERS)} file may be one"
        )
    return lambda: read(address)
