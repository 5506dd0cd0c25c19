"""What goes into and comes out of the store, and the errors that are the store's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from sqlalchemy import RowMapping

from airflow_raif.domain.batch import Batch, Claim, Counts, Part
from airflow_raif.domain.errors import StoreError
from airflow_raif.domain.money import Budget
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.usage import Cost, Usage

T = TypeVar("T")
USAGE_COLUMNS = Usage.__struct_fields__


MAX_ERROR_LENGTH = 500


#: Values in one statement's ``IN``.
CHUNK = 500


def kept_text(text: str | None, length: int = MAX_ERROR_LENGTH) -> str | None:
    """Return a provider's or a model's text as the tables hold it: of bounded length, and without NUL.

    PostgreSQL's text cannot hold that character.
    """
    return text[:length].replace("\0", "") if text else None


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut values into as many as one statement takes well."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


class ClaimTakenError(StoreError):
    """The task instance holds a batch already; a later attempt finds it."""

    retryable = True

    def __init__(self, message: str, *, batch_id: str) -> None:
        super().__init__(message)
        self.batch_id = batch_id


class BatchMissingError(StoreError):
    """No batch has this id."""


class AttemptLostError(StoreError):
    """Another attempt took up the batch, or somebody canceled it."""

    retryable = True


class NewBatch(msgspec.Struct, kw_only=True, frozen=True):
    """A batch to be created."""

    batch_id: str
    provider: str
    conn_id: str
    model: str
    endpoint: str
    claim: Claim | None
    spool_uri: str
    output_schema: dict[str, Any] | None
    metadata: dict[str, Any]
    round_policy: RoundPolicy = RoundPolicy()
    answer_scope: bytes | None = None
    budget: Budget = Budget()
    created_at: datetime


class NewPart(msgspec.Struct, kw_only=True, frozen=True):
    """A part whose requests are in the spool."""

    #: From 0 within the batch, rounds included.
    number: int
    round: int = 0
    model: str
    #: The first and the last row of its requests.
    first_row: int | None = None
    last_row: int | None = None
    request_count: int
    request_bytes: int
    digest: str | None = None
    rows_read: int | None = None
    is_synchronous: bool = False
    #: Set for rows that take answers of others: when it was whole. Nothing of it is ever sent.
    shared_at: datetime | None = None


class WaitingPart(msgspec.Struct, frozen=True, gc=False):
    """A part that runs at the provider, as far as a poll needs it."""

    batch_id: str
    id: int
    number: int
    provider_batch_id: str
    #: Its create was sent after this.
    intent_at: datetime | None
    submitted_at: datetime | None


class OpenCreate(msgspec.Struct, frozen=True, gc=False):
    """A part whose create has no reply yet."""

    batch_id: str
    number: int
    intent_at: datetime
    input_ref: str | None
    request_bytes: int


class PartRows(msgspec.Struct, frozen=True):
    """The rows that a part of the first round was made of: of a range of the input those of its model."""

    start: int
    stop: int
    #: Its model, whichever parts a round puts its requests into; ``None``: there is no other model.
    model: str | None = None
    #: Only those that lie in these parts.
    part_numbers: tuple[int, ...] | None = None


class Repeat(msgspec.Struct, frozen=True, gc=False):
    """A failed entry that may go out again, and where its request lies in the spool."""

    index: int
    part_number: int
    offset: int
    length: int
    reason: str


class EntryCounts(msgspec.Struct, frozen=True):
    """How many entries of a batch are in which state; ``reasons`` counts the failed ones."""

    pending: int
    completed: int
    failed: int
    reasons: dict[str, int]


class EntryTally(msgspec.Struct, frozen=True):
    """The entries of a batch that share a part, a status and a reason, added up."""

    part_number: int
    status: str
    reason: str | None
    count: int
    #: Bytes of their requests.
    request_bytes: int
    #: How many have a cost, and what they cost in picodollars.
    priced_count: int
    batch_cost: int
    standard_cost: int


class EntryRow(msgspec.Struct, frozen=True, gc=False):
    """One entry, as far as its result row needs it."""

    index: int
    custom_id: str
    status: str
    reason: str | None
    error: str | None
    result_part: int | None
    result_offset: int | None
    result_length: int | None
    batch_cost: int | None
    standard_cost: int | None
    #: ``None``: no tokens were billed for it.
    input_tokens: int | None
    #: The row whose answer it takes.
    same_as: int | None


class KnownAnswer(msgspec.Struct, frozen=True, gc=False):
    """An answer of an earlier batch, and where it lies in that batch's spool."""

    content_hash: bytes
    batch_id: str
    part_number: int
    offset: int
    length: int


def batch_of(row: RowMapping, parts: list[Part]) -> Batch:
    """Read a row of raif_batch."""
    claim = None
    if row["dag_id"] is not None:
        claim = Claim(row["dag_id"], row["run_id"], row["task_id"], row["map_index"])
    names = set(Batch.__struct_fields__) & set(row) - {"status", "round_policy", "budget"}
    return Batch(
        **{name: row[name] for name in names},
        status=BatchStatus(row["status"]),
        claim=claim,
        round_policy=RoundPolicy(**row["round_policy"] or {}),
        budget=Budget(**row["budget"] or {}),
        **_money_of(row),
        parts=parts,
    )


def part_of(row: RowMapping) -> Part:
    """Read a row of raif_part."""
    names = set(Part.__struct_fields__) & set(row) - {"status", "counts"}
    counts = Counts(**row["counts"]) if row["counts"] else None
    return Part(
        **{name: row[name] for name in names}, status=BatchStatus(row["status"]), counts=counts, **_money_of(row)
    )


def money_of(row: Mapping[str, Any]) -> tuple[Usage, Cost]:
    """Read usage and cost."""
    usage = Usage(*(row[name] or 0 for name in USAGE_COLUMNS))
    return usage, Cost(row["batch_cost"], row["standard_cost"], bool(row["cost_is_estimated"]))


def _money_of(row: RowMapping) -> dict[str, Any]:
    return dict(zip(("usage", "cost"), money_of(dict(row)), strict=True))
