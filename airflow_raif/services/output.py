"""What a completed answer's text means: JSON that follows the batch's schema, or plain text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from airflow_raif.domain.errors import InvalidBatchError

_decode = msgspec.json.Decoder().decode


class InvalidOutputError(ValueError):
    """The answer is not JSON, or does not follow the schema."""


def make_parser(schema: Mapping[str, Any] | None) -> Callable[[str], Any]:
    """Return a function from an answer's text to its value.

    Without a schema that is the text itself; with one it is the parsed JSON, validated. The function raises
    :class:`InvalidOutputError`.

    :raises InvalidBatchError: the schema is no JSON schema.
    """
    if schema is None:
        return lambda text: text
    import jsonschema_rs

    try:
        validator = jsonschema_rs.validator_for(dict(schema))
    except ValueError as error:
        raise InvalidBatchError(f"the output schema is not a JSON schema: {error}") from error

    def parse(text: str) -> Any:
        try:
            value = _decode(text)
        except msgspec.DecodeError as error:
            raise InvalidOutputError(f"the answer is not JSON: {error}") from error
        if not validator.is_valid(value):
            raise InvalidOutputError(_first_violation(validator, value))
        return value

    return parse


def _first_violation(validator: Any, value: Any) -> str:
    error = next(validator.iter_errors(value))
    where = "/".join(str(step) for step in error.instance_path)
    return f"the answer does not follow the schema at {where or 'its root'}: {error.message}"
