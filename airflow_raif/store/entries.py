"""Queries on raif_entry, which has a row per request: everything here goes in bulk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from airflow_raif.domain.batch import EntryOutcome
from airflow_raif.domain.errors import DuplicateCustomIdError, InputChangedError, InvalidBatchError
from airflow_raif.domain.status import EntryStatus
from airflow_raif.store.records import USAGE_COLUMNS, EntryCounts, EntryRow, Repeat, chunks, kept_text
from airflow_raif.store.tables import entry, part

#: An entry's (index, custom_id, part number, offset and length of its request in the part's file).
NewEntry = tuple[int, str, int, int, int]
#: An entry's index, and the part, offset and length of the request that repeats it.
Moved = tuple[int, int, int, int]
_NO_USAGE = (None,) * len(USAGE_COLUMNS)

_INSERT = (
    "INSERT INTO raif_entry (batch_key, idx, custom_id, part_number, request_offset, request_length, status)"
    " VALUES (?, ?, ?, ?, ?, ?, 'pending')"
)
_PAID_REASONS = ("invalid_output", "truncated", "refused")
_PAID = f"reason IN {_PAID_REASONS}"
_RESULT_COLUMNS = (
    "result_part", "result_offset", "result_length", *USAGE_COLUMNS, "batch_cost", "standard_cost", "cost_is_estimated"
)  # fmt: skip


def _set_outcome(value: str) -> str:
    columns = ", ".join(f"{name} = {value.format(name)}" for name in _RESULT_COLUMNS)
    return (
        f"UPDATE raif_entry SET status = ?, reason = ?, error = ?, {columns}, is_repeatable = ?"
        " WHERE batch_key = ? AND idx = ? AND part_number = ? AND "
    )


_SET_OUTCOME = _set_outcome("?")
_UPDATE = _SET_OUTCOME + "status = 'pending'"
#: A repetition that brings nothing leaves the answer that was paid for before.
_UPDATE_UNPAID = _set_outcome("CASE WHEN result_part IS NULL THEN ? ELSE {} END") + "status = 'pending'"
#: An answer takes the place of a failure of the same part, and one that was paid for of one that was not.
_UPDATE_WORSE = _SET_OUTCOME + f"status = 'failed' AND ? > CASE WHEN {_PAID} THEN 1 ELSE 0 END"
#: What was paid for stays known, also what came with an earlier part than the last.
_KEPT = f"CASE WHEN {_PAID} OR result_part <> part_number THEN {{}} END"
_MOVE = (
    "UPDATE raif_entry SET status = 'pending', reason = NULL, error = NULL, is_repeatable = '0',"
    " part_number = ?, request_offset = ?, request_length = ?, "
    + ", ".join(f"{name} = {_KEPT.format(name)}" for name in ("result_part", "result_offset", "result_length"))
    + " WHERE batch_key = ? AND idx = ? AND status = 'failed'"
)
_DIVIDE = (
    "UPDATE raif_entry SET part_number = ?, request_offset = ?, request_length = ?"
    " WHERE batch_key = ? AND idx = ? AND part_number = ?"
)


def _run_many(connection: Connection, statement: str, rows: list[tuple[Any, ...]]) -> int:
    # Past SQLAlchemy's compiler, which costs more per row than the database does.
    if connection.dialect.name == "postgresql":
        statement = statement.replace("?", "%s")
    return connection.exec_driver_sql(statement, rows).rowcount


def add(connection: Connection, batch_key: int, rows: Sequence[NewEntry]) -> None:
    """Insert entries; the custom_ids of a chunk differ among themselves already."""
    if rows:
        _run_many(connection, _INSERT, [(batch_key, *row) for row in rows])


def check_chunk(rows: Sequence[NewEntry]) -> None:
    """Raise if two rows of a chunk have the same custom_id."""
    if len({row[1] for row in rows}) == len(rows):
        return
    first: dict[str, int] = {}
    for index, custom_id, *_ in rows:
        if custom_id in first:
            raise duplicate(custom_id, first[custom_id], index)
        first[custom_id] = index


def find_duplicate(
    connection: Connection, batch_key: int, rows: Sequence[NewEntry], error: IntegrityError
) -> InvalidBatchError:
    """Tell which row, or its custom_id, is in the batch already, after an insert was refused."""
    for each in chunks(rows):
        chunk = {row[0]: row[1] for row in each}
        found = connection.execute(
            select(entry.c.custom_id, entry.c.idx)
            .where(
                entry.c.batch_key == batch_key,
                or_(entry.c.idx.in_(chunk), entry.c.custom_id.in_(list(chunk.values()))),
            )
            .limit(1)
        ).first()
        if found is not None and found.idx in chunk:
            return InputChangedError(f"the input changed: row {found.idx} was in a part of another model before")
        if found is not None:
            second = next(index for index, custom_id in chunk.items() if custom_id == found.custom_id)
            return duplicate(found.custom_id, found.idx, second)
    raise error


def duplicate(custom_id: str, first: int, second: int) -> DuplicateCustomIdError:
    """Return the error of two rows with one custom_id."""
    return DuplicateCustomIdError(
        f"rows {first} and {second} have the same custom_id {custom_id!r}; make it unique within the batch, or leave it"
        " out of every row to use their positions",
        row=second,
    )


def record(connection: Connection, batch_key: int, outcomes: Sequence[EntryOutcome]) -> int:
    """Write outcomes of entries that are pending in the part the outcome comes from; return how many were.

    Of several outcomes of one entry the best one stays, whichever comes first.
    """
    rows: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for each in outcomes:
        usage, cost = each.usage, each.cost
        tokens = _NO_USAGE if usage is None else (
            usage.input_tokens, usage.cached_tokens, usage.cache_write_tokens, usage.output_tokens,
            usage.reasoning_tokens, usage.cache_write_1h_tokens,
        )  # fmt: skip
        rows[_worth(each)].append((
            each.status, each.reason, kept_text(each.error), each.part_number, each.offset, each.length, *tokens,
            cost.batch, cost.standard, cost.is_estimated, each.is_repeatable, batch_key, each.index, each.part_number,
        ))  # fmt: skip
    statements = (_UPDATE_UNPAID, _UPDATE, _UPDATE)
    written = [0, 0, 0]
    for worth in (2, 1, 0):
        if rows[worth]:
            written[worth] = _run_many(connection, statements[worth], rows[worth])
            if worth and written[worth] < len(rows[worth]):
                _run_many(connection, _UPDATE_WORSE, [(*row, worth) for row in rows[worth]])
    return sum(written)


def _worth(outcome: EntryOutcome) -> int:
    if outcome.status == EntryStatus.COMPLETED:
        return 2
    return int(outcome.reason in _PAID_REASONS)


def fail_pending(
    connection: Connection, batch_key: int, part_number: int, reason: str, message: str, *, is_repeatable: bool
) -> int:
    """Fail every pending entry of a part; return how many there were."""
    statement = (
        update(entry)
        .where(
            entry.c.batch_key == batch_key,
            entry.c.part_number == part_number,
            entry.c.status == EntryStatus.PENDING.value,
        )
        .values(status=EntryStatus.FAILED.value, reason=reason, error=kept_text(message), is_repeatable=is_repeatable)
    )
    return connection.execute(statement).rowcount


def count(connection: Connection, batch_key: int) -> EntryCounts:
    """Count entries by status and reason."""
    rows = connection.execute(
        select(entry.c.status, entry.c.reason, func.count())
        .where(entry.c.batch_key == batch_key)
        .group_by(entry.c.status, entry.c.reason)
    ).all()
    totals = dict.fromkeys(("pending", "completed", "failed"), 0)
    reasons: dict[str, int] = {}
    for status, reason, number in rows:
        totals[status] += number
        if reason is not None:
            reasons[reason] = reasons.get(reason, 0) + number
    return EntryCounts(**totals, reasons=reasons)


def part_sums(connection: Connection, batch_key: int, part_number: int) -> dict[str, Any]:
    """Sum usage and cost of the results that came with a part, as values of its row."""
    return _sums(connection, entry, entry.c.batch_key == batch_key, entry.c.result_part == part_number)


def batch_sums(connection: Connection, batch_key: int) -> dict[str, Any]:
    """Sum usage and cost of a batch's parts, as values of its row; paid answers that a round replaced count, too."""
    return _sums(connection, part, part.c.batch_key == batch_key)


