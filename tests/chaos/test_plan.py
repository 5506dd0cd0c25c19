"""The short run meets what a nightly run meets in a year."""

from __future__ import annotations

import pytest

from tests.chaos.plan import ODDITIES
from tests.chaos.proxy import KINDS
from tests.chaos.short import STORES, plans_of
from tests.support import PROVIDERS


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_fault_is_drawn(provider):
    """Each way in which a call goes wrong, and each that a provider behaves, with each provider."""
    plans = [plan for store in STORES for plan in plans_of(provider, store)]
    assert {fault.kind for plan in plans for fault in plan.behaviour.proxy} == set(KINDS)
    assert all(any(plan.behaviour.faults.get(key) for plan in plans) for each in ODDITIES for key in each)
    assert {plan.behaviour.ahead > 0 for plan in plans if plan.behaviour.ahead} == {True, False}
    attempts = [attempt for plan in plans for attempt in plan.attempts]
    assert {each.beside for each in attempts} == {"", "cancel", "poll", "sweep"}
    assert all(any(getattr(each, what) for each in attempts) for what in ("kill_at", "hold_at", "twin", "restart"))
    assert any(plan.restarts_in_apply for plan in plans)
    by_parts = [plan for plan in plans if plan.by_parts]
    assert len(by_parts) > len(plans) / 10
    assert all(any(getattr(plan, what) for plan in by_parts) for what in ("doubles", "has_models", "is_told"))
