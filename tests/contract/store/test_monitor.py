"""What pages read of the store, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from alembic import command
from sqlalchemy import text

from airflow_raif.domain.batch import Claim, Counts, EntryOutcome, PartState
from airflow_raif.domain.status import BatchStatus, EntryStatus, FailureReason
from airflow_raif.domain.usage import Cost, Usage
from airflow_raif.store import (
    BatchTally,
    CostFilter,
    CostGroup,
    EntriesWanted,
    FailureGroup,
    NewBatch,
    NewPart,
    PageWanted,
    Store,
    Visible,
    Wanted,
    migrate,
)
from airflow_raif.store.engine import make_engine, parse_url
from airflow_raif.store.listing import Cursor
from airflow_raif.store.migrate import alembic_config

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ALL = Visible(None, None)
FIRST = PageWanted()


def made(store, name, *, dag_id="dag", model="m", provider="openai", conn_id="c", at=NOW, parts=1, rows=4):
    """A batch whose rows are spooled."""
    batch = store.create_batch(
        NewBatch(
            batch_id=name, provider=provider, conn_id=conn_id, model=model, endpoint="/e",
            claim=dag_id and Claim(dag_id, f"run {name}", "ask"), spool_uri="file:///s", output_schema=None,
            metadata={}, created_at=at,
        )
    )  # fmt: skip
    for number in range(parts):
        start = number * rows
        store.add_entries(batch, [(n, f"id {n}", number, n * 10, 9, None) for n in range(start, start + rows)])
        store.add_part(batch, NewPart(number=number, model=model, request_count=rows, request_bytes=30))
    store.finish_spooling(batch, fingerprint="f", request_count=parts * rows, at=at)
    return store.get_batch(name)


def run(store, batch, status=BatchStatus.IN_PROGRESS, at=NOW, counts=None):
    """Let the provider say of every part what it is."""
    for part in store.get_batch(batch.batch_id).parts:
        if part.provider_batch_id is None and not part.is_shared:
            name = f"{batch.batch_id}-{part.number}"
            store.record_submitted(
                part.id, PartState(provider_batch_id=name, status=BatchStatus.SUBMITTED, raw_status="x"), at
            )
    found = store.get_batch(batch.batch_id)
    store.record_states(
        {
            part.id: PartState(
                provider_batch_id=part.provider_batch_id, status=status, raw_status=status.value, counts=counts
            )
            for part in found.parts
            if not part.is_shared
        },
        at,
    )
    return store.get_batch(batch.batch_id)


def fetch(store, batch, failed=None, cost=1000, at=NOW, numbers=(0,)):
    """Bring the results of parts in, some of them failed."""
    failed = failed or {}
    for part in store.get_batch(batch.batch_id).parts:
        if part.number not in numbers:
            continue
        rows = [entry for page in store.iter_entries(batch) for entry in page if entry.status == "pending"]
        outcomes = [
            EntryOutcome(
                index=row.index, status="failed" if row.index in failed else "completed",
                reason=failed.get(row.index), part_number=part.number, offset=row.index,
                length=5, usage=Usage(10, 2, 0, 5, 1), cost=Cost(cost, 2 * cost),
                error="no" if row.index in failed else None,
            )
            for row in rows
        ]  # fmt: skip
        store.record_outcomes(batch, outcomes)
        store.mark_part_fetched(batch, part, at)
    return store.mark_fetched(store.get_batch(batch.batch_id), at)


def names(page):
    return [batch.batch_id for batch in page.batches]


def test_outcomes_are_counted_as_parts_come_in_and_as_rounds_open(store):
    """Completed and failed follow what was fetched; what goes out again is pending until it is back."""
    batch = run(store, made(store, "b", parts=2), BatchStatus.ENDED)
    batch = fetch(store, batch, failed={1: "errored", 2: "expired"}, numbers=[0])
    assert (batch.completed_count, batch.failed_count) == (2, 2)
    batch = fetch(store, batch, numbers=[1])
    assert (batch.completed_count, batch.failed_count) == (6, 2)
    new = NewPart(number=2, round=1, model="m", request_count=1, request_bytes=9)
    assert store.open_round(batch, [new], [[(2, 2, 0, 9)]])
    batch = store.get_batch("b")
    assert (batch.completed_count, batch.failed_count) == (6, 1)
    batch = fetch(store, run(store, batch, BatchStatus.ENDED), numbers=[2])
    assert (batch.completed_count, batch.failed_count) == (7, 1)
    counts = store.count_entries(batch)
    assert (counts.completed, counts.failed) == (7, 1)


def test_rows_that_take_answers_of_others_are_counted_with_them(store):
    """Those of earlier batches at once, duplicates once the row is back that is sent for them."""
    batch = store.create_batch(
        NewBatch(
            batch_id="b", provider="openai", conn_id="c", model="m", endpoint="/e", claim=None, spool_uri="file:///s",
            output_schema=None, metadata={}, created_at=NOW,
        )
    )  # fmt: skip
    shared = [(3, "same as 0", 1, 0, 9, b"h", 0, None, None, None), (4, "known", 1, 9, 9, b"k", None, 1, 0, 5)]
    store.add_entries(batch, [(n, f"id {n}", 0, n * 10, 9, None) for n in range(3)], shared)
    store.add_part(batch, NewPart(number=0, model="m", request_count=3, request_bytes=30))
    store.add_part(batch, NewPart(number=1, model="", request_count=2, request_bytes=18, shared_at=NOW))
    store.finish_spooling(batch, fingerprint="f", request_count=5, at=NOW)
    batch = store.get_batch("b")
    assert (batch.completed_count, batch.failed_count) == (1, 0)
    batch = run(store, batch, BatchStatus.ENDED)
    store.record_outcomes(
        batch,
        [
            EntryOutcome(n, "failed" if n == 2 else "completed", "errored" if n == 2 else None, 0, n, 5, None, Cost())
            for n in range(3)
        ],
    )
    store.hand_on_outcomes(batch, store.get_batch(batch.batch_id).parts[0])
    store.mark_part_fetched(batch, batch.parts[0], NOW)
    batch = store.get_batch("b")
    assert (batch.completed_count, batch.failed_count) == (4, 1)
    assert batch.parts[0].completed_count == 2


def test_parts_that_are_fetched_at_the_same_time_are_all_counted(store):
    """Whoever stamps a part later sees what the others stamped."""
    batch = run(store, made(store, "b", parts=4), BatchStatus.ENDED)
    for number in range(4):
        start = 4 * number
        rows = range(start, start + 4)
        store.record_outcomes(
            batch,
            [EntryOutcome(n, "completed", None, number, n, 5, None, Cost()) for n in rows],
        )
    threads = [threading.Thread(target=store.mark_part_fetched, args=(batch, part, NOW)) for part in batch.parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get_batch("b").completed_count == 16


def test_first_progress_is_noted_once(store):
    """When the provider first tells of a request that is done, not of one that waits."""
    batch = run(store, made(store, "b"), counts=Counts(4, 0, 0))
    assert batch.parts[0].progressed_at is None
    later = NOW + timedelta(minutes=5)
    assert run(store, batch, at=later, counts=Counts(4, 1, 0)).parts[0].progressed_at == later
    latest = later + timedelta(minutes=5)
    assert run(store, batch, at=latest, counts=Counts(4, 3, 0)).parts[0].progressed_at == later


def test_only_what_may_be_seen_is_listed_and_counted(store):
    """By Dag; and what no Dag made, by its connection."""
    made(store, "a", dag_id="one")
    made(store, "b", dag_id="two")
    made(store, "c", dag_id=None, conn_id="mine")
    made(store, "d", dag_id=None, conn_id="other")
    assert store.owners() == ({"one", "two"}, {"mine", "other"})
    for visible, expected in (
        (ALL, "dcba"),
        (Visible(frozenset(["one"]), frozenset(["mine"])), "ca"),
        (Visible(None, frozenset()), "ba"),
        (Visible(frozenset(), None), "dc"),
        (Visible(), ""),
    ):
        assert names(store.list_batches(visible, Wanted(), FIRST)) == list(expected)
        assert sum(store.count_batches(visible, Wanted()).values()) == len(expected)


def test_pages_follow_each_other_in_every_order(store):
    """Forth and back again, each batch once, those that are equal too."""
    for number in range(7):
        batch = made(store, f"b{number}", rows=2 + number % 3)
        if number % 2:
            failed = dict.fromkeys(range(number % 3), "errored")
            fetch(store, run(store, batch, BatchStatus.ENDED), failed=failed, cost=number % 4)
    for order in ("created", "cost", "rows", "failed"):
        for is_ascending in (False, True):
            _walk(store, order, is_ascending=is_ascending)


def _walk(store, order, *, is_ascending):
    at = PageWanted(order=order, is_ascending=is_ascending, size=100)
    everything = names(store.list_batches(ALL, Wanted(), at))
    assert len(everything) == 7
    seen, after, pages = [], None, []
    while True:
        page = store.list_batches(
            ALL, Wanted(), PageWanted(order=order, is_ascending=is_ascending, size=3, after=after)
        )
        pages.append(page)
        seen += names(page)
        after = page.after
        if after is None:
            break
    assert seen == everything
    assert (len(pages), pages[0].before) == (3, None)
    back = PageWanted(order=order, is_ascending=is_ascending, size=3, before=pages[-1].before)
    assert names(store.list_batches(ALL, Wanted(), back)) == names(pages[1])


FILTERS = [
    (Wanted(statuses=(BatchStatus.ENDED,)), ["nightly"]),
    (Wanted(statuses=(BatchStatus.PENDING, BatchStatus.IN_PROGRESS)), ["other", "hourly"]),
    (Wanted(provider="gemini"), ["other"]),
    (Wanted(model="100%_sure"), ["hourly"]),
    (Wanted(dag_id="Hourly"), ["hourly"]),
    (Wanted(run_id="run nightly"), ["nightly"]),
    (Wanted(task_id="ask", map_index=-1), ["other", "hourly", "nightly"]),
    (Wanted(map_index=3), []),
    (Wanted(has_failures=True), ["nightly"]),
    (Wanted(created_from=NOW), ["other", "hourly"]),
    (Wanted(created_before=NOW), ["nightly"]),
    (Wanted(text="HOUR"), ["hourly"]),
    (Wanted(text="100%"), ["hourly"]),
    (Wanted(text="%"), ["hourly"]),
    (Wanted(text="run night"), ["nightly"]),
    (Wanted(text="oth"), ["other"]),
    (Wanted(text="nightly-0"), ["nightly"]),
    (Wanted(text="nothing like it"), []),
]


def test_filters_and_search(store):
    """Each narrows by itself; signs that mean something in SQL are taken as they are."""
    batch = made(store, "nightly", dag_id="nightly_dag", at=NOW - timedelta(days=1))
    fetch(store, run(store, batch, BatchStatus.ENDED), failed={0: "errored"})
    run(store, made(store, "hourly", dag_id="Hourly", model="100%_sure"))
    made(store, "other", dag_id="third", provider="gemini")
    for wanted, expected in FILTERS:
        assert names(store.list_batches(ALL, wanted, FIRST)) == expected, wanted


def test_a_listed_batch_tells_its_progress(store):
    """What the provider's counters say is summed over the parts that were not fetched."""
    batch = run(store, made(store, "b", parts=2), counts=Counts(4, 2, 1))
    (listed,) = store.list_batches(ALL, Wanted(), FIRST).batches
    assert (listed.part_count, listed.spooled_count, listed.told_count, listed.is_canceling) == (2, 8, 6, False)
    store.request_cancel(batch, NOW)
    assert store.list_batches(ALL, Wanted(), FIRST).batches[0].is_canceling
    fetch(store, run(store, batch, BatchStatus.ENDED, counts=Counts(4, 3, 1)), numbers=[0])
    (listed,) = store.list_batches(ALL, Wanted(), FIRST).batches
    assert (listed.told_count, listed.completed_count, listed.is_canceling) == (4, 4, False)


