"""Room in a provider's queue, on SQLite and on PostgreSQL: taken by one, in order, and learnt from refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest

from airflow_raif.domain.queue import BYTES_PER_TOKEN, LEARNT_FOR, PAUSES, PLACE_KEPT_FOR, Quota, Refusal
from airflow_raif.domain.status import BatchStatus
from airflow_raif.store import NewPart
from tests.contract.store.test_store import NOW, new_batch, outcome, state

FREE = Quota("m")
SECOND = timedelta(seconds=1)


def quota(requests=None, tokens=None, model="m"):
    return Quota(model, tokens, requests)


def made(store, name, parts=1, tokens=10, **values):
    """A whole batch; each part has three requests."""
    batch = new_batch(store, name, claim=None, parts=parts, **values)
    with store._transaction() as connection:
        connection.exec_driver_sql(
            f"UPDATE raif_part SET request_bytes = {tokens * BYTES_PER_TOKEN} WHERE batch_key = {batch.id}"
        )
    return store.get_batch(name)


def claims(store, part, limits, at=NOW):
    return bool(store.record_intent(part.id, at, limits))


def send(store, part, number, at=NOW):
    assert store.record_intent(part.id, at)
    store.record_submitted(part.id, state(provider_batch_id=f"p{number}"), at)


def end(store, part, number, at=NOW):
    store.record_states({part.id: state(BatchStatus.ENDED, f"p{number}")}, at)


def refusal(**values):
    return state(BatchStatus.FAILED, "p1", refusal=Refusal("no room", **values))


def test_of_many_who_claim_the_last_room_one_has_it(store):
    """Several processes at once: what is queued never exceeds the quota."""
    parts = [part for n in range(4) for part in made(store, f"b{n}").parts]
    barrier = Barrier(4)

    def claim(part):
        barrier.wait(30)
        return claims(store, part, quota(requests=6))

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(claim, parts)) == [False, False, True, True]


def test_claims_ends_and_refusals_at_once(store):
    """Whoever writes at the same time, all come through, and the account is right afterwards."""
    parts = [part for n in range(8) for part in made(store, f"b{n}").parts]
    for number, part in enumerate(parts[:4]):
        send(store, part, number)
    barrier = Barrier(8)

    def write(number):
        barrier.wait(30)
        if number < 2:
            end(store, parts[number], number)
        elif number < 4:
            store.record_states({parts[number].id: state(BatchStatus.FAILED, f"p{number}", refusal=Refusal("no"))}, NOW)
        else:
            claims(store, parts[number], quota(requests=24))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = [store.get_batch(f"b{n}").parts[0] for n in range(8)]
    assert [part.status.value for part in found[:4]] == ["ended", "ended", "pending", "pending"]
    assert [part.provider_batch_id for part in found[2:4]] == [None, None]


@pytest.mark.parametrize(("limits", "fits"), [({"requests": 6}, True), ({"requests": 5}, False), ({"tokens": 20}, True),
                                              ({"tokens": 19}, False), ({}, True)])  # fmt: skip
def test_room_to_the_last_request_and_token(store, limits, fits):
    """What makes up a quota exactly fits."""
    first, second = made(store, "b1", parts=2).parts
    assert store.may_send(first.id, quota(**limits), NOW)
    assert store.record_intent(first.id, NOW, quota(**limits))
    assert store.may_send(second.id, quota(**limits), NOW) is fits
    assert claims(store, second, quota(**limits)) is fits
    assert (store.get_batch("b1").queued_at is None) is fits


def test_what_was_sent_needs_no_room(store):
    """A part that another attempt sent is told as such, not held back."""
    (part,) = made(store, "b1").parts
    send(store, part, 1)
    assert store.may_send(part.id, quota(requests=0), NOW)
    assert not store.record_intent(part.id, NOW, quota(requests=0))


def test_first_come_first_served(store):
    """A place in line is kept by asking, and lost an hour after the last time."""
    running, first, second = (made(store, name) for name in ("b1", "b2", "b3"))
    send(store, running.parts[0], 1)
    full = quota(requests=3)
    assert not store.may_send(first.parts[0].id, full, NOW)
    end(store, running.parts[0], 1)
    assert not store.may_send(second.parts[0].id, full, NOW + SECOND)
    assert store.may_send(first.parts[0].id, full, NOW + SECOND)
    late = NOW + PLACE_KEPT_FOR
    assert store.may_send(second.parts[0].id, full, late)
    assert store.ready_batches(["b2"], lambda model: full, late) == {"b2": True}
    assert not store.may_send(second.parts[0].id, full, late)


def test_parts_of_a_batch_go_in_their_order(store):
    """The second does not overtake the first, even if it is asked for alone."""
    first, second = made(store, "b1", parts=2).parts
    wide = quota(requests=100)
    assert not store.may_send(second.id, wide, NOW)
    send(store, first, 1)
    assert store.may_send(second.id, wide, NOW)


def test_other_queues_are_not_in_the_way(store):
    """Another model's parts and another connection's take no room; where all models share it they do."""
    batch = made(store, "b1", parts=2)
    with store._transaction() as connection:
        connection.exec_driver_sql("UPDATE raif_part SET model = 'other' WHERE number = 1")
    first, second = batch.parts
    send(store, first, 1)
    assert store.may_send(second.id, quota(requests=3, model="other"), NOW)
    assert not store.may_send(second.id, quota(requests=3, model=""), NOW)
    elsewhere = made(store, "b2")
    with store._transaction() as connection:
        connection.exec_driver_sql("UPDATE raif_batch SET conn_id = 'd' WHERE batch_id = 'b2'")
    assert store.may_send(elsewhere.parts[0].id, quota(requests=3), NOW)


def test_who_may_go_is_told(store):
    """Of those who wait, the first whose parts fit together; those without parts to send are not named."""
    running = made(store, "b1")
    send(store, running.parts[0], 1)
    for name in ("b2", "b3", "b4"):
        made(store, name)
    names = ["b1", "b2", "b3", "b4", "nope"]
    for room, ready in ((3, []), (6, ["b2"]), (9, ["b2", "b3"]), (None, ["b2", "b3", "b4"])):
        limits = quota(requests=room)
        told = store.ready_batches(names, lambda _, limits=limits: limits, NOW)
        assert told == {name: name in ready for name in ("b2", "b3", "b4")}
    assert store.ready_batches(["b4"], lambda _: quota(requests=6), NOW) == {"b4": False}
    assert store.ready_batches(["b4"], lambda _: quota(requests=6), NOW + PLACE_KEPT_FOR) == {"b4": True}
    assert store.ready_batches([], lambda _: FREE, NOW) == {}


def test_a_refusal_puts_the_part_back_in_line(store):
    """It is as if it was never sent, its upload apart; its batch does not step back."""
    batch = made(store, "b1", parts=2)
    part = batch.parts[0]
    store.record_upload(part.id, "file-1")
    send(store, part, 1)
    store.record_states({part.id: state(BatchStatus.IN_PROGRESS, "p1", counts=None)}, NOW)
    assert store.record_states({part.id: refusal(max_tokens=100)}, NOW) == []
    found = store.get_batch("b1")
    back = found.parts[0]
    assert (back.status, back.provider_batch_id, back.intent_at, back.submitted_at) == (
        BatchStatus.PENDING,
        None,
        None,
        None,
    )
    assert (back.input_ref, back.raw_status, back.error) == ("file-1", "refused", "no room")
    assert (found.status, found.queued_at) == (BatchStatus.IN_PROGRESS, NOW)
    assert store.count_entries(found).pending == 6
    assert not store.may_send(part.id, FREE, NOW + timedelta(seconds=PAUSES[0] - 1))
    assert store.may_send(part.id, FREE, NOW + timedelta(seconds=PAUSES[0]))
    assert store.record_intent(part.id, NOW + timedelta(hours=1), FREE)
    store.record_submitted(part.id, state(provider_batch_id="p2"), NOW)
    again = store.get_batch("b1").parts[0]
    assert (again.provider_batch_id, again.error, again.input_ref) == ("p2", None, "file-1")


def test_a_limit_that_was_told_counts_for_a_day(store):
    """With the connection's own the smaller one counts; after a day it is found out anew."""
    first, second, third = (made(store, name) for name in ("b1", "b2", "b3"))
    send(store, first.parts[0], 1)
    store.record_states({first.parts[0].id: refusal(max_tokens=19)}, NOW)
    late = NOW + timedelta(hours=1)
    assert store.record_intent(first.parts[0].id, late, FREE)
    assert not store.may_send(second.parts[0].id, FREE, late)
    assert not store.may_send(second.parts[0].id, quota(tokens=1000), late)
    assert store.record_intent(second.parts[0].id, NOW + LEARNT_FOR, FREE)
    assert not store.may_send(third.parts[0].id, quota(tokens=29), NOW + LEARNT_FOR)


