"""A batch, its parts, and what is known of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from airflow_raif.domain.money import Budget
from airflow_raif.domain.queue import Refusal
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.usage import Cost, Usage

#: The model of a part whose rows take answers of others, whatever their models are.
SHARED = ""
#: Stands for the provider's word on a part that is to stop, until the provider says that it does.
CANCEL_REQUESTED = "cancel requested"


def says_canceling(raw_status: str | None) -> bool:
    """Whether a provider's word for a running batch says that it stops; Gemini has none."""
    return "cancel" in (raw_status or "").lower()


class Claim(msgspec.Struct, frozen=True):
    """The task instance that owns a batch; how a retry or a clear finds it again."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1


class Counts(msgspec.Struct, frozen=True, gc=False):
    """The provider's own counters, for progress only; rows are accounted for by ids."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class PartState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a provider says about one of its batch jobs."""

    provider_batch_id: str
    status: BatchStatus
    #: The provider's own status word.
    raw_status: str
    counts: Counts | None = None
    #: What fetching needs later: file ids, a results URL, inline flag. Small, JSON-able, no secret.
    refs: dict[str, Any] = msgspec.field(default_factory=dict)
    error: str | None = None
    #: The provider's code for why the whole of it failed.
    error_code: str | None = None
    #: Set where the provider would not queue it: then it failed without a request of it being run.
    refusal: Refusal | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    #: The tag our create put on it, where the provider carries one.
    tag: str | None = None


class Part(msgspec.Struct, kw_only=True):
    """One batch job at the provider."""

    id: int
    #: From 0 within the batch, rounds included.
    number: int
    round: int = 0
    status: BatchStatus = BatchStatus.PENDING
    raw_status: str | None = None
    provider_batch_id: str | None = None
    #: The model of every request in it (providers take one model per file), or :data:`SHARED`.
    model: str
    request_count: int
    request_bytes: int
    #: The first and the last row of its requests; in between may be rows of other parts.
    first_row: int | None = None
    last_row: int | None = None
    #: Fingerprint of the input up to its end, by which an attempt that reads the input again knows it, and how many
    #: rows that are.
    digest: str | None = None
    rows_read: int | None = None
    #: Set where its provider's queue is too small for it: it is to be divided into pieces of so many bytes.
    piece_bytes: int | None = None
    #: When a create was about to be sent; set without ``provider_batch_id`` means: look it up first.
    intent_at: datetime | None = None
    #: The uploaded input, where the provider has one.
    input_ref: str | None = None
    counts: Counts | None = None
    #: How many of its entries its results completed.
    completed_count: int = 0
    refs: dict[str, Any] = msgspec.field(default_factory=dict)
    error: str | None = None
    error_code: str | None = None
    #: Its entries go through the synchronous API, at its price; it has no batch job at the provider.
    is_synchronous: bool = False
    #: How many of its synchronous calls were made, or were about to be.
    synchronous_calls: int = 0
    usage: Usage = msgspec.field(default_factory=Usage)
    cost: Cost = msgspec.field(default_factory=Cost)
    submitted_at: datetime | None = None
    #: When the provider first told that a request of it was done.
    progressed_at: datetime | None = None
    #: When the provider last told its state.
    polled_at: datetime | None = None
    ended_at: datetime | None = None
    expires_at: datetime | None = None
    results_fetched_at: datetime | None = None
    #: Where the results of its rows are, and since when, if they were applied by themselves.
    result_uri: str | None = None
    applied_at: datetime | None = None

    @property
    def is_shared(self) -> bool:
        """Whether nothing of it is ever sent, since its rows take answers of others."""
        return self.model == SHARED

    @property
    def is_unsent(self) -> bool:
        """Whether it is to be sent as a batch job, and nobody has begun to."""
        return self.status is BatchStatus.PENDING and self.intent_at is None and not self.is_synchronous

    @property
    def is_cancel_requested(self) -> bool:
        """Whether it is to stop, and the provider has not said that it does."""
        return not self.status.is_terminal and self.raw_status == CANCEL_REQUESTED

    @property
    def is_canceling(self) -> bool:
        """Whether it is to stop, and has not."""
        return not self.status.is_terminal and says_canceling(self.raw_status)