def test_a_batch_of_which_one_part_stops_is_not_stopping(store):
    """As the batch itself says: somebody stopped that one at the provider."""
    batch = run(store, made(store, "b", parts=2))
    stopped, other = batch.parts
    for part, word, expected in ((stopped, "cancelling", False), (other, "cancelling", True)):
        state = PartState(provider_batch_id=part.provider_batch_id, status=BatchStatus.IN_PROGRESS, raw_status=word)
        store.record_states({part.id: state}, NOW)
        (listed,) = store.list_batches(ALL, Wanted(), FIRST).batches
        assert listed.is_canceling is store.get_batch("b").is_canceling is expected
    fetch(store, run(store, batch, BatchStatus.CANCELED), numbers=[0, 1])
    assert not store.list_batches(ALL, Wanted(), FIRST).batches[0].is_canceling


def test_entries_by_outcome_and_in_pages(store):
    """In input order, forth and back, by status, reason, part and custom_id."""
    batch = run(store, made(store, "b", parts=2, rows=5), BatchStatus.ENDED)
    fetch(store, batch, failed={1: "errored", 3: "refused", 4: "errored"}, numbers=[0])

    def found(**wanted):
        entries, has_previous, has_next = store.list_entries(batch, EntriesWanted(**wanted))
        return [entry.index for entry in entries], has_previous, has_next

    assert found(size=4) == ([0, 1, 2, 3], False, True)
    assert found(size=4, start=8) == ([8, 9], True, False)
    assert found(size=4, before=8) == ([4, 5, 6, 7], True, True)
    assert found(size=4, before=3) == ([0, 1, 2], False, True)
    assert found(status=EntryStatus.FAILED)[0] == [1, 3, 4]
    assert found(reason=FailureReason.ERRORED, start=2) == ([4], True, False)
    assert found(reason=FailureReason.REFUSED, start=2) == ([3], False, False)
    assert found(status=EntryStatus.PENDING, part_number=1)[0] == [5, 6, 7, 8, 9]
    assert found(custom_id="id 7")[0] == [7]
    assert found(custom_id="id")[0] == []
    entry = store.find_entry(batch, 3)
    assert (entry.reason, entry.error, entry.result_part, entry.cost) == (
        FailureReason.REFUSED,
        "no",
        0,
        Cost(1000, 2000),
    )
    assert store.find_entry(batch, 10) is None
    assert store.find_entry(batch, 7).usage is None


