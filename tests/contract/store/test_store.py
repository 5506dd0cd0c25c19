"""The store's promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, event, text

from airflow_raif.domain.batch import Claim, Counts, EntryOutcome, PartState
from airflow_raif.domain.errors import (
    ConfigurationError,
    DuplicateCustomIdError,
    InvalidBatchError,
    StoreError,
    StoreNotReadyError,
    StoreUnavailableError,
)
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.usage import Cost, Usage
from airflow_raif.store import NewBatch, NewPart, Store, migrate
from airflow_raif.store.engine import make_engine, parse_url, store_errors
from airflow_raif.store.records import AttemptLostError, BatchMissingError, ClaimTakenError
from airflow_raif.store.tables import VERSION_TABLE, metadata
from tests.postgres import PostgresServer

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
CLAIM = Claim("dag", "run", "task", -1)
USAGE = Usage(10, 2, 0, 5, 1)


def half_made(store, batch_id="b1", claim=CLAIM):
    return store.create_batch(
        NewBatch(
            batch_id=batch_id, provider="openai", conn_id="c", model="m", endpoint="/v1/responses", claim=claim,
            spool_uri="file:///s", output_schema={"type": "object"}, metadata={"team": "ü"}, created_at=NOW,
        )
    )  # fmt: skip


def new_batch(store, batch_id="b1", claim=CLAIM, parts=1, per_part=3):
    made = half_made(store, batch_id, claim)
    for number in range(parts):
        start = number * per_part
        store.add_entries(made, [(n, f"id {n}", number, n * 10, 9, None) for n in range(start, start + per_part)])
        store.add_part(made, NewPart(number=number, model="m", request_count=per_part, request_bytes=30))
    store.finish_spooling(made, fingerprint="f", request_count=parts * per_part, at=NOW)
    return store.get_batch(batch_id)


def state(status=BatchStatus.IN_PROGRESS, provider_batch_id="p1", **values):
    return PartState(provider_batch_id=provider_batch_id, status=status, raw_status=status.value, **values)


def outcome(index, part=0, status="completed", **values):
    values.setdefault("usage", USAGE)
    values.setdefault("cost", Cost(1_000_000, 2_000_000))
    fields = {"reason": None, "offset": index * 100, "length": 99, "error": None, **values}
    return EntryOutcome(index=index, status=status, part_number=part, **fields)


def test_batch_comes_back_as_it_went_in(store):
    """Everything that was written is read: times aware and in UTC, JSON as it was."""
    found = new_batch(store, parts=2)
    assert (found.status, found.claim, found.created_at) == (BatchStatus.PENDING, CLAIM, NOW)
    assert (found.metadata, found.output_schema) == ({"team": "ü"}, {"type": "object"})
    assert (found.fingerprint, found.request_count, found.spooled_at) == ("f", 6, NOW)
    assert [(part.number, part.request_count) for part in found.parts] == [(0, 3), (1, 3)]
    assert store.count_entries(found).pending == 6


def test_unknown_batch(store):
    """An id that is not there is named, with where to look."""
    with pytest.raises(BatchMissingError, match="the store knows no batch 'nope'"):
        store.get_batch("nope")


def test_claim_is_held_by_one_batch(store):
    """A second batch of the same task instance is refused until the first gives up the claim."""
    first = new_batch(store)
    with pytest.raises(ClaimTakenError, match="holds batch b1 already") as caught:
        new_batch(store, "b2")
    assert caught.value.batch_id == "b1"
    assert store.find_by_claim(CLAIM).batch_id == "b1"
    assert store.release_claim(first, NOW)
    assert store.find_by_claim(CLAIM) is None
    assert new_batch(store, "b2").claim == CLAIM
    assert store.get_batch("b1").claim == first.claim


def test_racing_creators_leave_one_batch(store):
    """Of many attempts at once exactly one gets the claim."""

    def attempt(n):
        try:
            new_batch(store, f"r{n}")
        except ClaimTakenError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1


def test_batches_without_a_claim(store):
    """A hook's own batches belong to no task instance, and there may be many."""
    assert new_batch(store, "a", claim=None).claim is None
    assert new_batch(store, "b", claim=None).claim is None


