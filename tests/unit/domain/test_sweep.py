"""What a batch needs of a sweep, and what is left to whoever is at work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.sweep import Need, SweepRules, lost_parts, needs_of, unsent_parts

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
FRESH, OLD = NOW - timedelta(hours=1), NOW - timedelta(hours=3)
RULES = SweepRules()
AGED = SweepRules(max_age=timedelta(hours=2))


def part(number=0, **values):
    return Part(id=number, number=number, model="m", request_count=1, request_bytes=1, **values)


def running(at, **values):
    return part(provider_batch_id="p", status=BatchStatus.IN_PROGRESS, intent_at=at, submitted_at=at, **values)


def ended(at, **values):
    return part(provider_batch_id="p", status=BatchStatus.ENDED, intent_at=OLD, submitted_at=OLD, ended_at=at, **values)


def batch(*parts, status=BatchStatus.IN_PROGRESS, **values):
    return Batch(
        id=1, batch_id="b", provider="p", conn_id="c", model="m", endpoint="e", spool_uri="s", created_at=OLD,
        parts=list(parts), status=status, **values,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "rules", "needs"),
    [
        (batch(part()), RULES, []),
        (batch(part(intent_at=FRESH)), RULES, []),
        (batch(part(intent_at=OLD)), RULES, [Need.ADOPT]),
        (batch(part(intent_at=OLD, is_synchronous=True)), RULES, []),
        (batch(running(FRESH)), RULES, []),
        (batch(running(OLD)), RULES, [Need.RESUME]),
        (batch(running(OLD, polled_at=FRESH)), RULES, []),
        (batch(running(OLD, polled_at=FRESH), submitted_at=OLD), AGED, [Need.EXPIRE]),
        (batch(running(OLD), submitted_at=OLD), AGED, [Need.EXPIRE]),
        (batch(running(FRESH), submitted_at=FRESH), AGED, []),
        (batch(ended(FRESH), part(1), submitted_at=OLD), RULES, []),
        (batch(ended(OLD), part(1), submitted_at=OLD), RULES, [Need.FETCH]),
        (batch(ended(OLD, results_fetched_at=OLD), part(1), submitted_at=OLD), RULES, []),
        (batch(ended(OLD), status=BatchStatus.ENDED, submitted_at=OLD, ended_at=OLD), AGED, [Need.FETCH]),
        (batch(ended(OLD, results_fetched_at=OLD), status=BatchStatus.ENDED, ended_at=OLD), RULES, [Need.FETCH]),
        (batch(ended(OLD, results_fetched_at=OLD), status=BatchStatus.ENDED, ended_at=FRESH), RULES, []),
    ],
)
def test_needs(found, rules, needs):
    """Only what was not touched for the grace is anybody's; a batch past its age is, however lively."""
    assert needs_of(found, rules, NOW) == needs


def test_lost_parts():
    """A create that may be on its way just now is not lost."""
    found = batch(
        part(0, intent_at=OLD), part(1, intent_at=FRESH), part(2), part(3, intent_at=OLD, is_synchronous=True)
    )
    assert [each.number for each in lost_parts(found, RULES, NOW)] == [0]


@pytest.mark.parametrize(
    ("found", "numbers"),
    [
        (batch(part(1)), []),
        (batch(ended(OLD), part(1), submitted_at=OLD), [1]),
        (batch(ended(OLD, results_fetched_at=FRESH), part(1), submitted_at=OLD), []),
        (batch(ended(OLD), part(1, intent_at=OLD, is_synchronous=True), submitted_at=OLD), [1]),
        (batch(ended(OLD), part(1, intent_at=OLD), submitted_at=OLD), []),
        (batch(running(OLD), part(1), submitted_at=OLD), []),
    ],
)
def test_unsent_parts(found, numbers):
    """Told once nothing else of a batch happens; a batch of which nothing was sent costs nothing and waits."""
    assert [each.number for each in unsent_parts(found, RULES, NOW)] == numbers
