"""What a sweep asks of the store, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_raif.domain.batch import PartState
from airflow_raif.domain.status import BatchStatus
from airflow_raif.store import NewBatch, NewPart

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
DAY = timedelta(days=1)


def new_batch(store, batch_id, parts=1, *, is_whole=True):
    made = store.create_batch(
        NewBatch(
            batch_id=batch_id, provider="openai", conn_id="c", model="m", endpoint="/v1/responses", claim=None,
            spool_uri="file:///s", output_schema=None, metadata={}, created_at=NOW,
        )
    )  # fmt: skip
    for number in range(parts):
        store.add_entries(made, [(number, f"id {number}", number, 0, 9, None)])
        store.add_part(made, NewPart(number=number, model="m", request_count=1, request_bytes=30))
    if is_whole:
        store.finish_spooling(made, fingerprint="f", request_count=parts, at=NOW)
    return store.get_batch(batch_id)


def submitted(store, batch_id, parts=1):
    batch = new_batch(store, batch_id, parts)
    for part in batch.parts:
        store.record_submitted(part.id, state(batch_id, part), NOW)
    return store.get_batch(batch_id)


def state(batch_id, part, status=BatchStatus.IN_PROGRESS):
    return PartState(provider_batch_id=f"{batch_id} {part.number}", status=status, raw_status=status.value)


def fetched(store, batch_id):
    batch = submitted(store, batch_id)
    store.record_states({part.id: state(batch_id, part, BatchStatus.ENDED) for part in batch.parts}, NOW)
    for part in batch.parts:
        store.mark_part_fetched(batch, part, NOW)
    return store.mark_fetched(batch, NOW)


def applied(store, batch_id, at=NOW):
    store.mark_applied(fetched(store, batch_id), "file:///r", at)
    return store.get_batch(batch_id)


def ids(batches):
    return [batch.batch_id for batch in batches]


def test_open_batches(store):
    """Those of which something may have been paid and not all is fetched, each with all its parts."""
    new_batch(store, "never sent")
    intended = new_batch(store, "intended")
    store.record_intent(intended.parts[0].id, NOW)
    submitted(store, "submitted", parts=3)
    ended = submitted(store, "ended")
    store.record_states({ended.parts[0].id: state("ended", ended.parts[0], BatchStatus.EXPIRED)}, NOW)
    fetched(store, "fetched")
    applied(store, "applied")
    found = store.open_batches()
    assert ids(found) == ["intended", "submitted", "ended"]
    assert [[part.number for part in batch.parts] for batch in found] == [[0], [0, 1, 2], [0]]
    assert found == [store.get_batch(batch.batch_id) for batch in found]


def test_a_round_opens_a_batch_again(store):
    """It is open until the results of the round are fetched, and its files count anew."""
    batch = applied(store, "b")
    store.mark_files_deleted("b", NOW)
    assert store.open_batches() == []
    assert store.open_round(store.get_batch("b"), [NewPart(number=1, model="m", request_count=1, request_bytes=9)], [])
    (found,) = store.open_batches()
    assert (found.batch_id, found.applied_at, found.files_deleted_at) == ("b", None, None)
    assert store.batches_with_files(NOW + DAY) == []
    assert not store.mark_spool_deleted(batch, NOW + DAY)
    assert store.get_batch("b").spool_deleted_at is None


def test_batches_with_files(store):
    """Applied before the time, and not deleted yet."""
    new_batch(store, "never sent")
    submitted(store, "submitted")
    fetched(store, "fetched")
    applied(store, "old")
    applied(store, "deleted")
    applied(store, "young", NOW + DAY)
    store.mark_files_deleted("deleted", NOW)
    assert ids(store.batches_with_files(NOW + DAY)) == ["old"]
    assert store.get_batch("deleted").files_deleted_at == NOW


def test_batches_with_spool(store):
    """Applied before the time; a deletion noted lately is to be done again, since it may have been cut short."""
    fetched(store, "fetched")
    old = applied(store, "old")
    applied(store, "young", NOW + DAY)
    assert ids(store.batches_with_spool(NOW + DAY, NOW + DAY)) == ["old"]
    assert store.mark_spool_deleted(old, NOW + DAY)
    assert store.mark_spool_deleted(old, NOW + DAY + DAY)
    assert store.get_batch("old").spool_deleted_at == NOW + DAY
    assert ids(store.batches_with_spool(NOW + DAY, NOW + DAY)) == ["old"]
    assert store.batches_with_spool(NOW + DAY, NOW + 3 * DAY) == []


def test_a_batch_whose_spool_is_deleted_has_no_round(store):
    """Of a deletion and a round at the same moment one is first, and the other does not happen."""
    batch = applied(store, "b")
    assert store.mark_spool_deleted(batch, NOW + DAY)
    assert not store.open_round(batch, [NewPart(number=1, model="m", request_count=1, request_bytes=9)], [])
    assert len(store.get_batch("b").parts) == 1


def test_half_created_batches(store):
    """Begun before the time and never whole."""
    new_batch(store, "whole")
    new_batch(store, "half", is_whole=False)
    assert ids(store.half_created_batches(NOW + DAY)) == ["half"]
    assert store.half_created_batches(NOW) == []


@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_batch_is_found(store, count):
    """A batch without parts has none of another's."""
    new_batch(store, "none", parts=0)
    new_batch(store, "one", parts=1)
    assert len(store.get_batch(["none", "one"][count]).parts) == count
