"""Money that is reserved, and answers that are shared, on each database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from threading import Barrier

from sqlalchemy import event

from airflow_raif.domain.batch import SHARED, EntryOutcome
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.usage import Cost
from airflow_raif.store import NewBatch, NewPart, Store

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SCOPE = b"s" * 16


def make(store, name, scope=None):
    return store.create_batch(
        NewBatch(
            batch_id=name, provider="openai", conn_id="c", model="m", endpoint="e", claim=None, spool_uri="s",
            output_schema=None, metadata={}, round_policy=RoundPolicy(), answer_scope=scope, created_at=NOW,
        )
    )  # fmt: skip


def test_one_of_many_who_ask_at_once_gets_what_is_left(store):
    """The others are told what is taken; the next day there is as much again."""
    batches, together = [make(store, f"b{n}") for n in range(4)], Barrier(4)

    def ask(batch):
        together.wait()
        return store.reserve_cost(batch, 60, 100, NOW)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, batches))
    assert sorted(found, key=str) == [60, 60, 60, None]
    left = batches[found.index(60)]
    assert store.reserve_cost(left, 60, 100, NOW + timedelta(days=1)) is None
    assert store.get_batch(left.batch_id).estimated_cost == 60


def test_the_last_two_parts_are_fetched_at_once(store, url):
    """What the batch cost is what all of its parts did, also if the last one comes in as the others are summed up."""
    batch = make(store, "b")
    for n in range(2):
        store.add_entries(batch, [(n, f"row {n}", n, 0, 9, None)])
        store.add_part(batch, NewPart(number=n, model="m", request_count=1, request_bytes=9))
    store.finish_spooling(batch, fingerprint="f", request_count=2, at=NOW)
    batch = store.get_batch("b")
    store.record_outcomes(batch, [EntryOutcome(n, "completed", None, n, 5, 7, None, Cost(3, 6)) for n in range(2)])
    first, last = batch.parts
    store.mark_part_fetched(batch, first, NOW)
    other, running = Store.open(url), []

    @event.listens_for(store._engine, "after_cursor_execute")
    def come_between(_connection, _cursor, statement, *_):
        if statement.startswith("SELECT sum(") and not running:
            running.append(pool.submit(other.mark_part_fetched, batch, last, NOW))
            # Not the result: it may have to wait until all is written here.
            wait(running, timeout=0.5)

    with ThreadPoolExecutor(1) as pool:
        store.mark_fetched(batch, NOW)
        running[0].result()
    batch = store.mark_fetched(batch, NOW)
    assert batch.results_fetched_at is not None
    assert batch.cost == Cost(6, 12)
    other.close()


def answered(store, name, content):
    """A batch whose first row has an answer, and whose second is the same as it."""
    batch = make(store, name, SCOPE)
    store.add_entries(batch, [(0, "a", 0, 0, 9, content)], [(1, "b", 1, 0, 9, content, 0, None, None, None)])
    store.add_part(batch, NewPart(number=0, model="m", request_count=1, request_bytes=9))
    store.add_part(batch, NewPart(number=1, model=SHARED, request_count=1, request_bytes=9, shared_at=NOW))
    outcome = EntryOutcome(0, "completed", None, 0, 5, 7, None, Cost(3, 6))
    assert store.record_outcomes(batch, [outcome]) == 1
    assert store.hand_on_outcomes(batch, store.get_batch(batch.batch_id).parts[0]) == 1
    store.keep_answers(batch, SCOPE, store.get_batch(batch.batch_id).parts[0], NOW)
    return store.get_batch(name)


def test_answers_are_handed_on_and_found_again(store):
    """A row that is the same costs nothing; the newest answer of a request is the one that is found."""
    content = b"c" * 16
    batch = answered(store, "first", content)
    ((one, same),) = store.iter_entries(batch)
    assert (same.status, same.result_part, same.result_offset, same.batch_cost) == ("completed", 0, 5, 0)
    assert one.batch_cost == 3
    assert store.count_shared(batch) == (0, 1)
    answered(store, "second", content)
    known = store.find_answers(SCOPE, [content, b"x" * 16], NOW - timedelta(seconds=1))
    assert {each.batch_id for each in known.values()} == {"second"}
    assert store.find_answers(SCOPE, [content], NOW) == {}
    assert store.find_answers(b"t" * 16, [content], NOW - timedelta(seconds=1)) == {}


def test_rows_that_are_the_same_and_were_sent_each(store):
    """One of their answers is kept."""
    batch = make(store, "each", SCOPE)
    content = b"c" * 16
    store.add_entries(batch, [(n, f"row {n}", 0, n * 9, 9, content) for n in range(3)])
    store.add_part(batch, NewPart(number=0, model="m", request_count=3, request_bytes=27))
    store.record_outcomes(batch, [EntryOutcome(n, "completed", None, 0, n * 7, 7, None, Cost(3, 6)) for n in range(3)])
    for _ in range(2):
        store.keep_answers(batch, SCOPE, store.get_batch(batch.batch_id).parts[0], NOW)
    assert list(store.find_answers(SCOPE, [content], NOW - timedelta(seconds=1))) == [content]


def test_no_row_of_a_fetched_batch_waits_for_another(store):
    """Neither for one that was fetched before it was read, nor for one that is not there."""
    batch = make(store, "b")
    store.add_entries(batch, [(0, "a", 0, 0, 9, None)])
    store.add_part(batch, NewPart(number=0, model="m", request_count=1, request_bytes=9))
    part = store.get_batch("b").parts[0]
    store.record_outcomes(batch, [EntryOutcome(0, "completed", None, 0, 5, 7, None, Cost(3, 6))])
    assert store.hand_on_outcomes(batch, part) == 0
    store.mark_part_fetched(batch, part, NOW)
    store.add_entries(
        batch, [], [(1, "b", 1, 0, 9, None, 0, None, None, None), (3, "d", 1, 9, 9, None, 2, *[None] * 3)]
    )
    store.add_part(batch, NewPart(number=1, model=SHARED, request_count=2, request_bytes=18, shared_at=NOW))
    store.finish_spooling(batch, fingerprint="f", request_count=3, at=NOW)
    batch = store.mark_fetched(batch, NOW)
    ((_, late, orphan),) = store.iter_entries(batch)
    assert (late.status, late.result_part, late.result_offset) == ("completed", 0, 5)
    assert (orphan.status, orphan.reason) == ("failed", "canceled")
    assert (batch.completed_count, batch.failed_count) == (2, 1)
