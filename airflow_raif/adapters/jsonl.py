"""Reading JSONL in blocks, split at line feeds only, and its rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from airflow_raif.domain.errors import MalformedResponseError
from airflow_raif.domain.result import EntryError, EntryResult
from airflow_raif.domain.status import EntryStatus, FailureReason
from airflow_raif.domain.usage import Usage

RowT = TypeVar("RowT", bound=msgspec.Struct)
AnyStruct = TypeVar("AnyStruct", bound=msgspec.Struct)
RowReader = Callable[[bytes], EntryResult]
#: What may stand around a line: Windows' line end, and the byte order mark that some tools put before a file.
_AROUND = b"\r \t\xef\xbb\xbf"
#: More tokens than any row has; a larger number is something else. The tables hold the price of many such rows.
_MOST_TOKENS = 1 << 27
_ABSENT = object()
#: No row that a provider documents is longer: 2,048 vectors of 3,072 numbers have some 140 MB.
MAX_LINE_BYTES = 256 << 20
_HEAD_BYTES = 64 << 10
#: Mending takes several times a line's memory.
_MOST_MENDED_BYTES = 64 << 20
#: Code of the error of a row whose id is known but that is no JSON, as if it was cut off.
UNREADABLE = "unreadable"


def split_lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (byte offset, line) of every line that is not blank, without its line end.

    Only ``\\n`` ends a line: U+2028, U+0085 and the like are legal inside a JSON string. A torn last line is
    yielded as it is, and of one longer than :data:`MAX_LINE_BYTES` the beginning. Memory is bounded by that.
    """
    offset = size = 0
    begun: list[bytes] = []
    for block in blocks:
        lines = block.split(b"\n")
        if begun:
            begun.append(lines[0])
            size += len(lines[0])
            if size > MAX_LINE_BYTES:
                begun = [b"".join(piece[:_HEAD_BYTES] for piece in begun)[:_HEAD_BYTES]]
            if len(lines) == 1:
                continue
            yield from _stripped(offset, b"".join(begun))
            offset += size + 1
            del lines[0]
        begun = [lines.pop()]
        size = len(begun[0])
        for line in lines:
            stripped = line.strip(_AROUND)
            if stripped is line:
                if line:
                    yield offset, line
            elif stripped:
                yield offset + line.index(stripped), stripped
            offset += len(line) + 1
    yield from _stripped(offset, b"".join(begun))


def _stripped(offset: int, line: bytes) -> Iterator[tuple[int, bytes]]:
    if stripped := line.strip(_AROUND):
        yield offset + line.index(stripped), stripped


class _Id(msgspec.Struct):
    """What names a row, with any of the providers."""

    custom_id: str | None = None
    key: str | None = None
    metadata: _Id | None = None


#: The id of a row that cannot be decoded; ours need no escaping.
_find_id = re.compile(rb'"(?:custom_id|key)"\s*:\s*"([\w-]+)"').search


def row_reader(read: Callable[[RowT], EntryResult], decoder: msgspec.json.Decoder[RowT]) -> RowReader:
    """Return a function that reads one result row, as far as it goes.

    A row of the documented shape is read at once. In any other a field of the wrong type counts as absent: servers
    that speak a provider's dialect get small things wrong, and the answer is paid for. If what is left is no answer,
    it is that entry's failure. :class:`MalformedResponseError` is raised for what is no JSON, or has no id.
    """
    decode = decoder.decode

    def read_row(raw: bytes) -> EntryResult:
        try:
            return _named(read(decode(raw)))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, MalformedResponseError) as error:
            return _read_odd(read, decoder.type, raw, error)

    return read_row


def _named(result: EntryResult) -> EntryResult:
    if not result.wire_id:
        raise MalformedResponseError("a result row has no id")
    return result


