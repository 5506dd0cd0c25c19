"""Queries on raif_entry, which has a row per request: everything here goes in bulk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Label, Table, case, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from airflow_raif.domain.batch import SHARED, EntryOutcome, Part
from airflow_raif.domain.errors import DuplicateCustomIdError, InputChangedError, InvalidBatchError
from airflow_raif.domain.rounds import Selection
from airflow_raif.domain.status import EntryStatus
from airflow_raif.store import bulk
from airflow_raif.store.records import (
    USAGE_COLUMNS,
    EntryCounts,
    EntryRow,
    EntryTally,
    PartRows,
    Repeat,
    chunks,
    kept_text,
)
from airflow_raif.store.tables import among, entry
from airflow_raif.store.tables import part as part_table

#: An entry's (index, custom_id, part number, offset and length of its request in the part's file, content hash where
#: its answer is kept for later batches).
NewEntry = tuple[int, str, int, int, int, bytes | None]
#: The same of one that takes the answer of another, and: that one's index, or part, offset and length of an answer.
SharedEntry = tuple[int, str, int, int, int, bytes | None, int | None, int | None, int | None, int | None]
#: An entry's index, and the part, offset and length of the request that repeats it.
Moved = tuple[int, int, int, int]
_NO_USAGE = (None,) * len(USAGE_COLUMNS)
_COMPLETED = EntryStatus.COMPLETED.value

_PAID_REASONS = ("invalid_output", "truncated", "refused")
_NEW_COLUMNS = (
    "batch_key", "status", "idx", "custom_id", "part_number", "request_offset", "request_length", "content_hash"
)  # fmt: skip
_SHARED_COLUMNS = (
    *_NEW_COLUMNS, "same_as", "result_part", "result_offset", "result_length", "batch_cost", "standard_cost"
)  # fmt: skip
_RESULT_COLUMNS = (
    "result_part", "result_offset", "result_length", *USAGE_COLUMNS, "batch_cost", "standard_cost", "cost_is_estimated"
)  # fmt: skip
_OUTCOME_COLUMNS = ("status", "reason", "error", "is_repeatable")
_MOVED_COLUMNS = ("batch_key", "idx", "part_number", "request_offset", "request_length")

# In these, {name} stands for a row's own value of a column.
_IS_ENTRY = "raif_entry.batch_key = {batch_key} AND raif_entry.idx = {idx} AND raif_entry.status = "
_IS_PENDING = _IS_ENTRY + "'pending' AND raif_entry.part_number = {part_number}"
_IS_FAILED = _IS_ENTRY + "'failed' AND raif_entry.part_number = {part_number}"
_WAS_UNPAID = f"COALESCE(raif_entry.reason, '') NOT IN {_PAID_REASONS}"
_SET = ", ".join(f"{name} = {{{name}}}" for name in (*_OUTCOME_COLUMNS, *_RESULT_COLUMNS))
#: A repetition that brings nothing leaves the answer that was paid for before.
_SET_UNPAID = ", ".join(
    [f"{name} = {{{name}}}" for name in _OUTCOME_COLUMNS]
    + [
        f"{name} = CASE WHEN raif_entry.result_part IS NULL THEN {{{name}}} ELSE raif_entry.{name} END"
        for name in _RESULT_COLUMNS
    ]
)
_SET_PLACE = ", ".join(f"{name} = {{{name}}}" for name in ("part_number", "request_offset", "request_length"))
#: What was paid for stays known, also what came with an earlier part than the last.
_SET_MOVED = f"status = 'pending', reason = NULL, error = NULL, is_repeatable = '0', {_SET_PLACE}, " + ", ".join(
    f"{name} = CASE WHEN NOT {_WAS_UNPAID} OR raif_entry.result_part <> raif_entry.part_number"
    f" THEN raif_entry.{name} END"
    for name in ("result_part", "result_offset", "result_length")
)


def add(connection: Connection, batch_key: int, rows: Sequence[NewEntry]) -> None:
    """Insert entries; the custom_ids of a chunk differ among themselves already."""
    if rows:
        pending = EntryStatus.PENDING.value
        bulk.insert(connection, _NEW_COLUMNS, [(batch_key, pending, *row) for row in rows])


def add_shared(connection: Connection, batch_key: int, rows: Sequence[SharedEntry]) -> None:
    """Insert entries that take answers of others, which cost nothing; those whose answer is there are completed."""
    if rows:
        pending = EntryStatus.PENDING.value
        new = [(batch_key, pending if row[-1] is None else _COMPLETED, *row, 0, 0) for row in rows]
        bulk.insert(connection, _SHARED_COLUMNS, new)


def check_chunk(rows: Sequence[NewEntry | SharedEntry]) -> None:
    """Raise if two rows of a chunk have the same custom_id."""
    if len({row[1] for row in rows}) == len(rows):
        return
    first: dict[str, int] = {}
    for index, custom_id, *_ in rows:
        if custom_id in first:
            raise duplicate(custom_id, first[custom_id], index)
        first[custom_id] = index


def find_duplicate(
    connection: Connection, batch_key: int, rows: Sequence[NewEntry | SharedEntry], error: IntegrityError
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
    # SQLite's driver looks for adapters of every value that is neither a text nor a plain number.
    flag = bool if connection.dialect.name == "postgresql" else int
    rows: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for each in outcomes:
        usage, cost = each.usage, each.cost
        tokens = _NO_USAGE if usage is None else (
            usage.input_tokens, usage.cached_tokens, usage.cache_write_tokens, usage.output_tokens,
            usage.reasoning_tokens, usage.cache_write_1h_tokens,
        )  # fmt: skip
        rows[_worth(each)].append((
            batch_key, each.index, each.part_number, each.status, each.reason, kept_text(each.error),
            flag(each.is_repeatable), each.part_number, each.offset, each.length, *tokens, cost.batch, cost.standard,
            flag(cost.is_estimated),
        ))  # fmt: skip
    names = ("batch_key", "idx", "part_number", *_OUTCOME_COLUMNS, *_RESULT_COLUMNS)
    written = 0
    for worth, values in ((2, _SET), (1, _SET), (0, _SET_UNPAID)):
        if rows[worth]:
            new = bulk.Values(connection, names, rows[worth])
            count = new.update(values, _IS_PENDING)
            if worth and count < len(rows[worth]):
                # An answer takes the place of a failure of the same part, one that was paid for of one that was not.
                new.update(values, _IS_FAILED if worth == 2 else f"{_IS_FAILED} AND {_WAS_UNPAID}")
            written += count
    return written


def _worth(outcome: EntryOutcome) -> int:
    if outcome.status == _COMPLETED:
        return 2
    return int(outcome.reason in _PAID_REASONS)


def fail_pending(
    connection: Connection, batch_key: int, part: Part, reason: str, message: str, *, is_repeatable: bool
) -> int:
    """Fail every pending entry of a part; return how many there were."""
    statement = (
        update(entry)
        .where(
            entry.c.batch_key == batch_key,
            *among_rows_of(part),
            entry.c.part_number == part.number,
            entry.c.status == EntryStatus.PENDING.value,
        )
        .values(status=EntryStatus.FAILED.value, reason=reason, error=kept_text(message), is_repeatable=is_repeatable)
    )
    return connection.execute(statement).rowcount


def among_rows_of(part: Part, column: ColumnElement[int] = entry.c.idx) -> list[ColumnElement[bool]]:
    """Return what holds for every row that is or was in a part, so that a database need not look at all of a batch.

    :param column: where the row's index is.
    """
    first = [column >= part.first_row] if part.first_row is not None else []
    return [*first, column <= part.last_row] if part.last_row is not None else first


def _of(batch_key: int, rows: PartRows | None) -> list[ColumnElement[bool]]:
    """Return what holds for the entries of a batch, or for some rows of it."""
    where = [entry.c.batch_key == batch_key]
    if rows is not None:
        where += [entry.c.idx >= rows.start, entry.c.idx < rows.stop]
        if rows.model is not None:
            where.append(_is_of_model(batch_key, rows.model))
        if rows.part_numbers is not None:
            where.append(among(entry.c.part_number, rows.part_numbers))
    return where


def _is_of_model(batch_key: int, model: str) -> ColumnElement[bool]:
    """Return whether an entry is in a part of a model, also one that a round adds later."""
    columns = part_table.c
    numbers = select(columns.number).where(columns.batch_key == batch_key, columns.model == model)
    return entry.c.part_number.in_(numbers)


def end_of_rows(connection: Connection, batch_key: int, start: int, model: str, number: int) -> int:
    """Return the index after so many rows of a model, from an index on."""
    where = (entry.c.batch_key == batch_key, entry.c.idx >= start, _is_of_model(batch_key, model))
    statement = select(entry.c.idx).where(*where).order_by(entry.c.idx).offset(number - 1).limit(1)
    return int(connection.execute(statement).scalar_one()) + 1


def part_numbers(connection: Connection, batch_key: int, start: int, size: int) -> dict[int, int]:
    """Return the numbers of the parts of the rows from an index on, so many at the most, as far as they are known."""
    where = (entry.c.batch_key == batch_key, entry.c.idx >= start, entry.c.idx < start + size)
    rows = connection.execute(select(entry.c.idx, entry.c.part_number).where(*where))
    return {row.idx: row.part_number for row in rows}


def parts_of(connection: Connection, batch_key: int, rows: PartRows) -> set[int]:
    """Return the numbers of the parts that hold these rows now."""
    return set(connection.scalars(select(entry.c.part_number).where(*_of(batch_key, rows)).distinct()))


def count(connection: Connection, batch_key: int, rows: PartRows | None = None) -> EntryCounts:
    """Count entries by status and reason."""
    found = connection.execute(
        select(entry.c.status, entry.c.reason, func.count())
        .where(*_of(batch_key, rows))
        .group_by(entry.c.status, entry.c.reason)
    ).all()
    totals = dict.fromkeys(("pending", "completed", "failed"), 0)
    reasons: dict[str, int] = {}
    for status, reason, number in found:
        totals[status] += number
        if reason is not None:
            reasons[reason] = reasons.get(reason, 0) + number
    return EntryCounts(**totals, reasons=reasons)


def count_same(connection: Connection, batch_key: int) -> dict[str, int]:
    """Count the entries that are the same as others of their batch, by status."""
    statement = select(entry.c.status, func.count()).where(entry.c.batch_key == batch_key, entry.c.same_as.is_not(None))
    rows = connection.execute(statement.group_by(entry.c.status)).all()
    return {status: int(number) for status, number in rows}


def tally(connection: Connection, batch_key: int) -> list[EntryTally]:
    """Add entries up by part, status and reason; those that take the answer of another are not sent, and not in it."""
    keys = (entry.c.part_number, entry.c.status, entry.c.reason)
    costs = (func.count(entry.c.batch_cost), func.sum(entry.c.batch_cost), func.sum(entry.c.standard_cost))
    statement = select(*keys, func.count(), func.sum(entry.c.request_length), *costs).group_by(*keys)
    where = (entry.c.batch_key == batch_key, entry.c.same_as.is_(None))
    found = connection.execute(statement.where(*where).order_by(*keys)).all()
    # PostgreSQL sums BIGINT to a decimal.
    return [EntryTally(*row[:3], *(int(value or 0) for value in row[3:])) for row in found]


def part_sums(connection: Connection, batch_key: int, part: Part) -> dict[str, Any]:
    """Sum usage, cost and answers of the results that came with a part, as values of its row."""
    where = (entry.c.batch_key == batch_key, *among_rows_of(part), entry.c.result_part == part.number)
    # Not those of other parts that took an answer of it.
    is_own = (entry.c.status == _COMPLETED) & (entry.c.part_number == part.number)
    completed = func.sum(case((is_own, 1), else_=0)).label("completed_count")
    return _sums(connection, entry, *where, counts=(completed,))


def row_sums(connection: Connection, batch_key: int, rows: PartRows) -> dict[str, Any]:
    """Sum usage and cost of the results that rows have."""
    return _sums(connection, entry, *_of(batch_key, rows))


def batch_sums(connection: Connection, batch_key: int) -> dict[str, Any]:
    """Sum usage and cost of a batch's parts, as values of its row; paid answers that a round replaced count, too."""
    found = _sums(connection, part_table, part_table.c.batch_key == batch_key)
    sent = select(part_table.c.id).where(part_table.c.batch_key == batch_key, part_table.c.model != SHARED).limit(1)
    # What took all of its answers from others cost nothing, which is no unknown price.
    return found if connection.scalar(sent) is not None else found | {"batch_cost": 0, "standard_cost": 0}