def test_same_batch_id_twice(store):
    """An id is unique."""
    new_batch(store, "a", claim=None)
    with pytest.raises(StoreError, match="refused a statement"):
        new_batch(store, "a", claim=None)


@pytest.mark.parametrize("chunks", [[["x", "y", "x"]], [["x", "y"], ["z", "y"]]])
def test_duplicate_custom_id_is_named(store, chunks):
    """Twice the same custom_id, in one chunk or across two, names both rows and the value."""
    made = store.create_batch(
        NewBatch(
            batch_id="d", provider="p", conn_id="c", model="m", endpoint="e", claim=None, spool_uri="s",
            output_schema=None, metadata={}, created_at=NOW,
        )
    )  # fmt: skip
    index = 0
    with pytest.raises(DuplicateCustomIdError, match=r"rows \d and \d have the same custom_id '[xy]'") as caught:
        for chunk in chunks:
            store.add_entries(made, [(index + n, name, 0, 0, 1, None) for n, name in enumerate(chunk)])
            index += len(chunk)
    assert caught.value.row == index + 2 - (1 if len(chunks) == 2 else 0)


def test_submission_is_recorded(store):
    """Intent, upload and the provider's id, in that order; the batch follows its parts."""
    made = new_batch(store, parts=2)
    first, second = made.parts
    store.record_upload(first.id, "file-1")
    assert store.record_intent(first.id, NOW)
    assert not store.record_intent(first.id, NOW)
    store.record_submitted(first.id, state(BatchStatus.PENDING, "p1", expires_at=NOW + timedelta(days=1)), NOW)
    found = store.get_batch("b1")
    assert found.parts[0].status is BatchStatus.SUBMITTED
    assert (found.parts[0].input_ref, found.parts[0].provider_batch_id) == ("file-1", "p1")
    assert found.submitted_at == NOW
    assert not store.record_intent(first.id, NOW)
    store.clear_intent(first.id, NOW)
    assert store.get_batch("b1").parts[0].intent_at == NOW
    assert store.known_provider_ids(["p1", "p2"]) == {"p1"}
    (waiting,) = store.waiting_parts(["b1"])
    assert (waiting.batch_id, waiting.id, waiting.number) == ("b1", first.id, 0)
    assert (waiting.provider_batch_id, waiting.intent_at) == ("p1", NOW)
    store.record_intent(second.id, NOW)
    store.clear_intent(second.id, NOW)
    assert store.get_batch("b1").parts[1].intent_at is None


def test_one_provider_batch_belongs_to_one_part(store):
    """Two parts can never be the same batch job."""
    made = new_batch(store, parts=2)
    store.record_submitted(made.parts[0].id, state(provider_batch_id="p1"), NOW)
    with pytest.raises(StoreError):
        store.record_submitted(made.parts[1].id, state(provider_batch_id="p1"), NOW)


def test_a_part_found_twice_is_submitted_once(store):
    """Two who looked up the same lost create agree; another id is refused and named."""
    made = new_batch(store)
    store.record_submitted(made.parts[0].id, state(provider_batch_id="p1"), NOW)
    store.record_submitted(made.parts[0].id, state(provider_batch_id="p1"), NOW + timedelta(hours=1))
    assert store.get_batch("b1").parts[0].submitted_at == NOW
    with pytest.raises(InvalidBatchError, match="p2 was created as well and is not used"):
        store.record_submitted(made.parts[0].id, state(provider_batch_id="p2"), NOW)