def test_an_end_lets_the_queue_be_tried_again(store):
    """Whatever pause the refusals had come to."""
    running, waiting = made(store, "b1"), made(store, "b2")
    send(store, running.parts[0], 9)
    send(store, waiting.parts[0], 1)
    store.record_states({waiting.parts[0].id: refusal()}, NOW)
    assert not store.may_send(waiting.parts[0].id, FREE, NOW)
    end(store, running.parts[0], 9)
    assert store.may_send(waiting.parts[0].id, FREE, NOW)


@pytest.mark.parametrize(
    ("told", "tokens", "pieces"),
    [
        ({"max_tokens": 40}, 100, 40),
        ({"max_tokens": 90}, 100, 50),
        ({"max_tokens": 100}, 100, None),
        ({}, 102, 51),
        ({"is_certain": False}, 100, None),
    ],
)
def test_what_is_too_large_is_to_be_divided(store, told, tokens, pieces):
    """What the provider tells decides, or that nothing else was queued; the pieces need not wait."""
    batch = made(store, "b1", tokens=tokens)
    part = batch.parts[0]
    send(store, part, 1)
    store.record_states({part.id: refusal(**told)}, NOW)
    assert store.get_batch("b1").parts[0].piece_bytes == (pieces and pieces * BYTES_PER_TOKEN)
    assert not store.may_send(part.id, FREE, NOW)
    assert store.ready_batches(["b1"], lambda _: FREE, NOW) == {"b1": pieces is not None}


