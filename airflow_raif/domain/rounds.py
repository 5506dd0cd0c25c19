"""Rounds: which failed entries are worth sending again, and how often."""

from __future__ import annotations

import msgspec

from airflow_raif.domain.status import FailureReason

#: Errors of one entry, or of a whole part, that say nothing against the request itself.
#: OpenAI, Anthropic and google.rpc words; https://docs.anthropic.com/en/api/errors, https://google.aip.dev/193.
_PASSING_CODES = frozenset((
    "batch_expired", "request_timeout", "rate_limit_exceeded", "rate_limit_error", "token_limit_exceeded",
    "server_error", "internal_error", "internal_server_error", "service_unavailable", "overloaded_error", "api_error",
    "timeout_error", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNAVAILABLE",
))  # fmt: skip
_PASSING_STATUSES = frozenset((408, 429))


class Selection(msgspec.Struct, frozen=True):
    """Which failed entries go out again."""

    #: Those that failed for one of these reasons.
    reasons: list[str]
    #: Also those whose failure says nothing against the request, whatever the reason.
    passing: bool = False
    #: The limit of answers that were cut off; never the same one again.
    truncated_max_tokens: int | None = None


class RoundPolicy(msgspec.Struct, frozen=True):
    """What is sent again, kept with the batch so that whoever takes it up goes on in the same way.

    Expired and missing entries, and those that met a rate limit or a fault of the provider, always are.
    """

    #: Most rounds after the first submission.
    max_rounds: int = 2
    #: Also answers that do not follow the output schema.
    repeat_invalid_output: bool = False
    #: Also answers that were cut off, with this higher limit; never with the same one.
    truncated_max_tokens: int | None = None
    #: At most so many leftovers go through the synchronous API, at its price, instead of another round.
    synchronous_stragglers: int = 0

    def wanted(self) -> Selection:
        """Return what a round repeats by itself."""
        found = []
        if self.repeat_invalid_output:
            found.append(FailureReason.INVALID_OUTPUT.value)
        if self.truncated_max_tokens is not None:
            found.append(FailureReason.TRUNCATED.value)
        return Selection(found, passing=True, truncated_max_tokens=self.truncated_max_tokens)


def is_worth_repeating(reason: FailureReason | None, code: str | None = None, status: int | None = None) -> bool:
    """Whether a failed entry may well succeed if the same request is sent again.

    :param code: the provider's error code or type.
    :param status: HTTP status of the entry.
    """
    if reason in (FailureReason.EXPIRED, FailureReason.MISSING):
        return True
    if reason is not FailureReason.ERRORED:
        return False
    return code in _PASSING_CODES or (status is not None and (status in _PASSING_STATUSES or status >= 500))
