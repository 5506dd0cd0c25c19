"""What a provider says of parts, written down: never backwards, and with what follows for their batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, func, insert, or_, select, true, update

from airflow_raif.domain.batch import CANCEL_REQUESTED, SHARED, Batch, Part, PartState, says_canceling
from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.domain.queue import Refusal
from airflow_raif.domain.status import TERMINAL, BatchStatus, EntryStatus, can_move, combine
from airflow_raif.store import entries, queue
from airflow_raif.store.records import NewPart, WaitingPart, chunks, kept_text, part_of
from airflow_raif.store.tables import among
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import part as part_table

#: What a provider tells of a part again and again.
_TOLD_NAMES = ("status", "raw_status", "counts", "refs", "error", "error_code", "expires_at", "progressed_at")
_TOLD = [part_table.c[name] for name in ("id", "batch_key", "provider_batch_id", *_TOLD_NAMES)]


def add(connection: Connection, batch_key: int, new: NewPart) -> Part:
    """Write a new part; one whose rows take answers of others has nothing left to do."""
    values = msgspec.structs.asdict(new) | {"batch_key": batch_key, "refs": {}, "status": BatchStatus.PENDING.value}
    if (at := values.pop("shared_at")) is not None:
        values |= {"status": BatchStatus.ENDED.value, "raw_status": "shared", "ended_at": at, "results_fetched_at": at}
    return part_of(connection.execute(insert(part_table).values(values).returning(part_table)).mappings().one())


def reopen(connection: Connection, batch: Batch, part: Part | None = None) -> bool:
    """Let a batch whose results were all fetched run again; only a round moves a status backwards.

    Where its results went before stays known: to deliver them may have changed what the batch was made of.

    :param part: only its rows are repeated, with those that are the same, and only its results need be there.
    :return: False: it was reopened, got a part or lost its spool since ``batch`` was read.
    """
    parts = select(func.count()).where(part_table.c.batch_key == batch.id).scalar_subquery()
    statement = (
        update(batch_table)
        .where(
            batch_table.c.id == batch.id,
            true() if part else batch_table.c.results_fetched_at.is_not(None),
            batch_table.c.spool_deleted_at.is_(None),
            parts == len(batch.parts),
        )
        .values(
            status=BatchStatus.IN_PROGRESS.value,
            results_fetched_at=None,
            applied_at=None,
            ended_at=None,
            files_deleted_at=None,
        )
    )
    if not connection.execute(statement).rowcount:
        return False
    repeated = or_(part_table.c.id == part.id, part_table.c.model == SHARED) if part else true()
    of_batch = part_table.c.batch_key == batch.id
    connection.execute(update(part_table).where(of_batch, repeated).values(applied_at=None))
    return True


def mark_applied(
    connection: Connection,
    batch: Batch,
    part: Part,
    result_uri: str,
    folder_uri: str,
    at: datetime,
    ends_batch: bool,
) -> None:
    """Note where the results of a part's rows are; the batch is applied with the last of its parts, once.

    Who comes later here is later by its stamp, too, whatever its clock says.
    """
    columns = part_table.c
    mine = (columns.batch_key == batch.id, columns.round == 0, columns.request_count > 0)
    last = connection.scalar(select(func.max(columns.applied_at)).where(*mine))
    stamp = at if last is None else max(at, last + timedelta(microseconds=1))
    values = {"result_uri": result_uri, "applied_at": func.coalesce(columns.applied_at, stamp)}
    connection.execute(update(part_table).where(columns.id == part.id).values(values))
    left = select(columns.id).where(*mine, columns.applied_at.is_(None))
    over: dict[str, Any] = {"result_uri": folder_uri}
    if ends_batch:
        over["applied_at"] = func.coalesce(batch_table.c.applied_at, at)
    connection.execute(
        update(batch_table)
        .where(batch_table.c.id == batch.id, batch_table.c.results_fetched_at.is_not(None), ~left.exists())
        .values(over)
    )


def retire(connection: Connection, batch: Batch, part: Part, at: datetime) -> bool:
    """End a part that is too large, so that others take its place.

    :return: False: it was sent, canceled or divided since ``batch`` was read.
    """
    columns = part_table.c
    count = select(func.count()).where(columns.batch_key == batch.id).scalar_subquery()
    statement = update(part_table).where(
        columns.id == part.id,
        columns.status == BatchStatus.PENDING.value,
        columns.piece_bytes.is_not(None),
        columns.intent_at.is_(None),
        count == len(batch.parts),
    )
    values = {"status": BatchStatus.FAILED.value, "raw_status": "divided", "error": None, "ended_at": at}
    return bool(connection.execute(statement.values(**values, request_count=0, results_fetched_at=at)).rowcount)


def submitted(connection: Connection, part_id: int, state: PartState, at: datetime) -> bool:
    """Write a part's id at the provider, once, and what it said along with it; return whether the part is to stop."""
    where = part_table.c.id == part_id
    columns = (part_table.c.batch_key, part_table.c.status, part_table.c.raw_status, part_table.c.provider_batch_id)
    row = connection.execute(select(*columns).where(where).with_for_update()).one()
    is_to_stop = bool(row.raw_status == CANCEL_REQUESTED)
    if row.provider_batch_id == state.provider_batch_id:
        # A task and a sweep that looked up the same lost create found the same.
        return is_to_stop
    if row.provider_batch_id is not None or row.status != BatchStatus.PENDING:
        how = f"is {row.status}" if row.provider_batch_id is None else "was submitted by another process"
        raise InvalidBatchError(
            f"part {part_id} {how}; {state.provider_batch_id} was created as well and is not used: cancel it at the"
            " provider"
        )
    status = state.status if state.status is not BatchStatus.PENDING else BatchStatus.SUBMITTED
    # Whatever it was refused for before is over.
    values = {"error": None, "error_code": None} | _said(state)
    values |= {
        "polled_at": at,
        "provider_batch_id": state.provider_batch_id,
        "status": status.value,
        "submitted_at": at,
        "ended_at": at if status.is_terminal else None,
    }
    if is_to_stop and not status.is_terminal:
        values["raw_status"] = CANCEL_REQUESTED
    connection.execute(update(part_table).where(where).values(**values))
    key = row.batch_key
    connection.execute(
        update(batch_table).where(batch_table.c.id == key, batch_table.c.submitted_at.is_(None)).values(submitted_at=at)
    )
    update_batches(connection, {key}, at)
    return is_to_stop


