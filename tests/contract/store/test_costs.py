"""What batches cost, added up in the database, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from airflow_raif.domain.batch import Claim, EntryOutcome
from airflow_raif.domain.usage import Cost, Usage
from airflow_raif.store import CostFilter, CostGroup, NewBatch, NewPart

NIGHT = datetime(2026, 3, 4, 23, 30, tzinfo=UTC)
#: More than a float holds exactly.
PRICE = 9_007_199_254_740_993


def spent(store, batch_id, at=NIGHT, dag="nightly", models=("small",), provider="openai", cost=None, **usage):
    """Write a batch whose every row, one a model, was answered."""
    batch = store.create_batch(
        NewBatch(
            batch_id=batch_id, provider=provider, conn_id=f"{provider}_default", model=models[0], endpoint="/v1/x",
            claim=Claim(dag, batch_id, "ask") if dag else None, spool_uri="file:///s", output_schema=None, metadata={},
            created_at=at,
        )
    )  # fmt: skip
    for number, model in enumerate(models):
        store.add_entries(batch, [(number, f"row {number}", number, 0, 9, None)])
        store.add_part(batch, NewPart(number=number, model=model, request_count=1, request_bytes=9))
    store.finish_spooling(batch, fingerprint="f", request_count=len(models), at=at)
    batch = store.get_batch(batch_id)
    used = Usage(**{"input_tokens": 100, "cached_tokens": 40, "output_tokens": 10, **usage})
    for part in batch.parts:
        cost_of = Cost(PRICE, 2 * PRICE) if cost is None else cost
        outcome = EntryOutcome(part.number, "completed", None, part.number, 0, 9, used, cost_of)
        assert store.record_outcomes(batch, [outcome]) == 1
        store.mark_part_fetched(batch, part, at)
    return batch


def found(store, *by, **wanted):
    rows = store.sum_costs([CostGroup(each) for each in by], CostFilter(**wanted))
    return {tuple(row.group.values()): row for row in rows}


def test_by_day_in_utc(store):
    """Six in the morning in Hanoi is the day before there; days come in their order."""
    spent(store, "c", at=NIGHT + timedelta(days=2))
    spent(store, "b", at=datetime(2026, 3, 5, 6, tzinfo=timezone(timedelta(hours=7))))
    spent(store, "a")
    rows = found(store, "day")
    assert [(*key, row.batch_count) for key, row in rows.items()] == [("2026-03-04", 2), ("2026-03-06", 1)]


def test_money_and_tokens_are_exact(store):
    """Also where a float would be a picodollar off."""
    spent(store, "a", models=("small", "large"))
    spent(store, "b")
    (row,) = found(store).values()
    assert (row.group, row.batch_count, row.request_count) == ({}, 2, 3)
    assert row.cost == Cost(3 * PRICE, 6 * PRICE)
    assert row.usage == Usage(input_tokens=300, cached_tokens=120, output_tokens=30)


def test_by_model(store):
    """Money and rows are those of the model alone; a batch of two counts once, so that the counts add up."""
    spent(store, "a", models=("small", "large"))
    spent(store, "b")
    rows = found(store, "model")
    assert {key: (row.batch_count, row.request_count, row.cost.batch) for key, row in rows.items()} == {
        ("large",): (0, 1, PRICE),
        ("small",): (2, 2, 2 * PRICE),
    }
    assert found(store, model="large")[()].cost.batch == PRICE


def test_several_groups_at_once(store):
    """As a chart of stacked columns needs them; a batch that no task made has no Dag."""
    spent(store, "a", provider="anthropic")
    spent(store, "b", dag=None)
    rows = found(store, "dag", "provider", "connection")
    assert set(rows) == {("nightly", "anthropic", "anthropic_default"), (None, "openai", "openai_default")}


def test_an_unknown_price_is_told_and_never_zero(store):
    """Of a group with both, the sum holds what is known, and how many rows are missing in it."""
    spent(store, "a", cost=Cost(), models=("own",))
    (row,) = found(store).values()
    assert (row.cost, row.unpriced_count) == (Cost(), 1)
    spent(store, "b", cost=Cost(5, 10, is_estimated=True))
    (row,) = found(store).values()
    assert (row.cost, row.unpriced_count) == (Cost(5, 10, is_estimated=True), 1)


def test_what_was_not_answered_yet_costs_nothing_yet(store):
    """Its rows are counted; none of them lacks a price."""
    new = NewBatch(
        batch_id="a", provider="openai", conn_id="c", model="m", endpoint="/v1/x", claim=None, spool_uri="file:///s",
        output_schema=None, metadata={}, created_at=NIGHT,
    )  # fmt: skip
    batch = store.create_batch(new)
    assert found(store) == {}
    store.add_part(batch, NewPart(number=0, model="m", request_count=7, request_bytes=9))
    (row,) = found(store).values()
    assert (row.request_count, row.cost, row.unpriced_count) == (7, Cost(), 0)


@pytest.mark.parametrize(
    ("wanted", "batches"),
    [
        ({"since": NIGHT}, "bcd"),
        ({"until": NIGHT}, "a"),
        ({"since": NIGHT, "until": NIGHT + timedelta(seconds=1)}, "b"),
        ({"provider": "anthropic"}, "c"),
        ({"dag_ids": ["hourly"]}, "cd"),
        ({"dag_ids": ["hourly"], "conn_ids": []}, "c"),
        ({"dag_ids": [], "conn_ids": ["openai_default"]}, "d"),
        ({"dag_ids": [], "conn_ids": []}, ""),
        ({"conn_ids": []}, "abc"),
    ],
)
def test_filters(store, wanted, batches):
    """By time, and by whose they are: also who may see nothing gets an answer."""
    spent(store, "a", at=NIGHT - timedelta(seconds=1))
    spent(store, "b")
    spent(store, "c", at=NIGHT + timedelta(days=1), dag="hourly", provider="anthropic")
    spent(store, "d", at=NIGHT + timedelta(days=2), dag=None)
    rows = found(store, **wanted)
    assert sum(row.batch_count for row in rows.values()) == len(batches)


def test_entries_are_tallied_by_part_and_reason(store):
    """What a retry is priced by."""
    batch = spent(store, "a", models=("small", "large"))
    tally = store.tally_entries(batch)
    assert [(each.part_number, each.status, each.reason, each.count) for each in tally] == [
        (0, "completed", None, 1),
        (1, "completed", None, 1),
    ]
    assert (tally[0].request_bytes, tally[0].priced_count, tally[0].batch_cost) == (9, 1, PRICE)
    assert tally[0].standard_cost == 2 * PRICE
