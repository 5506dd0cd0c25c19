"""Queues: how much a provider lets wait at once, of a connection and model, and what a refusal of more means."""

from __future__ import annotations

from datetime import timedelta

import msgspec

#: Bytes of a request for one token of it: a rough rule for text in JSON, rather too many tokens than too few.
BYTES_PER_TOKEN = 4
#: What a refusal told counts for so long; then it is asked again, since the provider may have raised it.
LEARNT_FOR = timedelta(days=1)
#: A batch keeps its place in the line as long as somebody asks for it this often.
PLACE_KEPT_FOR = timedelta(hours=1)
#: Seconds until what was refused is tried again, by the refusals in a row; an end of a part is waited for no longer.
PAUSES = (60, 120, 300, 600, 1800)
#: No provider's wish for a longer pause is followed.
LONGEST_PAUSE = 3600.0
#: A part that nothing of ours stood before is divided after so many refusals, if they do not tell that it is too large.
REFUSALS_BEFORE_DIVISION = 3
#: A part is divided into about so many at once; what is still too large is divided again.
MOST_PIECES = 100


class Quota(msgspec.Struct, frozen=True):
    """What a connection says may be queued at once."""

    #: The model whose parts share the queue; ``""``: those of all models do.
    model: str
    max_tokens: int | None = None
    max_requests: int | None = None

    @property
    def is_limited(self) -> bool:
        """Whether it says anything."""
        return self.max_tokens is not None or self.max_requests is not None


class Refusal(msgspec.Struct, frozen=True):
    """A provider will not queue a part now; nothing of it was run or billed."""

    #: The provider's own words.
    message: str
    #: What the provider says may be queued at once.
    max_tokens: int | None = None
    #: Whether it is certainly the queue that is full, not the rate of calls.
    is_certain: bool = True
    #: Seconds that the provider asks to wait.
    retry_after: float | None = None


class Room(msgspec.Struct):
    """What is queued at the provider, and how much may be; tokens are estimated."""

    max_tokens: int | None = None
    max_requests: int | None = None
    #: Parts, their requests and bytes.
    parts: int = 0
    requests: int = 0
    size: int = 0

    def take(self, requests: int, size: int) -> bool:
        """Take a part in, if it fits; what does not fit alone is left to the provider to refuse."""
        if self.parts and self._is_short_of(self.requests + requests, self.size + size):
            return False
        self.parts += 1
        self.requests += requests
        self.size += size
        return True

    def piece_bytes(self, requests: int, size: int) -> int | None:
        """Return how large the pieces of a part may be that does not fit even alone; ``None``: it does."""
        if requests == 1 or not self._is_short_of(requests, size):
            return None
        return piece_bytes(size, self.max_tokens)

    def _is_short_of(self, requests: int, size: int) -> bool:
        return _is_over(requests, self.max_requests) or _is_over(tokens_of(size), self.max_tokens)


def _is_over(amount: int, limit: int | None) -> bool:
    return limit is not None and amount > limit


def tokens_of(size: int) -> int:
    """Return about how many input tokens requests of so many bytes have."""
    return size // BYTES_PER_TOKEN


def pause_after(refusals: int, refusal: Refusal) -> timedelta:
    """Return how long nothing more is sent after so many refusals in a row."""
    hint = min(refusal.retry_after or 0.0, LONGEST_PAUSE)
    return timedelta(seconds=max(PAUSES[min(refusals, len(PAUSES)) - 1], hint))


def is_too_large(refusal: Refusal, size: int, refusals: int, *, is_alone: bool) -> bool:
    """Whether a refused part will not fit as it is.

    :param refusals: how many there were in a row.
    :param is_alone: nothing else of ours was queued.
    """
    if _is_over(tokens_of(size), refusal.max_tokens):
        return True
    # Others than we may fill the queue, so a part that should fit is tried again before it is divided.
    is_told = refusal.is_certain and refusal.max_tokens is None
    return is_alone and (is_told or refusals >= REFUSALS_BEFORE_DIVISION)


def is_hopeless(refusal: Refusal, size: int, *, is_alone: bool) -> bool:
    """Whether a refused part of one request can never be queued, as far as the provider tells."""
    is_told = refusal.max_tokens is None or _is_over(tokens_of(size), refusal.max_tokens)
    return is_alone and refusal.is_certain and is_told


def piece_bytes(size: int, max_tokens: int | None) -> int:
    """Return how large the pieces of a part that is too large may be: half of it, or what can be queued."""
    half, least = -(-size // 2), size // MOST_PIECES
    return half if max_tokens is None else max(min(half, max_tokens * BYTES_PER_TOKEN), least)
