"""Prompts that are made of a row's columns, and the column that holds a row's id."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import msgspec
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from airflow_raif.domain.errors import InvalidRequestError
from airflow_raif.domain.request import EntryRequest, request_of
from airflow_raif.rich.rows import RowOfTemplate, is_rich

#: A Jinja template, or a function from a row to its prompt or to a request.
PromptTemplate = str | Callable[[Mapping[str, Any]], Any]
_ID_TYPES = (str, int, uuid.UUID, Decimal, datetime.date)
_ROW_ID = "custom_id"


def compile_prompt(template: PromptTemplate) -> Callable[[Mapping[str, Any]], Any]:
    """Return a function from a row to its prompt.

    A template sees the row's columns and nothing else, in a sandbox; a column that a row lacks is an error.

    :raises ValueError: the template is no Jinja.
    """
    if callable(template):
        return template
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.globals.clear()
    try:
        return environment.from_string(template).render
    except TemplateError as error:
        raise ValueError(f"prompt_template is no Jinja template: {error}") from error


def with_prompts(
    rows: Iterable[Any], template: PromptTemplate | None, id_column: str | None
) -> Iterator[EntryRequest | RowOfTemplate | Mapping[str, Any]]:
    """Yield a request for each row, whose own columns are all the columns it has.

    :param template: without one the rows are requests already, and only their ids come from a column.
    :param id_column: holds the row's id; default: ``custom_id`` where rows have it, otherwise their position.
    :raises InvalidRequestError: a row is no mapping, has no id, or no prompt can be made of it.
    """
    render = compile_prompt(template) if template is not None else None
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidRequestError(
                f"row {index} is a {type(row).__name__}; with a prompt_template or an id_column give a mapping of the"
                " row's columns",
                row=index,
            )
        custom_id = _id_of(row, id_column, index)
        if render is None:
            yield {**row, _ROW_ID: custom_id}
        else:
            yield _request_of(row, custom_id, render, index)


def _request_of(
    row: Mapping[str, Any], custom_id: str | None, render: Callable[[Mapping[str, Any]], Any], index: int
) -> EntryRequest | RowOfTemplate:
    try:
        made = render(row)
    except Exception as error:
        raise InvalidRequestError(
            f"row {index}: prompt_template fails with {type(error).__name__}: {error}; the row has the columns"
            f" {', '.join(map(str, row))}",
            row=index,
        ) from error
    columns = {name: value for name, value in row.items() if name != _ROW_ID}
    if is_rich(made) or isinstance(made, list | tuple):
        return RowOfTemplate(made, custom_id, columns)
    request = request_of(made, index)
    # A function may return the same request again and again.
    return msgspec.structs.replace(request, custom_id=request.custom_id or custom_id, columns=columns | request.columns)


def _id_of(row: Mapping[str, Any], id_column: str | None, index: int) -> str | None:
    if id_column is None and _ROW_ID not in row:
        return None
    name = id_column or _ROW_ID
    if name != _ROW_ID and _ROW_ID in row:
        raise InvalidRequestError(
            f"row {index} has a column named 'custom_id' beside the id_column {name!r}; rename or drop it", row=index
        )
    value = row.get(name)
    if not isinstance(value, _ID_TYPES) or isinstance(value, bool) or value == "":
        raise InvalidRequestError(
            f"row {index} has {value!r:.60} as its id in column {name!r}; give every row a text or a number that is"
            f" unique in the batch. It has the columns {', '.join(map(str, row))}",
            row=index,
        )
    return str(value)
