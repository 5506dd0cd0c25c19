"""Where in a result row a value is: ``output``, ``output.mood``, ``cost.batch``, or a column of the row's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_raif.domain.errors import ConfigurationError, InvalidBatchError
from airflow_raif.domain.request import RESULT_FIELDS
from airflow_raif.domain.usage import Usage

Row = Mapping[str, Any]

#: Fields of what else in a result row is no single value.
_FIELDS = {
    "usage": Usage.__struct_fields__,
    "cost": ("batch", "standard"),
    "error": ("message", "code", "status"),
}


def holds(row: Row, path: str) -> bool:
    """Whether a row has the column that a path begins with."""
    return path in row or path.partition(".")[0] in row


def value_at(row: Row, path: str) -> Any:
    """Return what is at a path in a result row; what an answer lacks is null.

    A column of the user's own may have dots in its name, also beside one that is named as what is before the first dot.

    :raises InvalidBatchError: the row has no such column.
    """
    head, *rest = path.split(".")
    if path in row and head not in RESULT_FIELDS:
        return row[path]
    if head not in row:
        raise InvalidBatchError(f"row {row['custom_id']!r} has no {head!r}; a result row has {', '.join(row)}")
    value = row[head]
    for name in rest:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def check_paths(paths: Mapping[str, str], output_schema: Mapping[str, Any] | None) -> None:
    """See that answers of a schema can have what is to be written of them.

    :param paths: column -> path.
    :raises ConfigurationError: they cannot.
    """
    for name, path in paths.items():
        head, *fields = path.split(".")
        if not fields or head not in ("output", *_FIELDS):
            continue
        if head == "output" and output_schema is None:
            what = "is a text, since there is no output_type"
        elif fields[0] not in (properties := _FIELDS.get(head) or (output_schema or {}).get("properties", fields)):
            what = f"has {', '.join(properties)}"
        else:
            continue
        raise ConfigurationError(f"column {name!r} is to hold {path!r}, but the {head} {what}")