class Batch(msgspec.Struct, kw_only=True):
    """One logical unit of work of a DAG author."""

    #: Row key in the store; means nothing outside it.
    id: int
    #: Our own id: 32 hexadecimal characters, unique everywhere.
    batch_id: str
    provider: str
    conn_id: str
    model: str
    endpoint: str
    status: BatchStatus = BatchStatus.PENDING
    claim: Claim | None = None
    #: When its task instance became free to make another batch.
    claim_released_at: datetime | None = None
    #: Hash over every request's bytes; tells whether a retry is still the same work.
    fingerprint: str | None = None
    #: Counts the attempts that took up its spooling; only the last one may go on.
    spool_attempt: int = 0
    #: Folder of its spool files.
    spool_uri: str
    request_count: int = 0
    #: Entries by outcome, of those whose results were fetched and that no round repeats.
    completed_count: int = 0
    failed_count: int = 0
    has_schema: bool = False
    #: The JSON schema every answer must follow, where all rows share one.
    output_schema: dict[str, Any] | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    round_policy: RoundPolicy = msgspec.field(default_factory=RoundPolicy)
    budget: Budget = msgspec.field(default_factory=Budget)
    #: What it was expected to cost when that was reserved, in picodollars.
    estimated_cost: int | None = None
    reserved_at: datetime | None = None
    #: What its answers are kept under for later batches; ``None``: they are not.
    answer_scope: bytes | None = None
    usage: Usage = msgspec.field(default_factory=Usage)
    cost: Cost = msgspec.field(default_factory=Cost)
    result_uri: str | None = None
    error: str | None = None
    created_at: datetime
    #: When every row was spooled; before, parts that are whole may have been submitted, but it is not terminal.
    spooled_at: datetime | None = None
    #: When somebody last asked to send parts of it that the provider's queue has no room for.
    queued_at: datetime | None = None
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    results_fetched_at: datetime | None = None
    applied_at: datetime | None = None
    #: When its files at the provider, or its spool, were deleted because they had been kept long enough.
    files_deleted_at: datetime | None = None
    spool_deleted_at: datetime | None = None
    parts: list[Part] = msgspec.field(default_factory=list)

    @property
    def first_parts(self) -> list[Part]:
        """The parts that its input was cut into, which together have all rows; those of rounds repeat some of them."""
        return [part for part in self.parts if part.round == 0 and part.request_count]

    @property
    def has_shared_rows(self) -> bool:
        """Whether rows of it take answers of others, so that they are there once those are."""
        return any(part.is_shared for part in self.parts)

    @property
    def is_sent(self) -> bool:
        """Whether a part of it is at the provider, or may be."""
        return any(part.provider_batch_id is not None or part.intent_at is not None for part in self.parts)

    @property
    def is_held_back(self) -> bool:
        """Whether parts of it wait for room in the provider's queue, however long that takes."""
        return self.queued_at is not None and any(part.is_unsent for part in self.parts)

    @property
    def is_cancel_requested(self) -> bool:
        """Whether something of it is to stop, and the provider has not said that it does."""
        return any(part.is_cancel_requested for part in self.parts)

    @property
    def is_canceling(self) -> bool:
        """Whether it is to stop, and has not: all that is left of it is."""
        left = [part for part in self.parts if not part.status.is_terminal]
        return bool(left) and all(part.is_canceling for part in left)

    @property
    def is_cut_short(self) -> bool:
        """Whether it was canceled before its input was read to the end."""
        return self.spooled_at is not None and self.fingerprint is None

    @property
    def is_being_delivered(self) -> bool:
        """Whether its result file is there, and somebody took the results from it elsewhere and came to no end."""
        return self.result_uri is not None and self.applied_at is None

    @property
    def was_canceled(self) -> bool:
        """Whether rows were canceled before they had a first chance; in a round they had one.

        Only a person lets a round follow on that.
        """
        ends = [part.ended_at for part in self.parts if part.status is BatchStatus.CANCELED and not part.round]
        return self.is_cut_short or (bool(ends) and not self._has_round_since(max(filter(None, ends), default=None)))

    def _has_round_since(self, at: datetime | None) -> bool:
        rounds = [part for part in self.parts if part.round and part.status is not BatchStatus.CANCELED]
        sent = [part.intent_at or part.submitted_at for part in rounds]
        return any(sent_at is None or at is None or sent_at > at for sent_at in sent)


class EntryOutcome(msgspec.Struct, frozen=True, gc=False):
    """What the store keeps of one entry's result; the payload stays in the spool."""

    index: int
    status: str
    reason: str | None
    #: Where the raw result line is: part number, byte offset and length in that part's results file.
    part_number: int
    offset: int | None
    length: int | None
    usage: Usage | None
    cost: Cost
    error: str | None = None
    is_repeatable: bool = False
