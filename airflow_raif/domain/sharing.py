"""Sharing: which rows of a batch take answers that others get, or got, in place of one of their own."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import timedelta

import msgspec

_AGE = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Sharing(msgspec.Struct, frozen=True):
    """What a batch does with requests that are the same, byte by byte but for their ids."""

    #: Send them once, and give each row that one answer.
    within_batch: bool = True
    #: Take answers that earlier batches got since so long, and keep those of this one for later batches.
    reuse_for: timedelta | None = None


def age_of(value: timedelta | str | None) -> timedelta | None:
    """Return a duration, also one written as a number with its unit, such as ``30d``, ``12h`` or ``2w``.

    :raises ValueError: it is neither, or not above 0.
    """
    if value is None:
        return None
    if isinstance(value, str) and (found := _AGE.fullmatch(value.strip())):
        with suppress(OverflowError):
            value = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if not isinstance(value, timedelta) or value <= timedelta():
        raise ValueError(f"{value!r} is no age of answers; give a timedelta, or a text such as '30d' or '12h'")
    return value