def test_statuses_only_move_forward(store):
    """A late answer of the provider does not take a terminal part back; the batch is terminal when all parts are."""
    made = new_batch(store, parts=2)
    first, second = made.parts
    for part, name in ((first, "p1"), (second, "p2")):
        store.record_submitted(part.id, state(provider_batch_id=name), NOW)
    counts = Counts(3, 3, 0)
    ended = state(BatchStatus.ENDED, "p1", counts=counts, refs={"output_file_id": "f"})
    assert store.record_states({first.id: ended}, NOW) == []
    assert store.get_batch("b1").status is BatchStatus.IN_PROGRESS
    store.record_states({first.id: state(BatchStatus.IN_PROGRESS, "p1")}, NOW)
    failed = state(BatchStatus.FAILED, "p2", error="no quota")
    assert store.record_states({second.id: failed}, NOW) == ["b1"]
    found = store.get_batch("b1")
    assert [part.status for part in found.parts] == [BatchStatus.ENDED, BatchStatus.FAILED]
    assert (found.parts[0].counts, found.parts[0].refs) == (counts, {"output_file_id": "f"})
    assert found.status.is_terminal
    assert (found.error, found.ended_at) == ("no quota", NOW)
    assert store.statuses(["b1", "nope"]) == {"b1": found.status}
    assert store.waiting_parts(["b1"]) == []


def running(store, count, parts=1):
    """Batches that run at the provider, and their parts by the provider's id."""
    found = {}
    for number in range(count):
        for part in new_batch(store, f"b{number}", claim=None, parts=parts, per_part=1).parts:
            name = f"p{number}-{part.number}"
            store.record_submitted(part.id, state(provider_batch_id=name), NOW)
            found[name] = part.id
    return found


def test_progress_of_many_is_noted_at_once(store, monkeypatch):
    """More states than one statement takes are written together, each to its own part; the ended batches are told."""
    monkeypatch.setattr("airflow_raif.store.records.CHUNK", 4)
    ids = running(store, 11, parts=2)
    later = NOW + timedelta(minutes=1)
    said = {
        part_id: state(
            BatchStatus.ENDED if number % 3 == 0 else BatchStatus.IN_PROGRESS, name, counts=Counts(1, number, 0)
        )
        for number, (name, part_id) in enumerate(ids.items())
    }
    said |= {part_id: state(BatchStatus.ENDED, name) for name, part_id in ids.items() if name.startswith("p5-")}
    assert store.record_states(said, later) == ["b5"]
    for number, (name, part_id) in enumerate(ids.items()):
        batch = store.get_batch(f"b{number // 2}")
        part = batch.parts[number % 2]
        assert (part.id, part.provider_batch_id, part.polled_at) == (part_id, name, later)
        assert (part.status, part.counts) == (said[part_id].status, said[part_id].counts)
        assert batch.status is (BatchStatus.ENDED if batch.batch_id == "b5" else BatchStatus.IN_PROGRESS)
    names = [f"b{number}" for number in range(11)]
    assert set(store.statuses([*names, "nope"])) == set(names)
    waiting = {part.id for part in store.waiting_parts(names)}
    assert waiting == {part_id for part_id, told in said.items() if told.status is BatchStatus.IN_PROGRESS}


def test_a_state_that_is_silent_takes_nothing_away(store):
    """What a later state does not mention stays; the time of the last look moves on although nothing changed."""
    (part_id,) = running(store, 1).values()
    expires = NOW + timedelta(days=1)
    told = state(counts=Counts(3, 1, 0), refs={"input_file_id": "f"}, error="slow", error_code="c", expires_at=expires)
    store.record_states({part_id: told}, NOW)
    for minutes in (1, 2):
        store.record_states({part_id: state()}, NOW + timedelta(minutes=minutes))
    (part,) = store.get_batch("b0").parts
    assert (part.counts, part.refs, part.expires_at) == (Counts(3, 1, 0), {"input_file_id": "f"}, expires)
    assert (part.error, part.error_code) == ("slow", "c")
    assert part.polled_at == NOW + timedelta(minutes=2)


