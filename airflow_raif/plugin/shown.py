"""How values are shown to people. Whatever comes from a model, a user or a provider is hostile text."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from decimal import Decimal

from airflow_raif.domain.usage import usd

NOTHING = "\N{EN DASH}"
_KEPT = frozenset("\n\t")
_CENT = Decimal("0.01")


def clean(text: str) -> str:
    """Return a text in which what moves, hides or turns other text is seen, as ``[U+202E]``; line ends and tabs stay.

    Those are control characters, marks of direction and other invisible formats, and halves of characters.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each in _KEPT or unicodedata.category(each) not in ("Cc", "Cf", "Cs", "Co") else f"[U+{ord(each):04X}]"
        for each in text.replace("\r\n", "\n")
    )


def count(number: int | None) -> str:
    """Return a number with its thousands apart."""
    return NOTHING if number is None else f"{number:,}"


def dollars(pico: int | None) -> str:
    """Return picodollars as dollars: cents of large amounts, as many digits as tell something of small ones."""
    amount = usd(pico)
    if amount is None:
        return NOTHING
    if amount == 0 or abs(amount) >= 1:
        return f"${amount.quantize(_CENT):,}"
    shown = f"{amount:.4f}" if abs(amount) >= Decimal("0.0001") else f"{amount:.2g}"
    return f"${Decimal(shown):f}"


def percent(part: float, whole: float) -> str:
    """Return a share; of what is not all, never 100 %, and of what is something, never 0 %."""
    if not whole:
        return NOTHING
    share = 100 * part / whole
    if 0 < share < 1:
        return "<1 %"
    if 99 < share < 100:
        return ">99 %"
    return f"{share:.0f} %"


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units."""
    if seconds is None:
        return NOTHING
    left, parts = int(max(seconds, 0)), []
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= size:
            parts.append(f"{left // size} {name}")
            left %= size
    return " ".join(parts[:2]) or "0 s"


def moment(at: datetime | None) -> str:
    """Return a time in UTC, to the second."""
    return NOTHING if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def ago(at: datetime | None, now: datetime) -> str:
    """Return how long ago something was, in one unit."""
    if at is None:
        return NOTHING
    seconds = (now - at).total_seconds()
    if seconds < 60:
        return "just now"
    return " ".join(duration(seconds).split()[:2]) + " ago"
