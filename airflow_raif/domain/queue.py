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
#: A part that nothing of ours stood before is divided after so many refusals, if they do not tell that it is too large.
REFUSALS_BEFORE_DIVISION = 3


class Quota(msgspec.Struct, frozen=True):
    """What a connection says may be queued at once."""

    #: The model whose parts share the queue; ``""``: those of all models do.
    model: str
    max_tokens: int | None = None
    max_requests: int | None = None


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
    """What is queued at the provider, and how much may be."""

    max_tokens: int | None = None
    max_requests: int | None = None
    #: Parts, their requests and tokens.
    parts: int = 0
    requests: int = 0
    tokens: int = 0

    def take(self, requests: int, tokens: int) -> bool:
        """Take a part in, if it fits; what does not fit alone is left to the provider to refuse."""
        if self.parts and (
            _is_over(self.requests + requests, self.max_requests) or _is_over(self.tokens + tokens, self.max_tokens)
        ):
            return False
        self.parts += 1
        self.requests += requests
        self.tokens += tokens
        return True


def _is_over(amount: int, limit: int | None) -> bool:
    return limit is not None and amount > limit


def pause_after(refusals: int, refusal: Refusal) -> timedelta:
    """Return how long nothing more is sent after so many refusals in a row."""
    hint = min(refusal.retry_after or 0.0, 3600.0)
    return timedelta(seconds=max(PAUSES[min(refusals, len(PAUSES)) - 1], hint))


def is_too_large(refusal: Refusal, tokens: int, refusals: int, *, is_alone: bool) -> bool:
    """Whether a refused part will not fit as it is.

    :param refusals: how many there were in a row.
    :param is_alone: nothing else of ours was queued.
    """
    if refusal.max_tokens is not None and tokens > refusal.max_tokens:
        return True
    # Others than we may fill the queue, so a part that should fit is tried again before it is divided.
    is_told = refusal.is_certain and refusal.max_tokens is None
    return is_alone and (is_told or refusals >= REFUSALS_BEFORE_DIVISION)


def pieces_of(tokens: int, refusal: Refusal) -> int:
    """Return how many tokens the pieces of a part that is too large may have: half of it, or what can be queued."""
    return min(-(-tokens // 2), refusal.max_tokens or tokens)


def is_hopeless(refusal: Refusal, tokens: int, *, is_alone: bool) -> bool:
    """Whether a refused part of one request can never be queued, as far as the provider tells."""
    return is_alone and refusal.is_certain and (refusal.max_tokens is None or tokens > refusal.max_tokens)