def test_a_batch_that_another_process_saw_end_is_told_again(store):
    """Whoever comes second with an end learns that the batch is over, and changes nothing of it."""
    (part_id,) = running(store, 1).values()
    store.record_states({part_id: state(BatchStatus.ENDED, counts=Counts(1, 1, 0))}, NOW)
    later = NOW + timedelta(hours=1)
    assert store.record_states({part_id: state(BatchStatus.CANCELED, counts=Counts(1, 0, 0))}, later) == ["b0"]
    batch = store.get_batch("b0")
    assert (batch.status, batch.ended_at) == (BatchStatus.ENDED, NOW)
    assert (batch.parts[0].counts, batch.parts[0].polled_at) == (Counts(1, 1, 0), NOW)


@pytest.mark.parametrize("read", [lambda s: s.get_batch("b1"), lambda s: s.find_by_claim(CLAIM)], ids=["id", "claim"])
def test_a_batch_is_read_at_one_moment(store, url, read):
    """What another process writes meanwhile is seen in the batch and its parts, or in neither."""
    made, other, ended = new_batch(store), Store.open(url), []
    store.record_submitted(made.parts[0].id, state(), NOW)

    @event.listens_for(store._engine, "after_cursor_execute")
    def come_between(_connection, _cursor, statement, *_):
        if statement.startswith("SELECT raif_batch") and not ended:
            ended.extend(other.record_states({made.parts[0].id: state(BatchStatus.CANCELED)}, NOW))

    for status in (BatchStatus.IN_PROGRESS, BatchStatus.CANCELED):
        found = read(store)
        assert (found.status, found.parts[0].status) == (status, status)
    assert ended == ["b1"]
    other.close()


def test_odd_words_of_a_provider_fit(store):
    """A status word or an error code of any length, or with a NUL, does not stop what else is written with it."""
    odd, good = running(store, 2).values()
    word = "\0status" * 100
    said = PartState(
        provider_batch_id="p0-0", status=BatchStatus.IN_PROGRESS, raw_status=word, error_code=word, error=word
    )
    store.record_states({odd: said, good: state(provider_batch_id="p1-0", counts=Counts(1, 1, 0))}, NOW)
    assert store.get_batch("b0").parts[0].raw_status.startswith("statusstatus")
    assert store.get_batch("b1").parts[0].counts == Counts(1, 1, 0)


def test_two_who_write_the_same_parts_do_not_block_each_other(store):
    """A triggerer and a sweep that note the same states at once both come through."""
    ids = list(running(store, 40).items())
    said = {part_id: state(provider_batch_id=name, counts=Counts(1, 0, 0)) for name, part_id in ids}
    backwards = dict(reversed(said.items()))
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(store.record_states, each, NOW) for each in (said, backwards) * 10]
        assert [each.result() for each in done] == [[]] * 20


def test_outcomes_are_written_once(store):
    """A second outcome of an entry, or one from another part, changes nothing."""
    made = new_batch(store, parts=2)
    bad = outcome(2, status="failed", reason="errored", error="e" * 900, usage=None, cost=Cost())
    assert store.record_outcomes(made, [outcome(0), outcome(1), bad]) == 3
    assert store.record_outcomes(made, [outcome(0, status="failed", reason="errored"), outcome(3, part=0)]) == 0
    assert store.fail_without_result(made, made.parts[1], "expired", "the window closed", is_repeatable=True) == 3
    counts = store.count_entries(made)
    assert (counts.pending, counts.completed, counts.failed) == (0, 2, 4)
    assert counts.reasons == {"errored": 1, "expired": 3}
    pages = list(store.iter_entries(made, size=4))
    assert [len(page) for page in pages] == [4, 2]
    entries = [entry for page in pages for entry in page]
    assert [entry.custom_id for entry in entries] == [f"id {n}" for n in range(6)]
    assert len(entries[2].error) == 500
    assert (entries[1].result_offset, entries[1].result_length, entries[1].batch_cost) == (100, 99, 1_000_000)


