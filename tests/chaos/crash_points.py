"""Every place where a worker may die, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from tests.chaos.life import Outcome
from tests.chaos.plan import Attempt, Plan
from tests.chaos.provider import Behaviour
from tests.chaos.runner import Runner


def eventful(provider: str, store: str) -> list[Plan]:
    """Return lives in which everything is written that there is to write: parts, uploads, rounds, single calls."""
    lost = Behaviour(faults={"rows": [{"kind": "missing", "rows": [1], "batches": 2}]})
    lives = [Plan(seed=1, provider=provider, store=store, behaviour=lost, by_file=provider == "gemini")]
    return [*lives, Plan(seed=2, provider=provider, store=store, behaviour=lost, stragglers=2, part_size=9)]


def crash_points(runner: Runner, plan: Plan, *, every_step: bool) -> Iterator[Plan]:
    """Yield the same life with a crash at each place in turn.

    :param every_step: at each step; otherwise only between two writes, since a crash elsewhere leaves the same behind.
    """
    calm = runner.live(plan)
    if calm.figures:
        raise AssertionError(f"without any crash: {calm.figures.wrong}")
    for number, (steps, writes) in enumerate(calm.steps):
        before = [Attempt() for _ in range(number)]
        for place in range(1, (steps if every_step else writes) + 1):
            crash = Attempt(kill_at=place) if every_step else Attempt(kill_after_write=place)
            yield msgspec.structs.replace(plan, attempts=[*before, crash])


def die_everywhere(provider: str, store: str, *, every_step: bool = False) -> list[Outcome]:
    """Live the eventful lives once for each place to die at."""
    runner = Runner((store,))
    try:
        return [
            runner.live(each)
            for plan in eventful(provider, store)
            for each in crash_points(runner, plan, every_step=every_step)
        ]
    finally:
        runner.close()