def test_failures_are_grouped_by_reason_and_message(store, monkeypatch):
    """The most frequent first; of very many the messages of the first ones are counted, and that is said."""
    batch = run(store, made(store, "b", rows=9), BatchStatus.ENDED)
    fetch(store, batch, failed=dict.fromkeys(range(6), "errored") | {6: "refused"})
    failures = store.failures_of(batch)
    assert failures.reasons == {FailureReason.ERRORED: 6, FailureReason.REFUSED: 1}
    assert failures.groups == [
        FailureGroup(FailureReason.ERRORED, "no", 6),
        FailureGroup(FailureReason.REFUSED, "no", 1),
    ]
    assert not failures.is_sample
    monkeypatch.setattr("airflow_raif.store.entry_listing.COUNTED_MESSAGES", 3)
    sampled = store.failures_of(batch)
    assert sampled.is_sample
    assert sampled.reasons == failures.reasons
    assert sum(group.count for group in sampled.groups) == 3


def test_what_is_usual_is_the_median_of_batches_that_ended(store):
    """By provider and model; those that still run, or were canceled, tell nothing."""
    for number, minutes in enumerate((1, 50, 10)):
        batch = run(store, made(store, f"b{number}"))
        run(store, batch, BatchStatus.ENDED, at=NOW + timedelta(minutes=minutes))
    run(store, made(store, "running", model="other"))
    run(store, made(store, "canceled"), BatchStatus.CANCELED, at=NOW + timedelta(days=1))
    assert store.usual_seconds() == {("openai", "m"): 600.0}


