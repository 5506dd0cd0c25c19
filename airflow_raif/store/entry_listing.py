"""A batch's entries as pages show them: filters and pages, and what failed, grouped."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, desc, func, literal_column, select

from airflow_raif.domain.status import EntryStatus, FailureReason
from airflow_raif.domain.usage import Cost, Usage
from airflow_raif.store.records import USAGE_COLUMNS, money_of
from airflow_raif.store.tables import entry as entry_table

_entry = entry_table.c
#: Failed entries of which the messages are counted; of more, those of the first ones stand for all.
COUNTED_MESSAGES = 50_000
#: Written into the statement: only so is the index of failed entries known to hold them all.
_IS_FAILED = _entry.status == literal_column("'failed'")
#: Groups of messages.
MOST_GROUPS = 50


class EntriesWanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries, and from which position on, or before which."""

    status: EntryStatus | None = None
    reason: FailureReason | None = None
    part_number: int | None = None
    custom_id: str | None = None
    start: int = 0
    before: int | None = None
    size: int = 50


class ListedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry: its outcome, its money, and where in the spool its request and its result lie."""

    index: int
    custom_id: str
    status: EntryStatus
    reason: FailureReason | None
    error: str | None
    part_number: int
    request_offset: int
    request_length: int
    result_part: int | None
    result_offset: int | None
    result_length: int | None
    usage: Usage | None
    cost: Cost


class FailureGroup(msgspec.Struct, frozen=True):
    """Failed entries with one reason and message."""

    reason: FailureReason
    message: str | None
    count: int


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """What failed of a batch: counts by reason, exact, and the most frequent messages."""

    reasons: dict[FailureReason, int]
    groups: list[FailureGroup]
    #: Whether messages were counted among the first :data:`COUNTED_MESSAGES` failures only.
    is_sample: bool


def _where(batch_key: int, wanted: EntriesWanted) -> list[ColumnElement[bool]]:
    where = [_entry.batch_key == batch_key]
    if wanted.status is EntryStatus.FAILED or wanted.reason is not None:
        where.append(_IS_FAILED)
    elif wanted.status is not None:
        where.append(_entry.status == wanted.status.value)
    values = {
        "reason": wanted.reason and wanted.reason.value,
        "part_number": wanted.part_number,
        "custom_id": wanted.custom_id,
    }
    return where + [_entry[name] == value for name, value in values.items() if value is not None]


def page(connection: Connection, batch_key: int, wanted: EntriesWanted) -> tuple[list[ListedEntry], bool, bool]:
    """Return entries in input order, and whether there are more before and after them."""
    statement = select(entry_table).where(*_where(batch_key, wanted))
    if wanted.before is not None:
        statement = statement.where(_entry.idx < wanted.before).order_by(_entry.idx.desc())
    else:
        statement = statement.where(_entry.idx >= wanted.start).order_by(_entry.idx)
    rows = connection.execute(statement.limit(wanted.size + 1)).mappings().all()
    is_more, rows = len(rows) > wanted.size, rows[: wanted.size]
    if wanted.before is not None:
        return [_listed(row) for row in rows[::-1]], is_more, True
    first = select(_entry.idx).where(*_where(batch_key, wanted), _entry.idx < wanted.start).limit(1)
    has_previous = wanted.start > 0 and connection.execute(first).first() is not None
    return [_listed(row) for row in rows], has_previous, is_more


def one(connection: Connection, batch_key: int, index: int) -> ListedEntry | None:
    """Return an entry; ``None``: the batch has none at this position."""
    statement = select(entry_table).where(_entry.batch_key == batch_key, _entry.idx == index)
    row = connection.execute(statement).mappings().first()
    return None if row is None else _listed(row)


def _listed(row: Any) -> ListedEntry:
    names = set(ListedEntry.__struct_fields__) & set(row) - {"status", "reason"}
    usage, cost = money_of(row)
    has_usage = any(row[name] is not None for name in USAGE_COLUMNS)
    return ListedEntry(
        **{name: row[name] for name in names},
        index=row["idx"],
        status=EntryStatus(row["status"]),
        reason=FailureReason(row["reason"]) if row["reason"] else None,
        usage=usage if has_usage else None,
        cost=cost,
    )


def failures(connection: Connection, batch_key: int) -> Failures:
    """Count the failed entries of a batch by reason, and by reason and message."""
    where = (_entry.batch_key == batch_key, _IS_FAILED)
    count = func.count().label("count")
    reasons = connection.execute(select(_entry.reason, count).where(*where).group_by(_entry.reason)).all()
    first = select(_entry.reason, _entry.error).where(*where).limit(COUNTED_MESSAGES).subquery()
    groups = select(first.c.reason, first.c.error, count).group_by(first.c.reason, first.c.error)
    rows = connection.execute(groups.order_by(desc("count")).limit(MOST_GROUPS)).all()
    return Failures(
        reasons={FailureReason(reason): number for reason, number in reasons if reason},
        groups=[FailureGroup(FailureReason(reason), message, number) for reason, message, number in rows if reason],
        is_sample=sum(number for _, number in reasons) > COUNTED_MESSAGES,
    )
