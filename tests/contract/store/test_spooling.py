"""A batch on its way into the spool, on both databases: one attempt at a time, never over before it is whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from airflow_raif.domain.errors import InputChangedError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.store import AttemptLostError, NewBatch, NewPart
from tests.contract.store.test_store import CLAIM, NOW, half_made, new_batch, state


@pytest.fixture
def begun(store):
    """A batch of which one part was submitted, and entries of another were written."""
    made = store.create_batch(
        NewBatch(
            batch_id="b1", provider="openai", conn_id="c", model="m", endpoint="/v1/responses", claim=CLAIM,
            spool_uri="file:///s", output_schema=None, metadata={}, created_at=NOW,
        )
    )  # fmt: skip
    store.add_entries(made, [(n, f"id {n}", n // 2, n * 10, 9, None) for n in range(3)])
    part = store.add_part(made, NewPart(number=0, model="m", request_count=2, request_bytes=20, digest="d" * 32))
    store.record_intent(part.id, NOW)
    store.record_submitted(part.id, state(), NOW)
    return store.get_batch("b1")


def finish(store, batch):
    store.finish_spooling(batch, fingerprint="f", request_count=2, at=NOW)


def test_the_last_attempt_alone_goes_on(store, begun):
    """Whatever an earlier one still writes is refused, and nothing of it is kept."""
    taken = store.take_up_spooling(begun)
    assert (taken.spool_attempt, taken.parts[0].digest) == (1, "d" * 32)
    for write in (
        lambda: store.add_entries(begun, [(7, "id 7", 1, 0, 9, None)]),
        lambda: store.add_entries(begun, []),
        lambda: store.add_part(begun, NewPart(number=1, model="m", request_count=1, request_bytes=10)),
        lambda: finish(store, begun),
        lambda: store.take_up_spooling(begun),
    ):
        with pytest.raises(AttemptLostError, match="batch b1 was canceled, or another attempt") as told:
            write()
        assert told.value.retryable
    assert store.get_batch("b1") == taken
    finish(store, taken)
    with pytest.raises(AttemptLostError):
        store.add_entries(taken, [(7, "id 7", 1, 0, 9, None)])


def test_entries_without_their_part_are_forgotten(store, begun):
    """They are written again by who goes on; those of a part that was written are there once."""
    taken = store.take_up_spooling(begun)
    assert store.count_entries(taken).pending == 2
    store.add_entries(taken, [(2, "id 2", 1, 0, 9, None)])
    with pytest.raises(InputChangedError, match="row 1 was in a part of another model"):
        store.add_entries(taken, [(1, "id x", 1, 0, 9, None)])
    assert store.count_entries(taken).pending == 3


def test_of_many_who_take_it_up_one_does(store, begun):
    """Several attempts at once: one goes on."""
    barrier = Barrier(3)

    def attempt(_):
        barrier.wait(30)
        try:
            return store.take_up_spooling(begun).spool_attempt
        except AttemptLostError:
            return 0

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(attempt, range(3))) == [0, 0, 1]


def test_it_is_not_over_before_it_is_whole(store, begun):
    """When every part has ended, more may come; what ended before counts in the moment that the batch is whole."""
    part = begun.parts[0]
    assert store.record_states({part.id: state(BatchStatus.ENDED)}, NOW) == []
    assert store.get_batch("b1").status is BatchStatus.IN_PROGRESS
    store.mark_part_fetched(begun, part, NOW)
    assert store.mark_fetched(begun, NOW).results_fetched_at is None
    finish(store, begun)
    found = store.get_batch("b1")
    assert (found.status, found.ended_at, found.spooled_at) == (BatchStatus.ENDED, NOW, NOW)
    assert store.mark_fetched(found, NOW).results_fetched_at == NOW


def test_the_last_part_ends_while_the_batch_becomes_whole(store, begun):
    """Whoever is later sees what the other wrote, so that the batch is over and not forgotten."""
    for _ in range(10):
        barrier = Barrier(2)

        def end(barrier=barrier):
            barrier.wait(30)
            store.record_states({begun.parts[0].id: state(BatchStatus.ENDED)}, NOW)

        def whole(barrier=barrier):
            barrier.wait(30)
            finish(store, begun)

        with ThreadPoolExecutor(2) as pool:
            for each in [pool.submit(end), pool.submit(whole)]:
                each.result(60)
        assert store.get_batch("b1").status is BatchStatus.ENDED
        with store._transaction() as connection:
            connection.exec_driver_sql("UPDATE raif_batch SET status = 'submitted', spooled_at = NULL, ended_at = NULL")
            connection.exec_driver_sql("UPDATE raif_part SET status = 'submitted', ended_at = NULL")


def test_two_parts_end_at_once(store):
    """Two processes that each see one of two parts end: the batch is over."""
    for turn in range(10):
        made = new_batch(store, f"t{turn}", claim=None, parts=2)
        for number, part in enumerate(made.parts):
            store.record_submitted(part.id, state(provider_batch_id=f"p{turn}-{number}"), NOW)
        barrier = Barrier(2)

        def end(part, barrier=barrier):
            barrier.wait(30)
            store.record_states({part.id: state(BatchStatus.ENDED)}, NOW)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(end, made.parts))
        assert store.get_batch(f"t{turn}").status is BatchStatus.ENDED


def test_given_up(store, begun):
    """What was submitted becomes a batch of its own, and no attempt goes on with it."""
    found = store.request_cancel(begun, NOW)
    assert store.request_cancel(begun, NOW) == found
    assert (found.request_count, found.spooled_at, found.fingerprint) == (2, NOW, None)
    assert found.is_cut_short
    with pytest.raises(AttemptLostError):
        finish(store, begun)
    assert store.record_states({found.parts[0].id: state(BatchStatus.ENDED)}, NOW) == ["b1"]


def test_given_up_after_its_end(store, begun):
    """A batch whose parts had all ended is over at once."""
    store.record_states({begun.parts[0].id: state(BatchStatus.ENDED)}, NOW)
    store.request_cancel(begun, NOW)
    assert store.get_batch("b1").status is BatchStatus.ENDED


def test_discarded_or_submitted_but_never_both(store):
    """One discards a batch while another begins to submit it: either it is gone and not sent, or sent and there."""
    for turn in range(10):
        made = half_made(store, f"t{turn}", claim=None)
        part = store.add_part(made, NewPart(number=0, model="m", request_count=1, request_bytes=1))
        barrier = Barrier(2)

        def attempt(act, barrier=barrier):
            barrier.wait(30)
            return act()

        with ThreadPoolExecutor(2) as pool:
            sends = pool.submit(attempt, lambda part=part: store.record_intent(part.id, NOW))
            discards = pool.submit(attempt, lambda turn=turn: store.discard_batch(f"t{turn}"))
            assert sends.result(60) is not discards.result(60)