def clear_intent(connection: Connection, part_id: int, at: datetime) -> None:
    """Note that the create whose intent was recorded at this time made nothing; a part that is to stop is canceled."""
    where = (part_table.c.id == part_id, part_table.c.provider_batch_id.is_(None))
    connection.execute(update(part_table).where(*where, part_table.c.intent_at == at).values(intent_at=None))
    _end_unsent(connection, *where, part_table.c.raw_status == CANCEL_REQUESTED, status=BatchStatus.CANCELED, at=at)


def lock(connection: Connection, batch_key: int) -> None:
    """Keep the parts of a batch from everybody else until the transaction ends.

    Who writes parts locks them in this order, and their batch after them, so that no two wait for each other.
    """
    columns = part_table.c
    connection.execute(select(columns.id).where(columns.batch_key == batch_key).order_by(columns.id).with_for_update())


def request_cancel(connection: Connection, batch: Batch, at: datetime) -> None:
    """Cancel the parts of which nothing was sent, and note on those that run, unless they stop, that they are to."""
    columns = part_table.c
    mine = columns.batch_key == batch.id
    _end_unsent(connection, mine, status=BatchStatus.CANCELED, at=at)
    is_told = func.lower(func.coalesce(columns.raw_status, "")).contains("cancel")
    statement = update(part_table).where(mine, columns.status.not_in(TERMINAL), ~is_told)
    connection.execute(statement.values(raw_status=CANCEL_REQUESTED))


def fail_unsent_round(
    connection: Connection, batch: Batch, error: str, at: datetime, numbers: Collection[int] | None = None
) -> None:
    """Give up the parts of a round of which nothing was sent; what may be at the provider is not among them."""
    mine = [part_table.c.batch_key == batch.id, part_table.c.round > 0]
    if numbers is not None:
        mine.append(part_table.c.number.in_(numbers))
    _end_unsent(connection, *mine, status=BatchStatus.FAILED, error=kept_text(error), at=at)


def _end_unsent(
    connection: Connection, *where: ColumnElement[bool], status: BatchStatus, at: datetime, error: str | None = None
) -> None:
    statement = (
        update(part_table)
        .where(
            *where,
            part_table.c.status == BatchStatus.PENDING.value,
            part_table.c.provider_batch_id.is_(None),
            part_table.c.intent_at.is_(None),
            part_table.c.synchronous_calls == 0,
        )
        .values(status=status.value, raw_status="never submitted", error=error, ended_at=at)
        .returning(part_table.c.batch_key)
    )
    update_batches(connection, set(connection.scalars(statement)), at)


