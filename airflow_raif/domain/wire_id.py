"""The id an entry has at the provider: short, legal everywhere, and telling its batch and row by itself.

A user's ``custom_id`` may be any text; Anthropic takes only ``^[a-zA-Z0-9_-]{1,64}$``. So the wire carries
``<first 16 characters of the batch id>-<row index>``, which also finds a batch whose create reply was lost.
"""

from __future__ import annotations

PREFIX_LENGTH = 16
#: More rows than any batch has.
_MOST_DIGITS = 12


def wire_prefix(batch_id: str) -> str:
    """Return what every wire id of a batch starts with."""
    return batch_id[:PREFIX_LENGTH] + "-"


def make_wire_id(batch_id: str, index: int) -> str:
    """Return the wire id of a row."""
    return f"{batch_id[:PREFIX_LENGTH]}-{index}"


def index_of(wire_id: str, prefix: str) -> int | None:
    """Return the row index in a wire id, or ``None`` if it is not one of this batch.

    Servers that trim, pad or capitalise ids give answers all the same; ours are lower case and hold no blank.
    """
    if not wire_id.startswith(prefix):
        wire_id = wire_id.strip().lower()
    tail = wire_id[len(prefix) :].rstrip()
    if not wire_id.startswith(prefix) or not tail.isascii() or not tail.isdigit() or len(tail) > _MOST_DIGITS:
        return None
    return int(tail)
