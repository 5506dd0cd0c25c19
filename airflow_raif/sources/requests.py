"""An operator's ``requests``: whatever they are, they are opened here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from airflow.sdk import Asset, XComArg
from airflow.sdk.exceptions import AirflowFailException

from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.sources.files import READERS, files_at, suffix_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

#: Prompts or rows; a function that returns or yields them; the address of a file; an asset that is one; an upstream
#: task's output.
Requests = Iterable[Any] | Callable[..., Iterable[Any]] | str | Asset | XComArg


def depend_on(operator: BaseOperator, requests: Requests) -> None:
    """Set the task that the requests come from upstream of the operator, or the asset as an inlet of it.

    The requests are no template field, since prompts are data; so Airflow does not see this by itself.
    """
    if isinstance(requests, XComArg):
        XComArg.apply_upstream_relationship(operator, requests)
    elif isinstance(requests, Asset) and requests not in operator.inlets:
        operator.inlets.append(requests)


def open_requests(requests: Requests, context: Context) -> Callable[[], Iterable[Any]]:
    """Return a function that opens the input from its start.

    :raises AirflowFailException: the input is none of :data:`Requests`.
    """
    if isinstance(requests, XComArg):
        requests = requests.resolve(context)
    if callable(requests):
        return _of_function(requests, context)
    if isinstance(requests, Asset):
        return _of_files(_addresses_of(requests, context))
    if isinstance(requests, str):
        return _of_files([requests])
    if is_rows(requests) and not isinstance(requests, Iterator):
        rows = requests
        return lambda: rows
    raise AirflowFailException(
        f"requests is a {type(requests).__name__}; give a list, a function that yields rows, an asset, or the address"
        f" of a {' or '.join(READERS)} file"
    )


def _of_function(function: Callable[..., Iterable[Any]], context: Context) -> Callable[[], Iterable[Any]]:
    names = inspect.signature(function).parameters
    arguments: Any = context
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in names.values()):
        arguments = {name: context[name] for name in names if name in context}  # type: ignore[literal-required]
    return lambda: rows_of(function, function(**arguments))


def rows_of(function: Callable[..., Any], found: Any) -> Iterable[Any]:
    """Return what a function returned, if it is rows: of a text come its characters, of a table its columns' names.

    :raises InvalidBatchError: it is none.
    """
    if is_rows(found):
        return found
    name = getattr(function, "__name__", repr(function))
    raise InvalidBatchError(f"{name}() returned a {type(found).__name__}; return or yield rows")


def is_rows(given: Any) -> TypeGuard[Iterable[Any]]:
    """Whether something can be the rows of a batch, and is not a single thing with parts of its own."""
    is_table = type(given).__name__ == "DataFrame"
    return isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping) and not is_table


def _addresses_of(asset: Asset, context: Context) -> Sequence[str]:
    """Return where the events that triggered the run say that the asset's rows are, each place once; or its own URI."""
    events: Any = context.get("triggering_asset_events") or {}
    extras = [event.extra or {} for event in events.get(asset, ())]
    told = [extra.get("destination_uri") or extra.get("result_uri") for extra in extras]
    return list(dict.fromkeys(address if isinstance(address, str) else asset.uri for address in told)) or [asset.uri]


def _of_files(addresses: Sequence[str]) -> Callable[[], Iterable[Any]]:
    for address in addresses:
        if suffix_of(address) not in READERS:
            raise AirflowFailException(
                f"requests is the text {address!r:.100}; only the address of a {' or '.join(READERS)} file may be one"
            )
    return lambda: (row for each in addresses for file in files_at(each) for row in READERS[suffix_of(each)](file))
