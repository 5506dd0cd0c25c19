"""How values are shown: numbers that tell something, and texts that hide nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_raif.plugin import shown

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (None, "\N{EN DASH}"),
        (0, "$0.00"),
        (1, "$0.000000000001"),
        (71_460_000, "$0.000071"),
        (123_400_000_000, "$0.1234"),
        (999_960_000_000, "$1.0000"),
        (1_005_000_000_000, "$1.00"),
        (1_234_567_891_000_000_000, "$1,234,567.89"),
    ],
)
def test_dollars(pico, text):
    """Cents of large amounts, enough digits of small ones; unknown is not nothing."""
    assert shown.dollars(pico) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "\N{EN DASH}"), (0, 9, "0 %"), (1, 100_000, "<1 %"), (1, 3, "33 %"),
     (99_999, 100_000, ">99 %"), (7, 7, "100 %")],
)  # fmt: skip
def test_percent(part, whole, text):
    """Something is never 0 %, and not all never 100 %."""
    assert shown.percent(part, whole) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "\N{EN DASH}"), (-5, "0 s"), (0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"),
     (3600, "1 h"), (90_061, "1 d 1 h")],
)  # fmt: skip
def test_duration(seconds, text):
    """In its two largest units."""
    assert shown.duration(seconds) == text


def test_moments():
    """In UTC, and as how long ago."""
    assert shown.moment(NOW) == "2026-03-04 05:06:07"
    assert shown.moment(NOW.astimezone(tz=None)) == "2026-03-04 05:06:07"
    assert shown.ago(NOW - timedelta(hours=3, minutes=20), NOW) == "3 h ago"
    assert shown.ago(NOW + timedelta(minutes=5), NOW) == "just now"
    assert shown.ago(None, NOW) == shown.moment(None) == shown.count(None)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain, with é, 漢 and 🙂", "plain, with é, 漢 and 🙂"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("a\r\nb\rc", "a\nb[U+000D]c"),
        ("\x1b[31mred\x07", "[U+001B][31mred[U+0007]"),
        ("\u202egnp.exe\u2066", "[U+202E]gnp.exe[U+2066]"),
        ("zero\u200bwidth\ufeff", "zero[U+200B]width[U+FEFF]"),
        ("half \ud83d", "half [U+D83D]"),
        ("\u2028line", "\u2028line"),
        ("", ""),
    ],
)
def test_clean(text, clean):
    """What moves, hides or turns other text is seen; the rest stays."""
    assert shown.clean(text) == clean
