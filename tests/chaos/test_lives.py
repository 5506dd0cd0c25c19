"""Whole batch lives under seeded faults, and a death at every place: made once, no row lost, no paid answer dropped."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import pytest

from tests.chaos.__main__ import STORES, run, show
from tests.chaos.crash_points import die_everywhere
from tests.chaos.plan import draw
from tests.support import PROVIDERS

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
LIVES = 200


def check(outcomes):
    """Fail with each life that went wrong, and how to live it again."""
    wrong = [outcome for outcome in outcomes if outcome.figures]
    for outcome in wrong:
        show(outcome, with_log=True)
    assert not wrong


def test_random_lives():
    """Two hundred lives under random faults, a third of them on each provider, half of them on each store."""
    kinds = list(product(PROVIDERS, STORES))
    plans = [draw(1 + n // len(kinds), *kinds[n % len(kinds)]) for n in range(LIVES)]
    outcomes = list(run(plans, STORES, jobs=2))
    assert len(outcomes) == LIVES
    check(outcomes)


@pytest.mark.parametrize("store", STORES)
def test_a_death_between_any_two_writes(store):
    """The next attempt finishes what a worker left that died there, with the same three figures."""
    # In processes of their own: workers are forks, and nobody forks a test runner's threads.
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        outcomes = [each for some in pool.map(die_everywhere, PROVIDERS, [store] * len(PROVIDERS)) for each in some]
    assert len(outcomes) > 100
    check(outcomes)
