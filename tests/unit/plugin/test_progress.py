"""How far batches are, how long they may take, and the life of their parts to scale."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_raif.domain.batch import Batch, Claim, Counts, Part
from airflow_raif.domain.status import BatchStatus
from airflow_raif.plugin.progress import progress_of
from airflow_raif.plugin.timeline import timeline_of

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


def ago(**units):
    return NOW - timedelta(**units)


def part(number=0, count=100, status=BatchStatus.IN_PROGRESS, **values):
    return Part(id=number, number=number, model="m", request_count=count, request_bytes=1, status=status, **values)


def batch(*parts, status=BatchStatus.IN_PROGRESS, submitted_at=None, **values):
    return Batch(
        id=1, batch_id="b", provider="openai", conn_id="c", model="m", endpoint="/e", status=status,
        claim=Claim("d", "r", "t"), spool_uri="s", request_count=sum(each.request_count for each in parts),
        created_at=NOW, submitted_at=submitted_at, parts=list(parts), **values,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("done", "hours", "usual", "seconds", "is_by_pace"),
    [
        (50, 1, {}, 3600, True),
        (50, 1, {("openai", "m"): 60.0}, 3600, True),
        (1, 1, {("openai", "m"): 7200.0}, 3600, False),
        (1, 3, {("openai", "m"): 7200.0}, -3600, False),
        (1, 3, {("openai", "other"): 7200.0}, None, False),
        (100, 1, {}, None, False),
    ],
)
def test_an_estimate_follows_the_pace_or_what_is_usual(done, hours, usual, seconds, is_by_pace):
    """Its own pace from some percent on, others' time before, nothing where nothing tells."""
    running = batch(part(counts=Counts(100, done, 0)), submitted_at=ago(hours=hours))
    found = progress_of(running, usual, NOW)
    assert (found.seconds_left, found.is_by_pace) == (seconds, is_by_pace)


def test_what_is_over_or_was_never_sent_has_no_estimate():
    """However much of it is done."""
    over = batch(part(counts=Counts(100, 10, 0)), status=BatchStatus.CANCELED, submitted_at=ago(hours=1))
    assert progress_of(over, {("openai", "m"): 9.0}, NOW).seconds_left is None
    assert progress_of(batch(part()), {("openai", "m"): 9.0}, NOW).seconds_left is None


def test_a_bar_holds_all_rows_and_shows_the_fewest():
    """Its stretches follow each other, never over the end; three of a million are seen."""
    found = progress_of(
        batch(
            part(count=600_000, status=BatchStatus.ENDED, results_fetched_at=NOW),
            part(1, count=400_000, counts=Counts(400_000, 100_000, 0)),
            completed_count=599_997, failed_count=3,
        ),
        {}, NOW,
    )  # fmt: skip
    assert [(kind, rows) for kind, _, rows, _, _ in found.bar] == [
        ("completed", 599_997), ("failed", 3), ("told", 100_000), ("pending", 300_000),
    ]  # fmt: skip
    assert found.bar[1][4] == 0.5
    assert all(start + width <= 100 for *_, start, width in found.bar)
    assert progress_of(batch(), {}, NOW).bar == []


def test_counters_that_say_too_much_fill_the_bar_and_no_more():
    """A provider's counters are not exact."""
    found = progress_of(batch(part(counts=Counts(100, 90, 30)), submitted_at=ago(hours=1)), {}, NOW)
    assert sum(width for *_, width in found.bar) == 100


def test_a_timeline_is_drawn_to_scale():
    """Each stretch in percent of the time from the first part's start to the last one's end."""
    life = {
        "submitted_at": ago(hours=4), "progressed_at": ago(hours=3), "ended_at": ago(hours=2),
        "results_fetched_at": ago(hours=1),
    }  # fmt: skip
    over = batch(
        part(status=BatchStatus.ENDED, **life), status=BatchStatus.ENDED, results_fetched_at=ago(hours=1),
        applied_at=NOW,
    )  # fmt: skip
    (line,) = timeline_of(over, NOW + timedelta(days=3)).lines
    assert [(each.kind, each.start, each.width, each.seconds) for each in line.stretches] == [
        ("queued", 0, 25, 3600), ("running", 25, 25, 3600), ("ended", 50, 25, 3600), ("fetched", 75, 25, 3600),
    ]  # fmt: skip


def test_what_runs_reaches_until_now():
    """And a part that was not sent yet, as after a retry, has nothing drawn."""
    sent = part(submitted_at=ago(hours=2), progressed_at=ago(hours=1))
    found = timeline_of(batch(sent, part(1, status=BatchStatus.PENDING)), NOW)
    running, waiting = found.lines
    assert [(each.kind, each.start, each.width) for each in running.stretches] == [
        ("queued", 0, 50),
        ("running", 50, 50),
    ]
    assert waiting.stretches == []
    assert found.ticks[0] == ago(hours=2)
    assert found.ticks[-1] == NOW
    assert timeline_of(batch(part(status=BatchStatus.PENDING)), NOW) is None


def test_marks_are_as_precise_as_they_lie_apart():
    """Whole seconds of a short life, and only its ends if it is shorter than that; days of a long one."""
    for life, marks, text in (
        ({"seconds": 2}, 2, "12:00:00"), ({"minutes": 5}, 5, "12:00:00"), ({"hours": 9}, 5, "12:00"),
        ({"days": 2}, 5, "03-04 12:00"),
    ):  # fmt: skip
        found = timeline_of(batch(part(submitted_at=ago(**life))), NOW)
        assert (len(found.ticks), found.ticks[-1].strftime(found.tick_format)) == (marks, text)
