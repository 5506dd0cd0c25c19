"""What a cancel writes, on SQLite and on PostgreSQL: what was never sent is canceled, the rest is marked to stop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest

from airflow_raif.domain.batch import CANCEL_REQUESTED
from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.store import BatchFilter, NewPart
from tests.contract.store.test_sweep_queries import NOW, new_batch, state

LATER = NOW + timedelta(hours=1)


def test_what_was_never_sent_is_canceled_and_the_rest_marked(store):
    """The mark stays until the provider says that it stops; a part that ended keeps its word."""
    batch = new_batch(store, "b1", parts=4)
    ended, running, lost, _ = batch.parts
    store.record_submitted(ended.id, state("b1", ended, BatchStatus.ENDED), NOW)
    store.record_submitted(running.id, state("b1", running), NOW)
    store.record_intent(lost.id, NOW)
    marked = store.request_cancel(batch, LATER)
    assert [part.raw_status for part in marked.parts] == [
        "ended", CANCEL_REQUESTED, CANCEL_REQUESTED, "never submitted"
    ]  # fmt: skip
    assert [part.is_canceling for part in marked.parts] == [False, True, True, False]
    assert (marked.status, marked.is_canceling, marked.was_canceled) == (BatchStatus.IN_PROGRESS, True, True)
    assert marked.parts[3].ended_at == LATER
    store.record_states({running.id: state("b1", running)}, LATER)
    assert store.get_batch("b1").parts[1].is_cancel_requested
    canceling = saying(running, "cancelling")
    store.record_states({running.id: canceling}, LATER)
    assert store.request_cancel(batch, LATER).parts[1].raw_status == "cancelling"


def saying(part, word):
    import msgspec

    return msgspec.structs.replace(state("b1", part), raw_status=word)


def test_a_batch_of_which_nothing_was_sent(store):
    """It is over, and nobody can send it any more."""
    batch = store.request_cancel(new_batch(store, "b1", parts=2), NOW)
    assert (batch.status, batch.ended_at) == (BatchStatus.CANCELED, NOW)
    assert not store.record_intent(batch.parts[0].id, NOW)


def test_the_id_of_a_part_that_is_to_stop(store):
    """Whoever learns it is told that it is to stop, each time; one that has ended has nothing to stop."""
    batch = new_batch(store, "b1", parts=2)
    first, second = batch.parts
    for part in batch.parts:
        store.record_intent(part.id, NOW)
    store.request_cancel(batch, NOW)
    assert store.record_submitted(first.id, state("b1", first), NOW) is True
    assert store.record_submitted(first.id, state("b1", first), NOW) is True
    assert store.record_submitted(second.id, state("b1", second, BatchStatus.ENDED), NOW) is True
    parts = store.get_batch("b1").parts
    assert [part.raw_status for part in parts] == [CANCEL_REQUESTED, "ended"]
    assert store.record_submitted(new_batch(store, "b2").parts[0].id, state("b2", first), NOW) is False


def test_a_create_that_made_nothing_is_canceled_with_that(store):
    """And what is canceled takes no id any more."""
    batch = new_batch(store, "b1", parts=1)
    (part,) = batch.parts
    store.record_intent(part.id, NOW)
    store.request_cancel(batch, NOW)
    store.clear_intent(part.id, LATER)
    assert store.get_batch("b1").status is BatchStatus.PENDING
    store.clear_intent(part.id, NOW)
    assert store.get_batch("b1").status is BatchStatus.CANCELED
    with pytest.raises(InvalidBatchError, match="is canceled; b1 0 was created as well"):
        store.record_submitted(part.id, state("b1", part), NOW)


def test_no_synchronous_call_after_a_cancel(store):
    """A part whose calls began is marked, since its answers are paid; one whose calls did not is canceled."""
    batch = new_batch(store, "b1", parts=1, is_whole=False)
    begun = store.add_part(
        batch, NewPart(number=1, round=1, model="m", request_count=2, request_bytes=9, is_synchronous=True)
    )
    store.finish_spooling(batch, fingerprint="f", request_count=3, at=NOW)
    assert store.note_call(begun, 0, NOW)
    store.forget_call(begun, 0)
    assert store.note_call(begun, 0, NOW)
    marked = store.request_cancel(batch, NOW).parts[1]
    assert (marked.is_cancel_requested, marked.synchronous_calls) == (True, 1)
    assert not store.note_call(begun, 1, NOW)
    store.forget_call(begun, 0)
    assert store.request_cancel(batch, NOW).parts[1].status is BatchStatus.CANCELED


def test_lists_and_holders(store):
    """What commands ask: the newest batches that are wanted, and whose an id and an entry are."""
    for number in range(3):
        batch = new_batch(store, f"b{number}", parts=2)
    store.record_submitted(batch.parts[1].id, state("b2", batch.parts[1]), NOW)
    assert [each.batch_id for each in store.newest_batches(BatchFilter(), 2)] == ["b2", "b1"]
    assert [each.batch_id for each in store.newest_batches(BatchFilter(status=BatchStatus.PENDING), 9)] == ["b1", "b0"]
    assert store.newest_batches(BatchFilter(provider="gemini"), 9) == []
    assert store.holder_of("b2 1") == ("b2", 1)
    assert store.holder_of("b2 7") is None
    assert [store.part_of_entry(batch, index) for index in range(3)] == [0, 1, None]


def test_a_cancel_beside_a_create_that_made_nothing(store):
    """Whoever is first, the parts are canceled, and neither waits for the other for ever."""
    for turn in range(20):
        made = new_batch(store, f"t{turn}", parts=3)
        for part in made.parts[:2]:
            store.record_intent(part.id, NOW)
        barrier = Barrier(2)

        def clear(made=made, barrier=barrier):
            barrier.wait(30)
            for part in made.parts[:2]:
                store.clear_intent(part.id, NOW)

        def cancel(made=made, barrier=barrier):
            barrier.wait(30)
            store.request_cancel(made, NOW)

        with ThreadPoolExecutor(2) as pool:
            for each in [pool.submit(clear), pool.submit(cancel)]:
                each.result(60)
        assert store.get_batch(made.batch_id).status is BatchStatus.CANCELED
