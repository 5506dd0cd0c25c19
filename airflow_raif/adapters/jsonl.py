"""Reading JSONL in blocks, split at line feeds only, and its rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from airflow_raif.domain.errors import MalformedResponseError
from airflow_raif.domain.result import EntryError, EntryResult
from airflow_raif.domain.status import EntryStatus, FailureReason

RowT = TypeVar("RowT")


def split_lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (byte offset, line) of every line that is not blank, without its line end.

    Only ``\\n`` ends a line: U+2028, U+0085 and the like are legal inside a JSON string. A torn last line is
    yielded as it is. Memory is bounded by a block and the longest line.
    """
    offset = 0
    torn: list[bytes] = []
    for block in blocks:
        lines = block.split(b"\n")
        if len(lines) == 1:
            torn.append(block)
            continue
        if torn:
            torn.append(lines[0])
            lines[0] = b"".join(torn)
        torn = [lines.pop()]
        for line in lines:
            length = len(line) + 1
            if stripped := line.strip(b"\r \t"):
                yield offset + (0 if line[0] == stripped[0] else line.index(stripped)), stripped
            offset += length
    if (line := b"".join(torn)).strip():
        stripped = line.strip(b"\r \t")
        yield offset + line.index(stripped), stripped


class _Id(msgspec.Struct):
    """What names a row, with any of the providers."""

    custom_id: str | None = None
    key: str | None = None
    metadata: _Id | None = None


_decode_id = msgspec.json.Decoder(_Id).decode


def read_row(read: Callable[[RowT], EntryResult], decode: Callable[[bytes], RowT], raw: bytes) -> EntryResult:
    """Read one result row; one that has an id but is not of the documented shape is that entry's failure.

    :raises MalformedResponseError: it is no JSON, or has no id.
    """
    try:
        return read(decode_row(decode, raw))
    except MalformedResponseError as error:
        named = decode_row(_decode_id, raw)
        wire_id = named.custom_id or named.key or (named.metadata.key if named.metadata else None)
        if wire_id is None:
            raise
        # Not missing: the entry was answered and perhaps billed, and its row is in the spool.
        return EntryResult(
            wire_id=wire_id,
            status=EntryStatus.FAILED,
            reason=FailureReason.INVALID_OUTPUT,
            error=EntryError(str(error)),
        )


def decode_row(decode: Callable[[bytes], RowT], raw: bytes) -> RowT:
    """Decode one result row; text in it that is not UTF-8, or half a surrogate pair, becomes a question mark.

    :raises MalformedResponseError: it is no JSON, or not of the row's shape.
    """
    try:
        return decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # The answer is paid for, so one broken character does not cost the row.
        try:
            whole = json.loads(raw.decode("utf-8", "replace"))
            return decode(json.dumps(whole, ensure_ascii=False).encode("utf-8", "replace"))
        except (ValueError, RecursionError):
            raise MalformedResponseError(f"a result row cannot be read: {error}") from error
