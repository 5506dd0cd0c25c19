"""Which batches were kept long enough, and what of them goes, on SQLite and on PostgreSQL."""

from __future__ import annotations

from airflow_raif.domain.batch import EntryOutcome
from airflow_raif.domain.rounds import RoundPolicy, Selection
from airflow_raif.domain.usage import Cost
from airflow_raif.store import OldBatches
from tests.contract.store.test_sweep_queries import DAY, NOW, applied, fetched, ids, new_batch, submitted

LATER = NOW + DAY


def old(store, **more):
    return ids(store.old_batches(OldBatches(before=LATER, **more), 0, 10))


def test_old_batches(store):
    """Applied before, or never sent; fetched ones only if asked for; what may be paid at the provider never."""
    applied(store, "applied")
    applied(store, "young", at=LATER)
    fetched(store, "fetched")
    submitted(store, "running")
    new_batch(store, "unsent")
    new_batch(store, "half", is_whole=False)
    intended = new_batch(store, "intended")
    store.record_intent(intended.parts[0].id, NOW)
    assert old(store) == ["applied", "unsent", "half"]
    assert old(store, unapplied=True) == ["applied", "fetched", "unsent", "half"]
    counts = store.count_old(OldBatches(before=LATER))
    assert (counts.batch_count, counts.request_count, counts.kept_count) == (3, 2, 3)
    counts = store.count_old(OldBatches(before=LATER, unapplied=True))
    assert (counts.batch_count, counts.request_count, counts.kept_count) == (4, 3, 2)
    first = store.old_batches(OldBatches(before=LATER), 0, 1)
    assert ids(store.old_batches(OldBatches(before=LATER), first[0].id, 10)) == ["unsent", "half"]


def test_a_batch_goes_a_chunk_at_a_time(store):
    """Its entries, then itself with its parts; others stay."""
    batch, other = applied(store, "a"), applied(store, "b")
    many = new_batch(store, "many", parts=5)
    for each, chunks in ((batch, [1, 0]), (many, [2, 2, 1, 0])):
        assert store.begin_deletion(each, NOW)
        assert [store.delete_entries(each, 2) for _ in chunks] == chunks
        store.finish_deletion(each)
    assert old(store) == ["b"]
    assert store.count_entries(other).pending == 1


def test_what_was_taken_up_since_it_was_read_is_kept(store):
    """By a round, by a create, or by an attempt that reads its input on."""
    batch, unsent = applied(store, "a"), new_batch(store, "unsent")
    assert store.open_round(batch, [], [])
    assert not store.begin_deletion(batch, NOW)
    store.record_intent(unsent.parts[0].id, NOW)
    assert not store.begin_deletion(unsent, NOW)


def test_entries_that_failed_for_a_reason(store):
    """By hand for that alone; by itself also what failed in passing."""
    batch = submitted(store, "a", parts=3)
    failures = [("errored", True), ("errored", False), ("refused", False)]
    store.record_outcomes(
        batch,
        [
            EntryOutcome(number, "failed", reason, number, None, None, None, Cost(), None, passing)
            for number, (reason, passing) in enumerate(failures)
        ],
    )

    def found(selection):
        return [each.index for each in store.iter_repeatable(batch, selection)]

    assert found(Selection(["errored"])) == [0, 1]
    assert found(Selection(["refused"])) == [2]
    assert found(Selection([], passing=True)) == [0]
    assert found(RoundPolicy().wanted()) == [0]
    assert [(each.reason, each.count) for each in store.tally_entries(batch)] == [
        ("errored", 1), ("errored", 1), ("refused", 1),
    ]  # fmt: skip