def test_costs_by_each_are_those_by_one(store):
    """All sums at once say what each says by itself."""
    for number in range(6):
        batch = made(
            store, f"b{number}", dag_id=f"dag {number % 2}" if number else None, model=f"m{number % 3}",
            provider="openai" if number % 2 else "gemini", at=NOW - timedelta(days=number % 3), parts=1 + number % 2,
        )  # fmt: skip
        fetch(store, run(store, batch, BatchStatus.ENDED), cost=number, numbers=[0])
    groups = [CostGroup.DAY, CostGroup.DAG, CostGroup.MODEL, CostGroup.PROVIDER]
    for wanted in (CostFilter(), CostFilter(since=NOW - timedelta(days=1), dag_ids=["dag 1"], conn_ids=[])):
        each = store.sum_costs_by_each(groups, wanted)
        for group in groups:
            by_one = sorted(store.sum_costs([group], wanted), key=lambda row: row.group[group.value] or "")
            assert each[group] == by_one
            assert by_one


def test_batches_are_added_up_by_provider_and_status(store):
    """All that may be seen, with the oldest's time."""
    fetch(store, run(store, made(store, "a"), BatchStatus.ENDED), failed={0: "errored"})
    fetch(store, run(store, made(store, "b", at=NOW - timedelta(hours=1)), BatchStatus.ENDED))
    made(store, "c", dag_id="other", provider="gemini")
    values = {"provider": "openai", "status": BatchStatus.ENDED, "batch_count": 2, "request_count": 8}
    ended = BatchTally(**values, completed_count=7, failed_count=1, oldest_at=NOW - timedelta(hours=1))
    assert store.tally_batches(Visible(frozenset(["dag"]), frozenset())) == [ended]
    assert [each.status for each in store.tally_batches(ALL)] == [BatchStatus.PENDING, BatchStatus.ENDED]
    assert store.tally_batches(Visible()) == []


