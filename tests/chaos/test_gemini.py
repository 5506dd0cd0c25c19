"""Whole lives on Gemini under random faults, and a death at every place: made once, no row or answer lost."""

from __future__ import annotations

import pytest

from tests.chaos.short import STORES, check_deaths, check_lives

pytestmark = pytest.mark.postgres


@pytest.mark.parametrize("store", STORES)
def test_random_lives(store):
    """Whatever comes together, the three figures are nothing."""
    check_lives("gemini", store)


def test_a_death_between_any_two_writes():
    """The next attempt finishes what a worker left that died there; ``make chaos`` tries every step on each store."""
    check_deaths("gemini", "sqlite")
