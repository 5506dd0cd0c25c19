"""Sharing: which rows of a batch take answers that others get, or got, in place of one of their own."""

from __future__ import annotations

from datetime import timedelta

import msgspec


class Sharing(msgspec.Struct, frozen=True):
    """What a batch does with requests that are the same, byte by byte but for their ids."""

    #: Send them once, and give each row that one answer.
    within_batch: bool = True
    #: Take answers that earlier batches got since so long, and keep those of this one for later batches.
    reuse_for: timedelta | None = None
