"""What lists are asked for, as their addresses have it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from airflow_raif.domain.status import BatchStatus, EntryStatus, FailureReason
from airflow_raif.store import CostFilter, CostGroup, Cursor, EntriesWanted, PageWanted, Visible, Wanted

#: Days that costs are shown of where none are asked for.
DAYS = 30


def _none_if_empty(value: object) -> object:
    """An empty field of a form narrows nothing; nor does a name that Airflow's UI had no value for."""
    if isinstance(value, list):
        return [each for each in value if each != ""]
    if not isinstance(value, str):
        return value
    # No database holds that character in a text.
    value = value.replace("\0", "")
    return None if value == "" or value.startswith("{") else value


T = TypeVar("T")
_Given = Annotated[T | None, BeforeValidator(_none_if_empty)]
_Text = _Given[Annotated[str, StringConstraints(max_length=250)]]
_Place = _Given[Annotated[str, StringConstraints(pattern=r"^-?\d{1,18}\.\d{1,18}$")]]
_Day = Annotated[date, Field(ge=date(1970, 1, 1), lt=date(9999, 1, 1))]
#: A position in a batch's input.
Position = Annotated[int, Field(ge=0, lt=10**12)]


class Listing(BaseModel):
    """What a list is asked for, as its address has it."""

    model_config = ConfigDict(extra="ignore")

    status: Annotated[list[BatchStatus], BeforeValidator(_none_if_empty)] = Field(
        default_factory=list, description="Only batches of these statuses."
    )
    provider: _Text = None
    model: _Text = None
    dag_id: _Text = None
    run_id: _Text = None
    task_id: _Text = None
    map_index: _Given[Annotated[int, Field(ge=-1, lt=2**31)]] = None
    since: _Given[_Day] = Field(None, description="Only batches created on this day (UTC) or later.")
    until: _Given[_Day] = Field(None, description="Only batches created on this day (UTC) or earlier.")
    failed: bool = Field(False, description="Only batches with failed rows.")
    q: _Text = Field(
        None, description="Found in names of Dag, run, task and model and in errors, or the beginning of an id."
    )
    sort: Literal["created", "cost", "rows", "failed"] = "created"
    order: Literal["desc", "asc"] = "desc"
    after: _Place = Field(None, description="The `next` of the page before.")
    before: _Place = Field(None, description="The `previous` of the page after.")
    limit: int = Field(50, ge=1, le=500, description="At most so many.")

    def wanted(self) -> Wanted:
        """Return the filters."""
        return Wanted(
            statuses=tuple(self.status),
            provider=self.provider,
            model=self.model,
            dag_id=self.dag_id,
            run_id=self.run_id,
            task_id=self.task_id,
            map_index=self.map_index,
            created_from=_midnight(self.since),
            created_before=_midnight(self.until and self.until + timedelta(days=1)),
            has_failures=self.failed,
            text=self.q and self.q.strip(),
        )

    def at(self) -> PageWanted:
        """Return the page and its order."""
        return PageWanted(
            order=self.sort,
            is_ascending=self.order == "asc",
            after=_cursor(self.after),
            before=_cursor(self.before),
            size=self.limit,
        )

    def given(self) -> dict[str, object]:
        """Return what was asked for, as a query; a place in the list is left out."""
        values = self.model_dump(mode="json", exclude_defaults=True, exclude={"after", "before"})
        return {name: "1" if value is True else value for name, value in values.items()}


def _midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC)


def _cursor(text: str | None) -> Cursor | None:
    return None if text is None else Cursor(*map(int, text.split(".")))


def shown_cursor(cursor: Cursor | None) -> str | None:
    """Return a place in a list as addresses have it."""
    return None if cursor is None else f"{cursor.value}.{cursor.key}"


class EntryListing(BaseModel):
    """Which entries of a batch are asked for, as an address has it."""

    model_config = ConfigDict(extra="ignore")

    status: _Given[EntryStatus] = None
    reason: _Given[FailureReason] = Field(None, description="Only entries that failed for this reason.")
    part: _Given[Annotated[int, Field(ge=0, le=10**6)]] = None
    custom_id: _Given[Annotated[str, StringConstraints(max_length=2000)]] = None
    start: Annotated[int, BeforeValidator(lambda value: value or 0)] = Field(
        0, ge=0, lt=10**12, description="Position in the input to begin with."
    )
    before: int | None = Field(None, ge=0, lt=10**12, description="Instead: the page before this position.")
    limit: int = Field(50, ge=1, le=500, description="At most so many.")

    def wanted(self) -> EntriesWanted:
        """Return the filters and the page."""
        return EntriesWanted(
            status=self.status,
            reason=self.reason,
            part_number=self.part,
            custom_id=self.custom_id,
            start=self.start,
            before=self.before,
            size=self.limit,
        )


class BatchView(EntryListing):
    """What the page of a batch is asked for."""

    done: str = Field("", description="A note on what was done to it.")


class CostListing(BaseModel):
    """Of which batches costs are asked for."""

    model_config = ConfigDict(extra="ignore")

    since: _Given[_Day] = Field(None, description="Batches created on this day (UTC) or later; 30 days back if empty.")
    until: _Given[_Day] = Field(None, description="Batches created on this day (UTC) or earlier; today if empty.")
    provider: _Text = None
    model: _Text = None
    dag_id: _Text = None

    def days(self) -> tuple[date, date]:
        """Return the first and the last day."""
        until = self.until or datetime.now(UTC).date()
        return min(self.since or until - timedelta(days=DAYS - 1), until), until

    def wanted(self, visible: Visible) -> CostFilter:
        """Return the filter, among what somebody may see."""
        since, until = self.days()
        dag_ids, conn_ids = visible.dag_ids, visible.conn_ids
        if self.dag_id is not None:
            is_seen = dag_ids is None or self.dag_id in dag_ids
            dag_ids, conn_ids = frozenset([self.dag_id] if is_seen else []), frozenset()
        return CostFilter(
            since=_midnight(since),
            until=_midnight(until + timedelta(days=1)),
            dag_ids=dag_ids,
            conn_ids=conn_ids,
            provider=self.provider,
            model=self.model,
        )


class CostGroups(CostListing):
    """The same, and what they are added up by."""

    by: Annotated[list[CostGroup], AfterValidator(lambda by: list(dict.fromkeys(by)))] = Field(
        default_factory=list, description="Nothing: one sum of all."
    )
