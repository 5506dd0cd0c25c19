"""Money before it is spent, as people read it."""

from __future__ import annotations

import pytest

from airflow_raif.domain.money import dollars


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (None, "an unknown amount"),
        (0, "$0.0000"),
        (1, "$0.000000000001"),
        (41_260_000, "$0.000041"),
        (1_234_500_000, "$0.0012"),
        (10_000_000_000, "$0.0100"),
        (1_234_567_891_000_000_000, "$1,234,567.8910"),
    ],
)
def test_an_amount_is_never_told_as_nothing(pico, text):
    """An estimate of a small batch tells what it is, too."""
    assert dollars(pico) == text