def _sums(
    connection: Connection, table: Table, *where: ColumnElement[bool], counts: Sequence[Label[int]] = ()
) -> dict[str, Any]:
    """Sum the money columns, where a sum over nothing known is null, and count."""
    columns = (*USAGE_COLUMNS, "batch_cost", "standard_cost")
    totals = [func.sum(table.c[name]).label(name) for name in columns]
    estimated = func.max(case((table.c.cost_is_estimated, 1), else_=0)).label("estimated")
    row = connection.execute(select(*totals, estimated, *counts).where(*where)).mappings().one()
    # PostgreSQL sums BIGINT to a decimal.
    values: dict[str, Any] = {name: None if row[name] is None else int(row[name]) for name in columns}
    values |= {count.name: row[count.name] or 0 for count in counts}
    return {**values, "cost_is_estimated": bool(row["estimated"])}


def repeatable(
    connection: Connection, batch_key: int, wanted: Selection, start: int, size: int, rows: PartRows | None = None
) -> list[Repeat]:
    """Return the next entries that are to go out again in input order, from an index on."""
    columns = (entry.c.idx, entry.c.part_number, entry.c.request_offset, entry.c.request_length, entry.c.reason)
    has_reason = entry.c.reason.in_(wanted.reasons)
    statement = (
        select(*columns)
        .where(
            *_of(batch_key, rows),
            entry.c.status == EntryStatus.FAILED.value,
            or_(entry.c.is_repeatable, has_reason) if wanted.passing else has_reason,
            # Which is repeated, if at all, with the one it is the same as.
            entry.c.same_as.is_(None),
            entry.c.idx >= start,
        )
        .order_by(entry.c.idx)
        .limit(size)
    )
    return [Repeat(*row) for row in connection.execute(statement).all()]