@pytest.mark.parametrize("at_once", [True, False])
def test_of_several_outcomes_the_best_one_stays(store, at_once):
    """An answer beats a failure, and one that was paid for beats one that was not, whichever comes first."""
    made = new_batch(store)
    bad = {"status": "failed", "reason": "errored", "usage": None, "cost": Cost(), "error": "no"}
    cut = {"status": "failed", "reason": "truncated", "error": "cut"}
    written = [
        outcome(0, **bad), outcome(0, offset=7), outcome(0, **bad), outcome(0, **cut),
        outcome(1, **bad), outcome(1, offset=8, **cut), outcome(1, **bad),
        outcome(2, **cut), outcome(2, offset=9), outcome(2, **cut),
    ]  # fmt: skip
    chunks = [written] if at_once else [[each] for each in written]
    assert sum(store.record_outcomes(made, chunk) for chunk in chunks) == 3
    ((first, second, third),) = store.iter_entries(made)
    assert [first.status, second.status, third.status] == ["completed", "failed", "completed"]
    assert [first.result_offset, second.result_offset, third.result_offset] == [7, 8, 9]
    assert (first.error, second.reason, second.error, second.batch_cost) == (None, "truncated", "cut", 1_000_000)


def test_what_was_paid_for_stays_while_its_repetitions_bring_nothing(store):
    """Round after round; only the last one's reason is told."""
    made = new_batch(store)
    store.record_outcomes(made, [outcome(0), outcome(1, status="failed", reason="truncated", offset=5), outcome(2)])
    for number in (1, 2, 3):
        store.mark_part_fetched(made, made.parts[-1], NOW)
        made = store.mark_fetched(made, NOW)
        new = NewPart(number=number, round=number, model="m", request_count=1, request_bytes=9)
        assert store.open_round(made, [new], [[(1, number, 0, 9)]])
        made = store.get_batch("b1")
        bad = outcome(1, number, status="failed", reason="errored", usage=None, cost=Cost(), is_repeatable=True)
        assert number == 2 or store.record_outcomes(made, [bad]) == 1
        store.fail_without_result(made, made.parts[number], "missing", "lost", is_repeatable=True)
    entry = next(store.iter_entries(made))[1]
    assert (entry.status, entry.reason, entry.result_part, entry.result_offset) == ("failed", "errored", 0, 5)
    assert entry.batch_cost == 1_000_000


def test_hostile_text_of_a_provider_is_kept(store):
    """A NUL in an error message, which PostgreSQL cannot hold, stops nothing."""
    made = new_batch(store)
    written = store.record_outcomes(made, [outcome(0, status="failed", reason="errored", error="a\x00b'; DROP TABLE")])
    assert written == 1
    store.fail_without_result(made, made.parts[0], "missing", "x\x00y", is_repeatable=True)
    texts = [entry.error for page in store.iter_entries(made) for entry in page]
    assert texts == ["ab'; DROP TABLE", "xy", "xy"]
    store.record_submitted(made.parts[0].id, state(), NOW)
    store.record_states({made.parts[0].id: state(BatchStatus.FAILED, error="bad\x00news")}, NOW)
    assert store.get_batch("b1").error == "badnews"


def test_sums_are_exact(store):
    """Usage and cost of a batch are the sums of its entries, in picodollars; unknown stays unknown."""
    made = new_batch(store)
    store.record_outcomes(made, [outcome(0), outcome(1, cost=Cost(10**15, 2 * 10**15, True))])
    store.mark_part_fetched(made, made.parts[0], NOW)
    found = store.mark_fetched(made, NOW)
    assert found.usage == Usage(20, 4, 0, 10, 2)
    assert found.cost == Cost(10**15 + 1_000_000, 2 * 10**15 + 2_000_000, True)
    assert found.results_fetched_at == NOW
    assert found.parts[0].results_fetched_at == NOW
    other = new_batch(store, "b2", claim=None)
    store.record_outcomes(other, [outcome(0, usage=None, cost=Cost())])
    store.mark_part_fetched(other, other.parts[0], NOW)
    assert store.mark_fetched(other, NOW).cost == Cost()


