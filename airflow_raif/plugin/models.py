"""What the JSON API answers. Money is US dollars as decimal text, times are UTC, unknown values are null."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, Field

from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.status import BatchStatus, EntryStatus, FailureReason
from airflow_raif.domain.usage import Cost, Usage, usd
from airflow_raif.plugin.progress import Progress
from airflow_raif.store import CostRow, Failures, ListedBatch, ListedEntry


class Tokens(BaseModel):
    """Tokens; the cached ones are part of the input, the reasoning ones of the output."""

    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """Read usage."""
        return cls(**{name: getattr(usage, name) for name in cls.model_fields})


class Money(BaseModel):
    """What something cost."""

    batch: str | None = Field(description="At batch price, USD; null where no price is known.")
    standard: str | None = Field(description="What the same tokens cost through the synchronous API, USD.")
    is_estimated: bool = Field(description="Whether no batch price is known, so that the figure is a guess.")

    @classmethod
    def of(cls, cost: Cost) -> Self:
        """Read costs."""
        return cls(batch=_text(cost.batch), standard=_text(cost.standard), is_estimated=cost.is_estimated)


class Rows(BaseModel):
    """Rows by outcome."""

    total: int
    completed: int
    failed: int
    done_at_provider: int = Field(
        description="Done by the provider's own counters, in parts whose results were not fetched."
    )

    @classmethod
    def of(cls, progress: Progress) -> Self:
        """Read progress."""
        return cls(
            total=progress.total,
            completed=progress.completed,
            failed=progress.failed,
            done_at_provider=progress.told,
        )


class BatchOut(BaseModel):
    """A batch, as lists have it."""

    batch_id: str
    status: BatchStatus
    provider: str
    conn_id: str
    model: str
    dag_id: str | None
    run_id: str | None
    task_id: str | None
    map_index: int | None
    rows: Rows
    seconds_left: float | None = Field(description="An estimate; negative: it takes longer than is usual.")
    cost: Money
    estimated_cost: str | None = Field(description="What it was expected to cost before it was sent, USD.")
    error: str | None
    created_at: datetime
    submitted_at: datetime | None
    ended_at: datetime | None
    results_fetched_at: datetime | None
    applied_at: datetime | None

    @classmethod
    def of(cls, batch: ListedBatch | Batch, progress: Progress, **more: Any) -> Self:
        """Read a batch."""
        names = cls.model_fields.keys() - more.keys() - {"rows", "cost", "estimated_cost", "seconds_left"}
        if isinstance(batch, Batch):
            cost, claim = batch.cost, batch.claim
            task = ("dag_id", "run_id", "task_id", "map_index")
            more |= {name: claim and getattr(claim, name) for name in task}
            names -= set(task)
        else:
            cost = Cost(batch.batch_cost, batch.standard_cost, batch.cost_is_estimated)
        values = {name: getattr(batch, name) for name in names} | {"estimated_cost": _text(batch.estimated_cost)}
        return cls(rows=Rows.of(progress), cost=Money.of(cost), seconds_left=progress.seconds_left, **values, **more)


class PartOut(BaseModel):
    """One batch job at the provider."""

    number: int
    round: int
    status: BatchStatus
    raw_status: str | None = Field(description="The provider's own word.")
    provider_batch_id: str | None
    model: str
    request_count: int
    completed_count: int
    is_synchronous: bool
    error: str | None
    intent_at: datetime | None = Field(description="When its create was about to be sent.")
    submitted_at: datetime | None
    progressed_at: datetime | None = Field(description="When the provider first told of a request that was done.")
    polled_at: datetime | None
    ended_at: datetime | None
    expires_at: datetime | None
    results_fetched_at: datetime | None
    applied_at: datetime | None

    @classmethod
    def of(cls, part: Part) -> Self:
        """Read a part."""
        return cls(**{name: getattr(part, name) for name in cls.model_fields})


class BatchDetails(BatchOut):
    """A batch with its parts."""

    endpoint: str
    usage: Tokens
    result_uri: str | None
    parts: list[PartOut]
    actions: list[str] = Field(description="What the caller can do to it now.")


class BatchList(BaseModel):
    """A page of batches."""

    batches: list[BatchOut]
    previous: str | None = Field(description="Give it as `before` for the page before; null: there is none.")
    next: str | None = Field(description="Give it as `after` for the page after; null: there is none.")


class StatusCounts(BaseModel):
    """How many batches are of each status."""

    counts: dict[BatchStatus, int]


class EntryOut(BaseModel):
    """One request of a batch and its outcome; its texts are at `…/entries/{index}/request` and `…/result`."""

    index: int = Field(description="Its position in the input, from 0.")
    custom_id: str
    status: EntryStatus
    reason: FailureReason | None
    error: str | None
    part: int
    usage: Tokens | None
    cost: Money

    @classmethod
    def of(cls, entry: ListedEntry, *, with_error: bool) -> Self:
        """Read an entry."""
        return cls(
            index=entry.index,
            custom_id=entry.custom_id,
            status=entry.status,
            reason=entry.reason,
            error=entry.error if with_error else None,
            part=entry.part_number,
            usage=None if entry.usage is None else Tokens.of(entry.usage),
            cost=Money.of(entry.cost),
        )


class EntryList(BaseModel):
    """A page of entries in input order."""

    entries: list[EntryOut]
    previous: int | None = Field(description="Give it as `before` for the page before.")
    next: int | None = Field(description="Give it as `start` for the page after.")


class FailureOut(BaseModel):
    """Entries that failed with one reason and message."""

    reason: FailureReason
    message: str | None
    count: int


class FailureList(BaseModel):
    """What failed of a batch."""

    reasons: dict[FailureReason, int]
    groups: list[FailureOut]
    is_sample: bool = Field(description="Whether so many failed that only the messages of the first were counted.")

    @classmethod
    def of(cls, failures: Failures, *, with_messages: bool) -> Self:
        """Read failures."""
        groups = [
            FailureOut(reason=group.reason, message=group.message, count=group.count) for group in failures.groups
        ]
        return cls(reasons=failures.reasons, groups=groups if with_messages else [], is_sample=failures.is_sample)


class CostOut(BaseModel):
    """What the batches of one group used and cost."""

    group: dict[str, str | None] = Field(
        description="By what was asked for; a null Dag: no Dag made the batch; an empty model: answers of other rows."
    )
    batch_count: int
    request_count: int
    usage: Tokens
    cost: Money
    unpriced_count: int = Field(description="Requests that were answered, and for whose model no price is known.")

    @classmethod
    def of(cls, row: CostRow) -> Self:
        """Read a row."""
        return cls(
            group=row.group,
            batch_count=row.batch_count,
            request_count=row.request_count,
            usage=Tokens.of(row.usage),
            cost=Money.of(row.cost),
            unpriced_count=row.unpriced_count,
        )


class CostList(BaseModel):
    """Costs, in the order of their groups."""

    costs: list[CostOut]


class ActionOut(BaseModel):
    """What came of an action."""

    is_done: bool = Field(description="False: it goes on after this answer, or something is left to be done.")
    told: str = Field(description="What was done, and what is to be done next.")
    tasks: list[str] = Field(description="Tasks that were cleared, and so run again.")
    status: BatchStatus


class Problem(BaseModel):
    """Why something was not done."""

    detail: str


def _text(pico: int | None) -> str | None:
    amount = usd(pico)
    return None if amount is None else format(amount, "f")
