"""Values of options, read as a person writes them; what cannot be read is wrong usage."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def positive(text: str) -> int:
    """Read a number above 0."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def money(text: str) -> int:
    """Read an amount of US dollars, as picodollars."""
    from airflow_raif.domain.money import picodollars

    try:
        return picodollars(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def age(text: str) -> timedelta:
    """Read a duration: ``30d``, ``12h``."""
    found = re.fullmatch(r"([0-9]{1,4})([mhdw])", text)
    if found is None or int(found[1]) == 0:
        raise ArgumentTypeError(f"{text!r} is no duration such as 90d, 12h or 2w")
    return int(found[1]) * _UNITS[found[2]]


def moment(text: str) -> datetime:
    """Read a time: a date or a time in ISO 8601, in UTC unless it says otherwise, or how long ago: ``30d``."""
    try:
        return datetime.now(UTC) - age(text)
    except ArgumentTypeError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no date such as 2026-11-30, and no duration such as 30d") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