def move(connection: Connection, batch_key: int, moved: Sequence[Moved]) -> int:
    """Make failed entries pending in other parts; an answer that was paid for stays known until a better one comes."""
    new = bulk.Values(connection, _MOVED_COLUMNS, [(batch_key, *each) for each in moved])
    return new.update(_SET_MOVED, _IS_ENTRY + "'failed'")


def divide(connection: Connection, batch_key: int, part_number: int, moved: Sequence[Moved]) -> None:
    """Put pending entries of a part into others."""
    new = bulk.Values(connection, _MOVED_COLUMNS, [(batch_key, *each) for each in moved])
    new.update(_SET_PLACE, f"{_IS_ENTRY}'pending' AND raif_entry.part_number = {part_number:d}")


def page(connection: Connection, batch_key: int, start: int, size: int, rows: PartRows | None = None) -> list[EntryRow]:
    """Return the next entries in input order, from an index on."""
    columns = (
        entry.c.idx, entry.c.custom_id, entry.c.status, entry.c.reason, entry.c.error, entry.c.result_part,
        entry.c.result_offset, entry.c.result_length, entry.c.batch_cost, entry.c.standard_cost, entry.c.input_tokens,
        entry.c.same_as,
    )  # fmt: skip
    statement = select(*columns).where(*_of(batch_key, rows), entry.c.idx >= start).order_by(entry.c.idx).limit(size)
    found: Sequence[Any] = connection.execute(statement).all()
    return [EntryRow(*row) for row in found]


def since(
    connection: Connection, batch_key: int, first_part: int, start: int, size: int, rows: PartRows | None = None
) -> list[tuple[int, str]]:
    """Return the next rows, from an index on, that are in a part from a number on, or the same as one that is."""
    first = entry.alias("first")
    statement = (
        select(entry.c.idx, entry.c.custom_id)
        .outerjoin(first, (first.c.batch_key == entry.c.batch_key) & (first.c.idx == entry.c.same_as))
        .where(
            *_of(batch_key, rows),
            entry.c.idx >= start,
            or_(entry.c.part_number >= first_part, first.c.part_number >= first_part),
        )
        .order_by(entry.c.idx)
        .limit(size)
    )
    return [(row.idx, row.custom_id) for row in connection.execute(statement)]
