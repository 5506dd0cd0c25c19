"""The lines before the providers' queues: who may send a part now, first come first served, and what refusals told.

Rows are locked in one order, parts, batches, queues, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from airflow_raif.domain.queue import (
    LEARNT_FOR,
    PLACE_KEPT_FOR,
    Quota,
    Refusal,
    Room,
    is_hopeless,
    is_too_large,
    pause_after,
    pieces_of,
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
_is_running = and_(
    _part.status.not_in([status.value for status in TERMINAL]),
    _part.is_synchronous.is_(False),
    or_(_part.intent_at.is_not(None), _part.provider_batch_id.is_not(None)),
)
_is_pending = and_(
    _part.status == BatchStatus.PENDING.value,
    _part.is_synchronous.is_(False),
    _part.intent_at.is_(None),
    _part.provider_batch_id.is_(None),
)


def may_send(connection: Connection, part_id: int, quota: Quota, at: datetime) -> bool:
    """Whether there is room for a pending part, and nobody is before it; otherwise its batch gets in line.

    :return: also True if it is not pending any more: then it needs no room.
    """
    part = _locked_part(connection, part_id)
    if part is None or _fits(connection, part, quota, at):
        return True
    _keep_places(connection, [part.batch_key], at)
    return False


def _fits(connection: Connection, part: Row[Any], quota: Quota, at: datetime) -> bool:
    known = _locked_queue(connection, part.conn_id, quota.model)
    if part.piece_tokens is not None or (known.held_until is not None and known.held_until > at):
        return False
    before = or_(
        and_(_batch.id < part.batch_key, _batch.queued_at > at - PLACE_KEPT_FOR),
        and_(_batch.id == part.batch_key, _part.number < part.number),
    )
    if connection.scalar(select(_of_queue(part, quota.model, _is_pending, before).exists())):
        return False
    return _room(connection, part, quota, known, at).take(part.request_count, part.estimated_tokens)


def ready(
    connection: Connection, batch_ids: Sequence[str], quota_of: Callable[[str], Quota], at: datetime
) -> dict[str, bool]:
    """Return the batches among these that have parts to send, and whether one of them may be sent now.

    They keep their places in line: somebody waits for them.
    """
    # Few parts are pending, however many batches are waited for.
    statement = (
        select(_batch.id, _batch.batch_id, _batch.conn_id, _batch.provider, _part.model)
        .join(part_table, _part.batch_key == _batch.id)
        .where(_batch.spooled_at.is_not(None), _is_pending)
        .distinct()
    )
    asked = set(batch_ids)
    waiting: list[Any] = [each for each in connection.execute(statement) if each.batch_id in asked]
    _keep_places(connection, sorted({each.id for each in waiting}), at)
    found = dict.fromkeys((each.batch_id for each in waiting), False)
    queues = {(each.conn_id, each.provider, quota_of(each.model)): each for each in waiting}
    for (*_, quota), some in queues.items():
        found |= {batch_id: True for batch_id in _first_in_line(connection, some, quota, at) if batch_id in found}
    return found


def _first_in_line(connection: Connection, some: Row[Any], quota: Quota, at: datetime) -> list[str]:
    """Return the batches whose parts come next and fit, in their order."""
    known = connection.execute(
        select(queue_table).where(_queue.conn_id == some.conn_id, _queue.model == quota.model)
    ).first()
    is_held = known is not None and known.held_until is not None and known.held_until > at
    room = _room(connection, some, quota, known, at)
    columns = (_batch.batch_id, _part.request_count, _part.estimated_tokens, _part.piece_tokens)
    line = _of_queue(some, quota.model, _is_pending, _batch.queued_at > at - PLACE_KEPT_FOR, columns=columns)
    found: list[str] = []
    for each in connection.execute(line.order_by(_batch.id, _part.number).limit(_LINE)):
        is_to_be_divided = each.piece_tokens is not None
        if not is_to_be_divided and (is_held or not room.take(each.request_count, each.estimated_tokens)):
            break
        found.append(each.batch_id)
        if is_to_be_divided:
            # Its pieces come next.
            break
    return found


def refuse_create(
    connection: Connection, part_id: int, intent_at: datetime, quota: Quota, refusal: Refusal, at: datetime
) -> None:
    """Note that the create with this intent was refused; see :func:`refuse`."""
    intended = select(_part.id).where(
        _part.id == part_id, _part.intent_at == intent_at, _part.provider_batch_id.is_(None)
    )
    if connection.scalar(intended.with_for_update()) is not None:
        refuse(connection, part_id, quota.model, refusal, at)


def refuse(connection: Connection, part_id: int, queue_model: str | None, refusal: Refusal, at: datetime) -> None:
    """Note that a provider will not queue a part now: it goes back in line, and nothing more is sent for a while.

    A part that will not fit as it is, is to be divided; one of a single request that never will, has failed. A part of
    a batch that somebody canceled meanwhile is canceled.

    :param queue_model: the model by which the provider counts, ``""``: all of them; ``None``: the part's.
    """
    part = _locked_part(connection, part_id, is_pending=False)
    if part is None:
        return
    model = part.model if queue_model is None else queue_model
    known = _locked_queue(connection, part.conn_id, model)
    refusals = known.refusals + 1
    is_alone = not connection.scalar(select(_of_queue(part, model, _is_running, _part.id != part_id).exists()))
    too_large = part.request_count > 1 and is_too_large(refusal, part.estimated_tokens, refusals, is_alone=is_alone)
    values: dict[str, Any] = {"intent_at": None, "provider_batch_id": None, "submitted_at": None, "counts": None}
    values |= {"status": BatchStatus.PENDING.value, "expires_at": None, "polled_at": at}
    values |= {"raw_status": "refused", "error": kept_text(refusal.message)}
    if part.cancel_asked_at is not None:
        values |= {"status": BatchStatus.CANCELED.value, "ended_at": at}
    elif too_large:
        values["piece_tokens"] = pieces_of(part.estimated_tokens, refusal)
    elif part.request_count == 1 and is_hopeless(refusal, part.estimated_tokens, is_alone=is_alone):
        values |= {"status": BatchStatus.FAILED.value, "ended_at": at, "error_code": "too_large"}
    connection.execute(update(part_table).where(_part.id == part_id).values(**values))
    _keep_places(connection, [part.batch_key], at)
    # A part that is divided need not wait: its halves are tried in its place.
    is_over = too_large or values["status"] != BatchStatus.PENDING.value
    held_until = None if is_over else at + pause_after(refusals, refusal)
    told: dict[str, Any] = {"refusals": refusals, "held_until": held_until}
    if refusal.max_tokens is not None:
        told |= {"max_tokens": refusal.max_tokens, "learnt_at": at}
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
    if keys:
        statement = update(batch_table).where(_batch.id == bindparam("key")).values(queued_at=at)
        connection.execute(statement, [{"key": key} for key in keys])


def _locked_part(connection: Connection, part_id: int, *, is_pending: bool = True) -> Row[Any] | None:
    columns = (_batch.conn_id, _batch.provider, _batch.cancel_asked_at)
    statement = (
        select(part_table, *columns)
        .join(batch_table, _batch.id == _part.batch_key)
        .where(_part.id == part_id, _is_pending if is_pending else _part.status.not_in([s.value for s in TERMINAL]))
    )
    return connection.execute(statement.with_for_update()).first()


def _locked_queue(connection: Connection, conn_id: str, model: str) -> Row[Any]:
    """Return what is known of a queue; nobody else claims room in it until the transaction ends."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(insert(queue_table).values(conn_id=conn_id, model=model).on_conflict_do_nothing())
    where = (_queue.conn_id == conn_id, _queue.model == model)
    return connection.execute(select(queue_table).where(*where).with_for_update()).one()


def _room(connection: Connection, some: Row[Any], quota: Quota, known: Row[Any] | None, at: datetime) -> Room:
    learnt = known.max_tokens if known is not None and known.learnt_at and known.learnt_at > at - LEARNT_FOR else None
    limits = [limit for limit in (quota.max_tokens, learnt) if limit is not None]
    sums = (func.count(), func.sum(_part.request_count), func.sum(_part.estimated_tokens))
    parts, requests, tokens = connection.execute(_of_queue(some, quota.model, _is_running, columns=sums)).one()
    return Room(min(limits, default=None), quota.max_requests, parts, int(requests or 0), int(tokens or 0))


def _of_queue(some: Row[Any], model: str, *where: ColumnElement[bool], columns: Sequence[Any] = (_part.id,)) -> Any:
    """Select from the parts of one queue."""
    if model:
        where = (*where, _part.model == model)
    return (
        select(*columns)
        .select_from(part_table)
        .join(batch_table, _batch.id == _part.batch_key)
        .where(_batch.conn_id == some.conn_id, _batch.provider == some.provider, *where)
    )