def _read_odd(read: Callable[[RowT], EntryResult], kind: type[RowT], raw: bytes, error: Exception) -> EntryResult:
    message = f"a result row cannot be read: {error}"
    try:
        whole = mended(raw)
    except (ValueError, RecursionError):
        found = _find_id(raw)
        return _unread(found and found.group(1).decode(), EntryError(message, UNREADABLE), error)
    wire_id = None
    try:
        wire_id = _id_of(_convert(whole, _Id))
        result = _named(read(_convert(whole, kind)))
    except (ValueError, RecursionError, MalformedResponseError):
        return _unread(wire_id, EntryError(message), error)
    if result.error is None or result.reason is not FailureReason.INVALID_OUTPUT:
        return result
    return msgspec.structs.replace(result, error=EntryError(f"{result.error.message}; {message}"))


def _unread(wire_id: str | None, entry_error: EntryError, error: Exception) -> EntryResult:
    if not wire_id:
        raise MalformedResponseError(entry_error.message) from error
    # Not missing: the entry was answered and perhaps billed, and its row is in the spool.
    return EntryResult(
        wire_id=wire_id, status=EntryStatus.FAILED, reason=FailureReason.INVALID_OUTPUT, error=entry_error
    )


def _id_of(named: _Id) -> str | None:
    return named.custom_id or named.key or (named.metadata.key if named.metadata else None)


def mended(raw: bytes) -> Any:
    """Decode JSON with what is not of it: control characters; broken UTF-8 and half surrogate pairs are "?"; NaN and
    infinity are null.

    :raises ValueError: it is no JSON even so.
    """
    if len(raw) > _MOST_MENDED_BYTES:
        raise ValueError("too long to be mended")
    text = json.dumps(json.loads(raw.decode("utf-8", "replace"), strict=False), ensure_ascii=False)
    return json.loads(text.encode("utf-8", "replace"), parse_constant=lambda _: None)


def _convert(value: Any, kind: type[AnyStruct]) -> AnyStruct:
    return msgspec.convert(_fit(value, _type_info(kind)), kind)


_type_info = cache(inspect.type_info)
_SCALARS: dict[type[inspect.Type], Any] = {
    inspect.IntType: int, inspect.FloatType: float, inspect.StrType: str, inspect.BoolType: bool,
}  # fmt: skip


def _fit(value: Any, kind: inspect.Type) -> Any:
    """Return a value without the fields that are not of their type, or a mark if it is not of its own."""
    if value is _ABSENT or isinstance(kind, inspect.AnyType):
        return value
    if isinstance(kind, inspect.UnionType):
        fitted = (_fit(value, each) for each in kind.types)
        return next((each for each in fitted if each is not _ABSENT), _ABSENT)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        fields = {each.encode_name: _fit(value.get(each.encode_name, _ABSENT), each.type) for each in kind.fields}
        return {name: each for name, each in fields.items() if each is not _ABSENT}
    if isinstance(kind, inspect.ListType) and isinstance(value, list):
        items = [_fit(each, kind.item_type) for each in value]
        return items if _ABSENT not in items else _ABSENT
    if isinstance(kind, inspect.NoneType):
        return None if value is None else _ABSENT
    try:
        return msgspec.convert(value, _SCALARS[type(kind)], strict=False)
    except (KeyError, msgspec.ValidationError):
        return _ABSENT


def usage_of(
    given: float | None, answered: float | None, *, cached: float | None, reasoning: float | None, written: float = 0
) -> Usage | None:
    """Return the usage of a row; what is a part of something is never more than that, whatever a server says."""
    try:
        if (
            0 <= cached <= given - written <= given < _MOST_TOKENS  # type: ignore[operator]
            and 0 <= reasoning <= answered < _MOST_TOKENS  # type: ignore[operator]
        ):
            return Usage(int(given), int(cached), int(written), int(answered), int(reasoning))  # type: ignore[arg-type]
    except TypeError:
        pass  # one is not told
    given, answered = count_of(given), count_of(answered)
    if given is None and answered is None:
        return None
    given, answered = given or 0, answered or 0
    read = min(count_of(cached) or 0, given)
    write = min(count_of(written) or 0, given - read)
    return Usage(given, read, write, answered, min(count_of(reasoning) or 0, answered))


def count_of(value: float | None) -> int | None:
    """Return a number of tokens, whole; ``None``: it is none."""
    return int(value) if value is not None and 0 <= value < _MOST_TOKENS else None