def test_stamps_are_set_once(store):
    """What happened first stays."""
    made = new_batch(store)
    store.mark_part_fetched(made, made.parts[0], NOW)
    later = NOW + timedelta(hours=1)
    assert store.mark_fetched(made, NOW).results_fetched_at == NOW
    fetched = store.mark_fetched(made, later)
    assert fetched.results_fetched_at == NOW
    assert store.mark_applied(fetched, "file:///a", NOW)
    assert store.mark_applied(fetched, "file:///b", later)
    found = store.get_batch("b1")
    assert (found.applied_at, found.result_uri) == (NOW, "file:///b")


def test_discard(store):
    """A batch that is not whole can go; one that is, or that may have been paid, cannot."""
    half_made(store)
    assert store.discard_batch("b1")
    assert not store.discard_batch("b1")
    assert store.find_by_claim(CLAIM) is None
    made = half_made(store)
    part = store.add_part(made, NewPart(number=0, model="m", request_count=1, request_bytes=1))
    store.record_intent(part.id, NOW)
    assert not store.discard_batch("b1")
    new_batch(store, "b2", claim=None)
    assert not store.discard_batch("b2")
    assert {store.get_batch(each).batch_id for each in ("b1", "b2")} == {"b1", "b2"}


def test_a_discarded_batch_takes_nothing_more(store):
    """An attempt that was taken for dead writes into no other's batch, also where the row's key is used again."""
    old = half_made(store, "b0")
    store.discard_batch("b0")
    new = half_made(store, "b1")
    for write in (
        lambda: store.add_part(old, NewPart(number=0, model="m", request_count=1, request_bytes=1)),
        lambda: store.add_entries(old, [(0, "a", 0, 0, 1, None)]),
        lambda: store.finish_spooling(old, fingerprint="f", request_count=1, at=NOW),
    ):
        with pytest.raises(AttemptLostError):
            write()
    assert store.count_entries(new).pending == 0
    assert store.get_batch("b1") == new


def test_what_was_applied_before_a_round_is_not_all(store):
    """A stamp by somebody who read the batch before a round was opened does not count."""
    made = new_batch(store)
    store.record_outcomes(made, [outcome(0, status="failed", reason="missing", is_repeatable=True)])
    store.mark_part_fetched(made, made.parts[0], NOW)
    before = store.mark_fetched(made, NOW)
    assert store.open_round(before, [NewPart(number=1, round=1, model="m", request_count=1, request_bytes=1)], [])
    assert not store.mark_applied(before, "file:///a", NOW)
    assert store.get_batch("b1").applied_at is None


def test_tables_that_are_up_to_date_are_found_so_without_a_word(url, caplog):
    """Every task looks; what Alembic thinks of the database is no news to its author."""
    migrate.upgrade(url)
    caplog.clear()
    with caplog.at_level("DEBUG", logger="alembic"):
        migrate.upgrade(url)
        assert migrate.current_revision(url) == migrate.head_revision()
    assert not [record for record in caplog.records if record.name.startswith("alembic")]


def test_tables_of_a_newer_version_are_told_as_such(url):
    """One component that was upgraded before the others; Alembic would say that it cannot locate something."""
    migrate.upgrade(url)
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StoreNotReadyError, match="at revision 9999, which this version of airflow_raif does not know"):
        migrate.upgrade(url)
    engine.dispose()


