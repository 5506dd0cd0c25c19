"""The lines before the providers' queues: who may send a part now, first come first served, and what refusals told.

Rows are locked in one order, parts, batches, queues, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from airflow_raif.domain.batch import says_canceling
from airflow_raif.domain.queue import (
    LEARNT_FOR,
    PLACE_KEPT_FOR,
    Quota,
    Refusal,
    Room,
    is_hopeless,
    is_too_large,
    pause_after,
    piece_bytes,
)
from airflow_raif.domain.status import TERMINAL, BatchStatus
from airflow_raif.store.records import chunks, kept_text
from airflow_raif.store.tables import among
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import part as part_table
from airflow_raif.store.tables import queue as queue_table

_batch, _part, _queue = batch_table.c, part_table.c, queue_table.c
#: Parts in a line that are looked at in one go.
_LINE = 200
#: A place is written down again no sooner than this.
_PLACE_NOTED_EVERY = PLACE_KEPT_FOR / 4
_is_open = and_(
    # Named one by one, so that the column's index serves: most parts ended long ago.
    _part.status.in_([status.value for status in BatchStatus if status not in TERMINAL]),
    _part.is_synchronous.is_(False),
)
_is_begun = or_(_part.intent_at.is_not(None), _part.provider_batch_id.is_not(None))
_is_running = and_(_is_open, _is_begun)
_is_unsent = and_(
    _part.status == BatchStatus.PENDING.value,
    _part.is_synchronous.is_(False),
    _part.intent_at.is_(None),
    _part.provider_batch_id.is_(None),
)


def may_send(connection: Connection, part_id: int, quota: Quota, at: datetime) -> bool:
    """Whether there is room for a pending part, and nobody is before it; otherwise its batch gets in line.

    :return: also True if it is not pending any more: then it needs no room.
    """
    part = _locked_part(connection, part_id, _is_unsent)
    if part is None:
        return True
    known = _locked_queue(connection, part.conn_id, quota.model, is_made=quota.is_limited)
    if known is None or _fits(connection, part, quota, known, at):
        return True
    _keep_places(connection, [part.batch_key], at)
    return False


def _fits(connection: Connection, part: Row[Any], quota: Quota, known: Row[Any], at: datetime) -> bool:
    """Whether a part may be sent now; what never fits is noted to be divided."""
    if part.piece_bytes is not None or _is_held(known, at):
        return False
    before = or_(
        and_(_batch.id < part.batch_key, _batch.queued_at > at - PLACE_KEPT_FOR),
        and_(_batch.id == part.batch_key, _part.number < part.number),
    )
    if connection.scalar(select(_of_queue(part, quota.model, _is_unsent, before).exists())):
        return False
    room = _room(connection, part, quota, known, at)
    if (piece := room.piece_bytes(part.request_count, part.request_bytes)) is not None:
        connection.execute(update(part_table).where(_part.id == part.id).values(piece_bytes=piece))
        return False
    return room.take(part.request_count, part.request_bytes)


def ready(
    connection: Connection, batch_ids: Sequence[str], quota_of: Callable[[str], Quota], at: datetime
) -> dict[str, bool]:
    """Return the batches among these that have parts to send, and whether one of them may be sent now.

    They keep their places in line: somebody waits for them.
    """
    waiting: list[Row[Any]] = []
    for chunk in chunks(batch_ids):
        statement = (
            select(_batch.id, _batch.batch_id, _batch.conn_id, _batch.provider, _part.model)
            .join(part_table, _part.batch_key == _batch.id)
            .where(among(_batch.batch_id, chunk), _batch.spooled_at.is_not(None), _is_unsent)
            .distinct()
        )
        waiting += connection.execute(statement)
    _keep_places(connection, sorted({each.id for each in waiting}), at)
    found = dict.fromkeys((each.batch_id for each in waiting), False)
    queues = {(each.conn_id, each.provider, quota_of(each.model)): each for each in waiting}
    for (*_, quota), some in queues.items():
        found |= {batch_id: True for batch_id in _first_in_line(connection, some, quota, at) if batch_id in found}
    return found


def _first_in_line(connection: Connection, some: Row[Any], quota: Quota, at: datetime) -> list[str]:
    """Return the batches whose parts come next and fit, or are to be divided, in their order."""
    known = connection.execute(
        select(queue_table).where(_queue.conn_id == some.conn_id, _queue.model == quota.model)
    ).first()
    room = _room(connection, some, quota, known, at)
    columns = (_batch.batch_id, _part.request_count, _part.request_bytes, _part.piece_bytes)
    line = _of_queue(some, quota.model, _is_unsent, _batch.queued_at > at - PLACE_KEPT_FOR, columns=columns)
    found: list[str] = []
    for each in connection.execute(line.order_by(_batch.id, _part.number).limit(_LINE)):
        if each.piece_bytes is not None:
            # Its pieces come next.
            return [*found, each.batch_id]
        if _is_held(known, at):
            return found
        if room.piece_bytes(each.request_count, each.request_bytes) is not None:
            return [*found, each.batch_id]
        if not room.take(each.request_count, each.request_bytes):
            return found
        found.append(each.batch_id)
    return found


def refuse_create(
    connection: Connection, part_id: int, intent_at: datetime, quota: Quota, refusal: Refusal, at: datetime
) -> set[int]:
    """Note that the create with this intent was refused; return the key of its batch, if so."""
    where = (_part.intent_at == intent_at, _part.provider_batch_id.is_(None), _is_open)
    if (part := _locked_part(connection, part_id, *where)) is None:
        return set()
    _refuse(connection, part, quota.model, refusal, at)
    return {part.batch_key}


def refuse(connection: Connection, part_id: int, refusal: Refusal, at: datetime) -> None:
    """Note that a provider which queues each model by itself will not queue a part that it has."""
    if (part := _locked_part(connection, part_id, _is_open)) is not None:
        _refuse(connection, part, part.model, refusal, at)


def _refuse(connection: Connection, part: Row[Any], model: str, refusal: Refusal, at: datetime) -> None:
    """Put a part back in line, and let nothing more be sent for a while.

    A part that will not fit as it is, is to be divided; one of a single request that never will, has failed. One that
    is to stop is canceled.
    """
    known = _locked_queue(connection, part.conn_id, model, is_made=True)
    assert known is not None  # noqa: S101 - it was made
    refusals = known.refusals + 1
    is_alone = not connection.scalar(select(_of_queue(part, model, _is_running, _part.id != part.id).exists()))
    is_divided = part.request_count > 1 and is_too_large(refusal, part.request_bytes, refusals, is_alone=is_alone)
    values: dict[str, Any] = {
        "status": BatchStatus.PENDING.value, "raw_status": "refused", "error": kept_text(refusal.message),
        "intent_at": None, "provider_batch_id": None, "submitted_at": None, "counts": None, "expires_at": None,
        "polled_at": at,
    }  # fmt: skip
    if says_canceling(part.raw_status):
        values |= {"status": BatchStatus.CANCELED.value, "ended_at": at}
    elif is_divided:
        values["piece_bytes"] = piece_bytes(part.request_bytes, refusal.max_tokens)
    elif part.request_count == 1 and is_hopeless(refusal, part.request_bytes, is_alone=is_alone):
        values |= {"status": BatchStatus.FAILED.value, "ended_at": at, "error_code": "too_large"}
    connection.execute(update(part_table).where(_part.id == part.id).values(**values))
    _keep_places(connection, [part.batch_key], at)
    told: dict[str, Any] = {"refusals": refusals, "held_until": at + pause_after(refusals, refusal)}
    if refusal.max_tokens is not None:
        told |= {"max_tokens": refusal.max_tokens, "learnt_at": at}
    if values["status"] != BatchStatus.PENDING.value or (is_divided and refusal.is_certain):
        # What comes next is another part, or a smaller one.
        told["held_until"] = None
    if is_divided:
        told["refusals"] = 0
    connection.execute(update(queue_table).where(_queue.conn_id == part.conn_id, _queue.model == model).values(**told))


def free(connection: Connection, part_ids: Collection[int]) -> None:
    """Let the queues of parts that ended be tried again at once."""
    for chunk in chunks(sorted(part_ids)):
        ended = (
            select(_part.id)
            .join(batch_table, _batch.id == _part.batch_key)
            .where(
                among(_part.id, chunk),
                _batch.conn_id == _queue.conn_id,
                or_(_queue.model == "", _queue.model == _part.model),
            )
        )
        connection.execute(
            update(queue_table)
            .where(or_(_queue.held_until.is_not(None), _queue.refusals > 0), ended.exists())
            .values(held_until=None, refusals=0)
        )


def _keep_places(connection: Connection, keys: Sequence[int], at: datetime) -> None:
    """Note that somebody asks for these batches, unless that was noted a moment ago."""
    if keys:
        is_old = or_(_batch.queued_at.is_(None), _batch.queued_at < at - _PLACE_NOTED_EVERY)
        statement = update(batch_table).where(_batch.id == bindparam("key"), is_old).values(queued_at=at)
        connection.execute(statement, [{"key": key} for key in keys])


def _locked_part(connection: Connection, part_id: int, *where: ColumnElement[bool]) -> Row[Any] | None:
    """Return a part of which this holds, with what its batch says of its queue; both are locked."""
    statement = (
        select(part_table, _batch.conn_id, _batch.provider)
        .join(batch_table, _batch.id == _part.batch_key)
        .where(_part.id == part_id, *where)
    )
    return connection.execute(statement.with_for_update()).first()


def _locked_queue(connection: Connection, conn_id: str, model: str, *, is_made: bool) -> Row[Any] | None:
    """Return what is known of a queue; nobody else claims room in it until the transaction ends.

    :param is_made: whether to begin to know it; otherwise ``None`` says that nothing is known.
    """
    if is_made:
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        connection.execute(insert(queue_table).values(conn_id=conn_id, model=model).on_conflict_do_nothing())
    where = (_queue.conn_id == conn_id, _queue.model == model)
    return connection.execute(select(queue_table).where(*where).with_for_update()).first()


def _is_held(known: Row[Any] | None, at: datetime) -> bool:
    return known is not None and known.held_until is not None and bool(known.held_until > at)


def _room(connection: Connection, some: Row[Any], quota: Quota, known: Row[Any] | None, at: datetime) -> Room:
    learnt = known.max_tokens if known is not None and known.learnt_at and known.learnt_at > at - LEARNT_FOR else None
    max_tokens = min((limit for limit in (quota.max_tokens, learnt) if limit is not None), default=None)
    if max_tokens is None and quota.max_requests is None:
        return Room()
    sums = (func.count(), func.sum(_part.request_count), func.sum(_part.request_bytes))
    parts, requests, size = connection.execute(_of_queue(some, quota.model, _is_running, columns=sums)).one()
    return Room(max_tokens, quota.max_requests, parts, int(requests or 0), int(size or 0))


def _of_queue(
    some: Row[Any], model: str, *where: ColumnElement[bool], columns: Sequence[Any] = (_part.id,)
) -> Select[Any]:
    """Select from the parts of one queue."""
    if model:
        where = (*where, _part.model == model)
    return (
        select(*columns)
        .select_from(part_table)
        .join(batch_table, _batch.id == _part.batch_key)
        .where(_batch.conn_id == some.conn_id, _batch.provider == some.provider, *where)
    )
