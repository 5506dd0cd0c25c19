"""Token counts and money."""

from decimal import Decimal

from airflow_raif.domain.usage import Usage, usd


def test_usages_add_up():
    """Every kind of token is summed by itself."""
    assert Usage(1, 2, 3, 4, 5, 6) + Usage(10, 20, 30, 40, 50, 60) == Usage(11, 22, 33, 44, 55, 66)


def test_money_is_exact():
    """A picodollar is not lost, and an unknown price is not zero."""
    assert usd(1) == Decimal("0.000000000001")
    assert usd(36_000_000) == Decimal("0.000036")
    assert usd(0) == 0
    assert usd(None) is None