@pytest.mark.parametrize(
    ("limits", "size"), [({"requests": 2}, 200), ({"tokens": 60}, 200), ({"tokens": 25}, 100), ({"tokens": 100}, None)]
)
def test_what_is_larger_than_a_known_limit_is_divided_before_it_is_sent(store, limits, size):
    """Nothing is uploaded that cannot be queued; a limit that was told counts as one that is configured."""
    told = made(store, "b1", tokens=100).parts[0]
    assert store.may_send(told.id, quota(**limits), NOW) is (size is None)
    assert store.get_batch("b1").parts[0].piece_bytes == size
    assert store.ready_batches(["b1"], lambda _: quota(**limits), NOW) == {"b1": True}


def test_divided_by_one(store):
    """Two processes divide a part at once: it is divided once, and every entry lies in one of the pieces."""
    batch = made(store, "b1", tokens=100)
    send(store, batch.parts[0], 1)
    store.record_states({batch.parts[0].id: refusal()}, NOW)
    batch = store.get_batch("b1")
    new = [NewPart(number=n, model="m", request_count=c, request_bytes=30) for n, c in ((1, 2), (2, 1))]
    moved = [[(0, 1, 0, 9), (1, 1, 10, 9)], [(2, 2, 0, 9)]]
    barrier = Barrier(2)

    def divide(_):
        barrier.wait(30)
        return store.divide_part(batch, batch.parts[0], new, moved, NOW)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(divide, range(2))) == [False, True]
    found = store.get_batch("b1")
    assert [(part.status, part.request_count) for part in found.parts] == [
        (BatchStatus.FAILED, 0),
        (BatchStatus.PENDING, 2),
        (BatchStatus.PENDING, 1),
    ]
    assert not found.status.is_terminal
    assert store.record_outcomes(found, [outcome(0, 1), outcome(1, 1), outcome(2, 2), outcome(2, 0)]) == 3
    for number, part in enumerate(found.parts[1:]):
        send(store, part, number)
        end(store, part, number)
    found = store.get_batch("b1")
    assert (found.status, found.error) == (BatchStatus.ENDED, None)


def test_a_request_that_never_fits_has_failed(store):
    """A part of one request that was refused with nothing beside it, and is larger than what the provider tells."""
    batch = new_batch(store, "b1", claim=None, per_part=1)
    part = batch.parts[0]
    send(store, part, 1)
    assert store.record_states({part.id: refusal()}, NOW) == ["b1"]
    found = store.get_batch("b1")
    assert (found.parts[0].status, found.parts[0].error_code, found.error) == (
        BatchStatus.FAILED,
        "too_large",
        "no room",
    )


def test_a_batch_that_is_canceled_while_its_create_is_refused_has_ended(store):
    """Nothing of it is at the provider, and nobody sends it any more."""
    batch = made(store, "b1")
    part = batch.parts[0]
    assert store.record_intent(part.id, NOW, FREE)
    store.request_cancel(batch, NOW)
    assert not store.get_batch("b1").status.is_terminal
    store.refuse_create(part.id, NOW, FREE, Refusal("no room", is_certain=False), NOW)
    assert store.get_batch("b1").status is BatchStatus.CANCELED


def test_a_refusal_of_an_earlier_create_is_late(store):
    """It concerns neither a part that is pending again nor one that was sent again."""
    part = made(store, "b1").parts[0]
    assert store.record_intent(part.id, NOW)
    store.refuse_create(part.id, NOW + SECOND, FREE, Refusal("late"), NOW)
    assert store.get_batch("b1").parts[0].intent_at == NOW
    store.refuse_create(part.id, NOW, FREE, Refusal("now", retry_after=500, is_certain=False), NOW)
    assert store.get_batch("b1").parts[0].intent_at is None
    assert not store.may_send(part.id, FREE, NOW + timedelta(seconds=499))
    assert store.record_intent(part.id, NOW + timedelta(seconds=500), FREE)
    store.record_submitted(part.id, state(provider_batch_id="p2"), NOW)
    for late in (refusal(), state(BatchStatus.FAILED, "p1", refusal=Refusal("no"))):
        store.record_states({part.id: late}, NOW)
    store.refuse_create(part.id, NOW + timedelta(seconds=500), FREE, Refusal("late"), NOW)
    assert store.get_batch("b1").parts[0].provider_batch_id == "p2"
