"""When batches are asked about: backoff, and how batches that began at different times come together."""

from __future__ import annotations

import random

import pytest

from airflow_raif.services.schedule import Schedule, pace

INTERVALS = (60.0, 120.0, 300.0)


def test_a_first_poll_comes_soon_and_not_for_all_at_once():
    """A thousand triggers that start together are first due at times spread over a tenth of the interval."""
    due = [Schedule.starting(INTERVALS, 1000.0).due_at for _ in range(1000)]
    assert 1000 <= min(due) < max(due) <= 1006
    assert len({int(each * 10) for each in due}) > 40


def test_intervals_follow_each_other_and_the_last_repeats():
    """Each poll that was due moves the schedule on."""
    schedule, waits = Schedule.starting(INTERVALS, 0.0), []
    for _ in range(5):
        now = schedule.due_at
        schedule.answered(now, 1.0)
        waits.append(schedule.due_at - now)
    assert waits == pytest.approx([60, 120, 300, 300, 300])


def test_an_interval_of_nothing_is_no_busy_loop():
    """Whatever was configured, there is a pause."""
    schedule = Schedule.starting((0.0, -5.0), 0.0)
    for _ in range(3):
        schedule.answered(schedule.due_at, 1.0)
    assert schedule.rest > 0
    assert schedule.due_at > 0.02


def test_an_early_poll_does_not_move_the_schedule_on():
    """A batch that is asked about along with others keeps its interval."""
    schedule = Schedule.starting(INTERVALS, 0.0)
    schedule.answered(0.0, 1.0)
    for now in (31.0, 62.0, 93.0):
        schedule.answered(now, 1.0)
        assert schedule.due_at == now + 60
    schedule.answered(153.0, 1.0)
    assert schedule.due_at == 153 + 120


def test_failures_are_tried_again_soon_then_less_often_and_for_ever():
    """An outage is asked about after seconds at first, at last at the batch's own interval, however long it lasts."""
    schedule, waits = Schedule.starting((60.0,), 0.0), []
    for _ in range(5000):
        schedule.failed(0.0, 1.0)
        waits.append(schedule.due_at)
    assert waits[:4] == pytest.approx([12, 24, 48, 60])
    assert set(waits[4:]) == {60.0}
    schedule.answered(0.0, 1.0)
    schedule.failed(0.0, 1.0)
    assert schedule.due_at == 12


@pytest.mark.parametrize("seed", range(5))
def test_batches_that_began_at_any_time_come_together(seed):
    """A thousand batches, begun over an hour, are soon asked about by one tick an interval."""
    random.seed(seed)
    begun = sorted(random.uniform(0, 3600) for _ in range(1000))
    schedules: list[Schedule] = []
    ticks: list[tuple[float, int]] = []
    now = rests_until = 0.0
    while now < 7200:
        while begun and begun[0] <= now:
            schedules.append(Schedule.starting((60.0,), begun.pop(0)))
        upcoming = [each.due_at for each in schedules]
        now = max(rests_until, min([*upcoming, *begun[:1]]))
        ripe = [each for each in schedules if each.ripe_at <= now]
        if any(each.due_at <= now for each in schedules):
            stretch = pace()
            for each in ripe:
                each.answered(now, stretch)
            rests_until = now + schedules[0].rest
            ticks.append((now, len(ripe)))
    while_they_begin = [count for at, count in ticks if at < 3600]
    assert len(while_they_begin) <= 3600 / 6 + 1
    # A newcomer every few seconds brings ticks of its own, in which the others are asked about at most twice as often.
    assert sum(while_they_begin) <= 2 * 1000 * 3600 / 54
    afterwards = [count for at, count in ticks if at > 3700]
    assert afterwards == [1000] * len(afterwards)
    assert len(afterwards) <= 3500 / 54 + 1