def _sums(connection: Connection, table: Table, *where: ColumnElement[bool]) -> dict[str, Any]:
    """Sum the money columns; a sum over nothing known is null."""
    columns = (*USAGE_COLUMNS, "batch_cost", "standard_cost")
    is_estimated = select(table.c.batch_key).where(*where, table.c.cost_is_estimated).exists()
    totals = [func.sum(table.c[name]).label(name) for name in columns]
    statement = select(*totals, select(is_estimated).scalar_subquery().label("est"))
    row = connection.execute(statement.where(*where)).mappings().one()
    # PostgreSQL sums BIGINT to a decimal.
    values: dict[str, Any] = {name: None if row[name] is None else int(row[name]) for name in columns}
    return {**values, "cost_is_estimated": bool(row["est"])}


def repeatable(connection: Connection, batch_key: int, reasons: Sequence[str], start: int, size: int) -> list[Repeat]:
    """Return the next entries worth repeating in input order, from an index on."""
    columns = (entry.c.idx, entry.c.part_number, entry.c.request_offset, entry.c.request_length, entry.c.reason)
    statement = (
        select(*columns)
        .where(
            entry.c.batch_key == batch_key,
            entry.c.status == EntryStatus.FAILED.value,
            or_(entry.c.is_repeatable, entry.c.reason.in_(reasons)),
            entry.c.idx >= start,
        )
        .order_by(entry.c.idx)
        .limit(size)
    )
    return [Repeat(*row) for row in connection.execute(statement).all()]


def move(connection: Connection, batch_key: int, moved: Sequence[Moved]) -> int:
    """Make failed entries pending in other parts; an answer that was paid for stays known until a better one comes."""
    return _run_many(connection, _MOVE, [(*each[1:], batch_key, each[0]) for each in moved])


def divide(connection: Connection, batch_key: int, part_number: int, moved: Sequence[Moved]) -> int:
    """Put entries of a part into others, as they are."""
    return _run_many(connection, _DIVIDE, [(*each[1:], batch_key, each[0], part_number) for each in moved])


def page(connection: Connection, batch_key: int, start: int, size: int) -> list[EntryRow]:
    """Return the next entries in input order, from an index on."""
    columns = (
        entry.c.idx, entry.c.custom_id, entry.c.status, entry.c.reason, entry.c.error, entry.c.result_part,
        entry.c.result_offset, entry.c.result_length, entry.c.batch_cost, entry.c.standard_cost,
    )  # fmt: skip
    statement = (
        select(*columns).where(entry.c.batch_key == batch_key, entry.c.idx >= start).order_by(entry.c.idx).limit(size)
    )
    rows: Sequence[Any] = connection.execute(statement).all()
    return [EntryRow(*row) for row in rows]
