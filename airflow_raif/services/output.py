"""What a completed answer's text means: JSON that follows the batch's schema, or plain text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import ConfigurationError, InvalidBatchError
from airflow_raif.domain.result import EntryResult
from airflow_raif.services.codec import AnswerReader, load_recipe
from airflow_raif.services.runtime import Runtime

_decode = msgspec.json.Decoder().decode


class InvalidOutputError(ValueError):
    """The answer is not JSON, or does not follow the schema."""


class _SchemaReader:
    """Reads answers as :func:`make_parser` does; vectors are what they are, and calls of tools no output."""

    takes_tool_calls: ClassVar[bool] = False

    def __init__(self, schema: Mapping[str, Any] | None) -> None:
        self._parse = make_parser(schema)

    def output(self, _raw: bytes, result: EntryResult, /) -> Any:
        """Return the parsed text, or the vector."""
        return self._parse(result.text) if result.text is not None else result.embedding


def answer_reader(runtime: Runtime, batch: Batch) -> AnswerReader:
    """Return what reads the answers of a batch.

    :raises ConfigurationError: what made its requests is not here to read the answers.
    """
    recipe = load_recipe(runtime.folder(batch.batch_id))
    if recipe is None:
        return _SchemaReader(batch.output_schema)
    if runtime.codec is None:
        raise ConfigurationError(f"batch {batch.batch_id} needs a codec to read its answers; use BatchHook or a task")
    return runtime.codec.reader(batch, recipe)


def _refuse(uri: str) -> Any:
    """A schema may come from anywhere, so nothing that it names is fetched."""
    raise ValueError(f"it refers to {uri}; copy that schema into its $defs")


def make_parser(schema: Mapping[str, Any] | None) -> Callable[[str], Any]:
    """Return a function from an answer's text to its value.

    Without a schema that is the text itself; with one it is the parsed JSON, validated. The function raises
    :class:`InvalidOutputError`.

    :raises InvalidBatchError: the schema is no JSON schema.
    """
    if schema is None:
        return lambda text: text
    import jsonschema_rs

    if not isinstance(schema, Mapping):
        raise InvalidBatchError(f"the output schema is a {type(schema).__name__}; give a JSON schema as a dict")
    try:
        validator = jsonschema_rs.validator_for(dict(schema), retriever=_refuse)
    except ValueError as error:
        raise InvalidBatchError(f"the output schema is not a JSON schema: {error}") from error

    def parse(text: str) -> Any:
        try:
            value = _decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidOutputError(f"the answer is not JSON: {error}") from error
        if validator.is_valid(value):
            return value
        violation = _first_violation(validator, value)
        if _drop_nulls(validator, value) and validator.is_valid(value):
            return value
        raise InvalidOutputError(violation)

    return parse


def _drop_nulls(validator: Any, value: Any) -> bool:
    """Leave out properties that are null where the schema has another type; return whether that is all there is to do.

    OpenAI's strict mode knows no optional property: what may be missing comes as null.
    """
    found = _nulls(validator.iter_errors(value), value)
    for path in found or ():
        holder = _at(value, path[:-1])
        holder.pop(path[-1], None)
    return found is not None


def _nulls(errors: Iterable[Any], value: Any) -> list[list[Any]] | None:
    """Return the paths of the nulls that errors are about; ``None``: one of them is about something else.

    Of a value that may have one of several schemas, those of the first that it follows but for nulls.
    """
    paths: list[list[Any]] = []
    for error in errors:
        path = error.instance_path
        if path and _at(value, path) is None and isinstance(_at(value, path[:-1]), dict):
            paths.append(path)
            continue
        branches = (_nulls(branch, value) for branch in getattr(error.kind, "context", ()))
        found = next((each for each in branches if each is not None), None)
        if found is None:
            return None
        paths += found
    return paths


def _at(value: Any, path: Sequence[Any]) -> Any:
    for step in path:
        value = value[step]
    return value


def _first_violation(validator: Any, value: Any) -> str:
    error = next(validator.iter_errors(value))
    where = "/".join(str(step) for step in error.instance_path)
    return f"the answer does not follow the schema at {where or 'its root'}: {error.message}"