def count_calls(connection: Connection, part: Part, before: int, after: int, at: datetime | None) -> bool:
    """Count a synchronous part's calls, one up or down; False: it was done before, or the part is to stop."""
    columns = part_table.c
    where = [columns.id == part.id, columns.synchronous_calls == before]
    if after > before:
        where += [
            columns.status == BatchStatus.PENDING.value,
            or_(columns.raw_status.is_(None), columns.raw_status != CANCEL_REQUESTED),
        ]
    statement = update(part_table).where(*where).values(synchronous_calls=after, intent_at=at)
    return bool(connection.execute(statement).rowcount)


def waiting(connection: Connection, batch_ids: Sequence[str]) -> list[WaitingPart]:
    """Return the parts that run at the provider."""
    columns = part_table.c
    found: list[WaitingPart] = []
    for chunk in chunks(batch_ids):
        statement = (
            select(
                batch_table.c.batch_id,
                columns.id,
                columns.number,
                columns.provider_batch_id,
                columns.intent_at,
                columns.submitted_at,
            )
            .join(part_table, columns.batch_key == batch_table.c.id)
            .where(
                among(batch_table.c.batch_id, chunk),
                columns.provider_batch_id.is_not(None),
                columns.status.not_in([status.value for status in TERMINAL]),
            )
            .order_by(columns.id)
        )
        found += (WaitingPart(*row) for row in connection.execute(statement))
    return found


def record_states(connection: Connection, states: Mapping[int, PartState], at: datetime) -> list[str]:
    """Write the states of parts that are not terminal; return the batches that are terminal now.

    Only what changed is written. Rows are locked in one order everywhere, so that two writers do not block each other.
    """
    moved: set[int] = set()
    over: set[int] = set()
    ended: list[int] = []
    refused: list[tuple[int, Refusal]] = []
    for ids in chunks(sorted(states)):
        #: By the names of what changed, so that each group is one prepared statement.
        changed: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        statement = select(*_TOLD).where(among(part_table.c.id, ids)).order_by(part_table.c.id).with_for_update()
        for part_id, batch_key, provider_batch_id, *values in connection.execute(statement):
            known, state = dict(zip(_TOLD_NAMES, values, strict=True)), states[part_id]
            status = BatchStatus(known["status"])
            if _is_of_another_create(provider_batch_id, state):
                continue
            if not status.is_terminal and state.refusal is not None:
                refused.append((part_id, state.refusal))
                moved.add(batch_key)
                over.add(batch_key)
            elif not status.is_terminal:
                news = _news(status, known, state, at)
                if "status" in news:
                    moved.add(batch_key)
                    status = BatchStatus(news["status"])
                    news["ended_at"] = at if status.is_terminal else None
                    ended += [part_id] if status.is_terminal else []
                changed[tuple(news)].append({"key": part_id, "polled_at": at, **news})
            if status.is_terminal:
                over.add(batch_key)
        for rows in changed.values():
            connection.execute(update(part_table).where(part_table.c.id == bindparam("key")), rows)
    if refused:
        for keys in chunks(sorted(moved)):
            _lock_batches(connection, keys)
        for part_id, refusal in refused:
            queue.refuse(connection, part_id, refusal, at)
    update_batches(connection, moved, at)
    queue.free(connection, ended)
    return _terminal(connection, over)


def _is_of_another_create(provider_batch_id: str | None, state: PartState) -> bool:
    """Whether a state comes late: of a create that was refused, after which the part waits, or was sent, again."""
    is_waiting = provider_batch_id is None and bool(state.provider_batch_id)
    return is_waiting or (state.refusal is not None and provider_batch_id != state.provider_batch_id)


def _news(current: BatchStatus, known: Mapping[str, Any], state: PartState, at: datetime) -> dict[str, Any]:
    """Return what a state says that is not known; a status only if it is ahead."""
    said = _said(state)
    if known["raw_status"] == CANCEL_REQUESTED and not (state.status.is_terminal or says_canceling(state.raw_status)):
        # A poll does not make it forgotten.
        del said["raw_status"]
    if can_move(current, state.status):
        said["status"] = state.status.value
    if known["progressed_at"] is None and state.counts is not None and state.counts.completed + state.counts.failed:
        said["progressed_at"] = at
    return {name: value for name, value in said.items() if value != known[name]}