def test_reading_keeps_nobody_from_writing(store):
    """A page that is being read holds no lock that a worker waits for."""
    batch = made(store, "b")
    with store._reading() as connection:
        assert connection.scalar(text("SELECT count(*) FROM raif_batch")) == 1
        run(store, batch)
        # It reads what was there when it began on SQLite, and what is there now on PostgreSQL; either way it goes on.
        assert connection.scalar(text("SELECT count(*) FROM raif_batch")) == 1
    assert store.get_batch("b").status is BatchStatus.IN_PROGRESS


def test_a_place_in_a_list_that_is_not_there_any_more(store):
    """A cursor beyond the end is an empty page, not an error."""
    made(store, "b")
    page = store.list_batches(ALL, Wanted(), PageWanted(after=Cursor(0, 0)))
    assert (page.batches, page.before, page.after) == ([], None, None)


def test_the_migration_counts_what_is_there(url):
    """Batches of before have their outcomes, too."""
    engine = make_engine(parse_url(url))
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0009")
        for statement in (
            """INSERT INTO raif_batch (id, batch_id, provider, conn_id, model, endpoint, status, spool_uri, metadata,
            created_at) VALUES (1, 'b', 'p', 'c', 'm', '/e', 'ended', 's', '{}', '2026-01-01 00:00:00')""",
            *(
                "INSERT INTO raif_part (batch_key, number, status, model, request_count, request_bytes, refs)"
                f" VALUES (1, {number}, 'ended', 'm', 3, 9, '{{}}')"
                for number in range(2)
            ),
            *(
                "INSERT INTO raif_entry (batch_key, idx, custom_id, status, part_number, request_offset,"
                f" request_length) VALUES (1, {index}, 'i{index}', '{status}', {index % 2}, 0, 9)"
                for index, status in enumerate(("completed", "failed", "completed", "completed", "pending"))
            ),
        ):
            connection.execute(text(statement))
    migrate.upgrade(url)
    store = Store.open(url)
    batch = store.get_batch("b")
    assert (batch.completed_count, batch.failed_count) == (3, 1)
    assert [part.completed_count for part in batch.parts] == [2, 1]
    store.close()
    engine.dispose()
