"""The short run that belongs to the tests: lives and deaths of one provider on one store.

In a process of its own: workers are forks, and nobody forks a test runner's threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.chaos.__main__ import STORES, show
from tests.chaos.crash_points import die_everywhere
from tests.chaos.life import Outcome
from tests.chaos.plan import Plan, draw
from tests.chaos.runner import live_all

#: Lives of each provider on each store: two hundred in all.
LIVES = 34


def plans_of(provider: str, store: str) -> list[Plan]:
    """Return the lives of the short run."""
    return [draw(seed, provider, store) for seed in range(1, LIVES + 1)]


def check_lives(provider: str, store: str) -> None:
    """Fail if a life under random faults went wrong."""
    _check(live_all, plans_of(provider, store), (store,), at_least=LIVES)


def check_deaths(provider: str, store: str) -> None:
    """Fail if a death between any two writes is not made good by the next attempt."""
    _check(die_everywhere, provider, store, at_least=40)


def _check(work: Callable[..., list[Outcome]], *arguments: object, at_least: int) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        outcomes = pool.submit(work, *arguments).result()
    assert len(outcomes) >= at_least
    wrong = [outcome for outcome in outcomes if outcome.figures]
    for outcome in wrong:
        show(outcome, with_log=True)
    assert not wrong


__all__ = ["STORES", "check_deaths", "check_lives", "plans_of"]