def _said(state: PartState) -> dict[str, Any]:
    """Return what a state says; what it is silent about stays as it is."""
    values: dict[str, Any] = {"raw_status": kept_text(state.raw_status, 100)}
    if state.counts is not None:
        values["counts"] = msgspec.to_builtins(state.counts)
    if state.refs:
        values["refs"] = state.refs
    if state.error:
        values["error"] = kept_text(state.error)
    if state.error_code:
        values["error_code"] = kept_text(state.error_code, 100)
    if state.expires_at is not None:
        values["expires_at"] = state.expires_at
    return values


def update_batches(connection: Connection, keys: Collection[Any], at: datetime) -> None:
    """Write what follows for batches whose parts' statuses changed."""
    columns = part_table.c
    for chunk in chunks(sorted(keys)):
        known = _lock_batches(connection, chunk)
        parts: dict[int, list[Any]] = {key: [] for key in chunk}
        told = (columns.batch_key, columns.status, columns.error, columns.model)
        statement = select(*told).where(among(columns.batch_key, chunk))
        for row in connection.execute(statement.order_by(columns.number)):
            parts[row.batch_key].append(row)
        running: list[dict[str, Any]] = []
        over: list[dict[str, Any]] = []
        for key, rows in parts.items():
            # What takes answers of others says nothing of how the provider did.
            sent = [row for row in rows if row.model != SHARED] or rows
            status = combine(BatchStatus(row.status) for row in sent)
            current, is_whole = known[key]
            if status.is_terminal and not is_whole:
                # More parts are to come.
                status = BatchStatus.IN_PROGRESS
            if not can_move(current, status):
                # A part that was refused is pending again.
                status = current
            if status.is_terminal:
                error = next((row.error for row in rows if row.error), None)
                over.append({"key": key, "status": status.value, "ended_at": at, "error": error})
            else:
                running.append({"key": key, "status": status.value})
        for values in filter(None, (running, over)):
            where = (batch_table.c.id == bindparam("key"), batch_table.c.ended_at.is_(None))
            connection.execute(update(batch_table).where(*where), values)


def count_outcomes(connection: Connection, batch_key: int) -> None:
    """Write how many entries of a batch are completed and failed, which follows from what was fetched of its parts.

    An entry that completed stays in its part; what else is in a part that was fetched, or left it for a round, failed.
    Those that take answers of earlier batches completed; those that are the same as others have to be counted.
    """
    # In a statement of its own, so that the next one sees what whoever had the lock wrote.
    _lock_batches(connection, [batch_key])
    columns = part_table.c
    first = func.sum(case((and_(columns.round == 0, columns.model != SHARED), columns.request_count), else_=0))
    pending = func.sum(case((columns.results_fetched_at.is_(None), columns.request_count), else_=0))
    shared = func.sum(case((columns.model == SHARED, columns.request_count), else_=0))
    totals = select(func.sum(columns.completed_count), first, pending, shared).where(columns.batch_key == batch_key)
    completed, of_all, left, of_shared = (int(total or 0) for total in connection.execute(totals).one())
    failed = of_all - completed - left
    if of_shared:
        same = entries.count_same(connection, batch_key)
        completed += of_shared - sum(same.values()) + same.get(EntryStatus.COMPLETED, 0)
        failed += same.get(EntryStatus.FAILED, 0)
    statement = update(batch_table).where(batch_table.c.id == batch_key)
    connection.execute(statement.values(completed_count=completed, failed_count=failed))


def _lock_batches(connection: Connection, keys: Sequence[int]) -> dict[int, tuple[BatchStatus, bool]]:
    """Lock batches before their parts are read, so that the later of two writers sees both.

    :return: their status, and whether they are whole.
    """
    columns = batch_table.c
    statement = select(columns.id, columns.status, columns.spooled_at).where(among(columns.id, keys))
    rows = connection.execute(statement.order_by(columns.id).with_for_update())
    return {row.id: (BatchStatus(row.status), row.spooled_at is not None) for row in rows}


def _terminal(connection: Connection, keys: Collection[int]) -> list[str]:
    columns, found = batch_table.c, list[str]()
    for chunk in chunks(sorted(keys)):
        where = (among(columns.id, chunk), columns.status.in_([status.value for status in TERMINAL]))
        found += connection.scalars(select(columns.batch_id).where(*where).order_by(columns.id))
    return found