def test_migrations_make_the_tables_that_the_code_uses(url):
    """The migrated schema and the tables' metadata are the same, and an upgrade may be repeated."""
    assert migrate.current_revision(url) is None
    migrate.upgrade(url)
    migrate.upgrade(url)
    assert migrate.current_revision(url) == migrate.head_revision()
    engine = create_engine(parse_url(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    migrate.drop(url)
    assert migrate.current_revision(url) is None


def test_unmigrated_database_says_what_to_run(url):
    """A task never creates tables in a database that is not the embedded file."""
    with pytest.raises(StoreNotReadyError, match="has no tables of raif yet; run `airflow db migrate`") as caught:
        Store.open(url)
    assert "not-a-secret" not in str(caught.value)


def test_database_of_another_revision(url):
    """A newer or older schema is refused by name."""
    migrate.upgrade(url)
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(StoreNotReadyError, match="is at revision 9999, not"):
        Store.open(url)


START = """
import sys
from airflow_raif.store import Store, migrate
url = sys.argv[1]
if sys.argv[2] == "server":
    migrate.upgrade(url)
store = Store.open(url, embedded=sys.argv[2] == "embedded")
store.statuses(["x"])
"""


@pytest.mark.parametrize("kind", ["embedded", pytest.param("server", marks=pytest.mark.postgres)])
def test_several_processes_start_at_once(kind, request, tmp_path):
    """Six processes open, or migrate, one empty database together: all succeed."""
    address = f"sqlite:///{tmp_path}/raif.db" if kind == "embedded" else request.getfixturevalue("server_url")
    running = [
        subprocess.Popen([sys.executable, "-c", START, address, kind], stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 6, errors


@pytest.mark.postgres
def test_server_that_is_away():
    """No answer is a retryable error that names the address without its password."""
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:9.*does not answer") as caught:
        Store.open("postgresql://u:top-secret@127.0.0.1:9/raif")
    assert "top-secret" not in str(caught.value)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("address", "message"),
    [("nonsense", "is not a database URL"), ("mysql://u:p@h/d", "runs on PostgreSQL or SQLite, not on 'mysql'")],
)
def test_wrong_addresses(address, message):
    """What the store does not speak is refused with what it does."""
    with pytest.raises(ConfigurationError, match=message):
        Store.open(address)


def test_postgres_without_its_driver(monkeypatch):
    """The missing extra is named."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'airflow-raif\[postgres\]'"):
        Store.open("postgres://h/d")


def test_broken_embedded_file(tmp_path):
    """A file that is no database is an error with its name."""
    path = tmp_path / "raif.db"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"raif\.db"):
        Store.open(f"sqlite:///{path}", embedded=True)


@pytest.mark.postgres
def test_a_server_that_comes_back_is_waited_for(postgres_home):
    """A restart of the database costs a pause, and no transaction that had not begun."""
    home = postgres_home / "restarted"
    home.mkdir()
    server = PostgresServer(home)
    server.start()
    try:
        url = server.create_database()
        migrate.upgrade(url)
        opened = Store.open(url, wait_seconds=60)
        new_batch(opened)
        for how in (signal.SIGINT, signal.SIGQUIT):
            server.stop(how)
            restart = threading.Timer(1.5, server.start)
            restart.start()
            assert opened.get_batch("b1").batch_id == "b1"
            restart.join()
        opened.close()
    finally:
        server.stop()


@pytest.mark.postgres
def test_a_frozen_process_does_not_stop_the_others(server_url, monkeypatch):
    """What it locked is free after a while, and its own transaction comes to nothing."""
    monkeypatch.setattr("airflow_raif.store.engine.FROZEN_SECONDS", 1)
    migrate.upgrade(server_url)
    frozen, opened = make_engine(parse_url(server_url)), Store.open(server_url)
    made = new_batch(opened)
    with (
        pytest.raises(StoreUnavailableError, match="idle-in-transaction"),
        store_errors(frozen.url),
        frozen.begin() as connection,
    ):
        connection.execute(text("UPDATE raif_batch SET error = 'of the frozen one'"))
        opened.mark_part_fetched(made, made.parts[0], NOW)
        assert opened.mark_fetched(made, NOW).results_fetched_at == NOW
    assert (found := opened.get_batch("b1")).results_fetched_at == NOW
    assert found.error is None
    frozen.dispose()
    opened.close()


def test_a_store_that_stays_away_is_told(tmp_path):
    """After its time the error says where the store is, and that a retry may help."""
    with pytest.raises(StoreUnavailableError, match="127.0.0.1:9/raif does not answer") as told:
        Store.open("postgresql://u:secret@127.0.0.1:9/raif", wait_seconds=1)
    assert told.value.retryable
    assert "secret" not in str(told.value)
