"""Answers that several rows take: of the same request in one batch, or in earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, LargeBinary, delete, func, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite

from airflow_raif.domain.batch import SHARED, Part
from airflow_raif.domain.status import EntryStatus, FailureReason
from airflow_raif.store.entries import among_rows_of
from airflow_raif.store.records import KnownAnswer, chunks
from airflow_raif.store.tables import UtcDateTime, answer, entry
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import part as part_table

_answer = answer.c
_first = entry.alias("first").c
_is_answer = (
    entry.c.content_hash.is_not(None),
    entry.c.same_as.is_(None),
    entry.c.status == EntryStatus.COMPLETED.value,
)


def hand_on(connection: Connection, batch_key: int, part: Part) -> int:
    """Give every row that is the same as one of a part what became of that one; it costs nothing again."""
    return _hand_on(connection, batch_key, *among_rows_of(part, entry.c.same_as), _first.part_number == part.number)


def hand_on_rest(connection: Connection, batch_key: int) -> None:
    """Leave no row of a batch waiting for another.

    It may have been read only after the part of that one was fetched; or that one is not in the batch, since it was
    canceled before the part was whole.
    """
    is_waiting = entry.c.status == EntryStatus.PENDING.value
    _hand_on(connection, batch_key, is_waiting)
    connection.execute(
        update(entry)
        .where(entry.c.batch_key == batch_key, entry.c.same_as.is_not(None), is_waiting)
        .values(
            status=EntryStatus.FAILED.value,
            reason=FailureReason.CANCELED.value,
            error="the row that it is the same as was canceled before it was sent",
        )
    )


def _hand_on(connection: Connection, batch_key: int, *where: ColumnElement[bool]) -> int:
    shared = ("status", "reason", "error", "result_part", "result_offset", "result_length")
    statement = (
        update(entry)
        .where(
            entry.c.batch_key == batch_key,
            entry.c.same_as.is_not(None),
            *where,
            _first.batch_key == batch_key,
            _first.idx == entry.c.same_as,
            _first.status != EntryStatus.PENDING.value,
        )
        .values({name: _first[name] for name in shared})
    )
    return connection.execute(statement).rowcount


def take_back(connection: Connection, batch_key: int) -> None:
    """Let every row wait again that is the same as one that goes out again."""
    statement = update(entry).where(
        entry.c.batch_key == batch_key,
        entry.c.same_as.is_not(None),
        entry.c.status != EntryStatus.PENDING.value,
        _first.batch_key == batch_key,
        _first.idx == entry.c.same_as,
        _first.status == EntryStatus.PENDING.value,
    )
    connection.execute(statement.values(status=EntryStatus.PENDING.value, reason=None, error=None))


def keep(connection: Connection, batch_key: int, scope: bytes, part: Part, at: datetime) -> None:
    """Note the answers that came with a part for later batches, in place of older ones."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    mine = (
        select(
            literal(scope, LargeBinary),
            entry.c.content_hash,
            entry.c.batch_key,
            # Of rows that were sent though they are the same, one.
            func.max(entry.c.idx),
            literal(at, UtcDateTime),
        )
        .where(
            entry.c.batch_key == batch_key,
            *among_rows_of(part),
            entry.c.result_part == part.number,
            *_is_answer,
        )
        .group_by(entry.c.content_hash, entry.c.batch_key)
        # In the order of the index, which many rows go into; and two batches do not wait for each other.
        .order_by(entry.c.content_hash)
    )
    statement = insert(answer).from_select([column.name for column in _answer], mine)
    new = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[_answer.scope, _answer.content_hash],
            set_={"batch_key": new.batch_key, "idx": new.idx, "answered_at": new.answered_at},
        )
    )


def renew(connection: Connection, batch_key: int, scope: bytes, part: Part) -> None:
    """Let the answers that a part's rows took be found in their own batch, which is kept longer; their age stays."""
    statement = update(answer).where(
        _answer.scope == scope,
        _answer.content_hash == entry.c.content_hash,
        entry.c.batch_key == batch_key,
        *among_rows_of(part),
        entry.c.part_number == part.number,
        *_is_answer,
    )
    connection.execute(statement.values(batch_key=entry.c.batch_key, idx=entry.c.idx))


def find(
    connection: Connection, scope: bytes, hashes: Sequence[bytes], answered_after: datetime
) -> dict[bytes, KnownAnswer]:
    """Return what is known of these requests, and where it lies."""
    columns = (_answer.content_hash, batch_table.c.batch_id, entry.c.result_part, entry.c.result_offset,
               entry.c.result_length)  # fmt: skip
    found: dict[bytes, KnownAnswer] = {}
    for chunk in chunks(hashes):
        statement = (
            select(*columns)
            .join(entry, (entry.c.batch_key == _answer.batch_key) & (entry.c.idx == _answer.idx))
            .join(batch_table, batch_table.c.id == _answer.batch_key)
            .where(
                _answer.scope == scope,
                _answer.content_hash.in_(chunk),
                _answer.answered_at > answered_after,
                entry.c.status == EntryStatus.COMPLETED.value,
                batch_table.c.spool_deleted_at.is_(None),
            )
        )
        for row in connection.execute(statement):
            known = KnownAnswer(bytes(row[0]), *row[1:])
            found[known.content_hash] = known
    return found


def count(connection: Connection, batch_key: int) -> tuple[int, int]:
    """Count the rows of a batch that took answers of earlier ones, and those that are the same as others."""
    columns = part_table.c
    numbers = select(columns.number).where(columns.batch_key == batch_key, columns.model == SHARED)
    statement = select(func.count(), func.count(entry.c.same_as)).where(
        entry.c.batch_key == batch_key, entry.c.part_number.in_(numbers)
    )
    rows, duplicates = connection.execute(statement).one()
    return rows - duplicates, duplicates


def forget(connection: Connection, batch_key: int) -> None:
    """Forget the answers that lie in a batch's spool."""
    connection.execute(delete(answer).where(_answer.batch_key == batch_key))
