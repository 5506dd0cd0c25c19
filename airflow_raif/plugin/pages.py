"""The list of batches, and the tab of a task instance."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from airflow_raif.adapters.registry import ADAPTERS
from airflow_raif.domain.status import BatchStatus
from airflow_raif.plugin.access import StoreDep, ViewerDep
from airflow_raif.plugin.progress import progress_of
from airflow_raif.plugin.render import page
from airflow_raif.store import Cursor, PageWanted, Wanted

router = APIRouter()


def _none_if_empty(value: object) -> object:
    """An empty field of a form narrows nothing; nor does a name that Airflow's UI had no value for."""
    if isinstance(value, list):
        return [each for each in value if each != ""]
    return None if value == "" or (isinstance(value, str) and value.startswith("{")) else value


_Text = Annotated[str | None, BeforeValidator(_none_if_empty), Field(max_length=250)]
_Place = Annotated[str | None, BeforeValidator(_none_if_empty), Field(pattern=r"^-?\d{1,18}\.\d{1,18}$")]


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
    map_index: Annotated[int | None, BeforeValidator(_none_if_empty)] = None
    since: Annotated[date | None, BeforeValidator(_none_if_empty)] = Field(
        None, description="Only batches created on this day (UTC) or later."
    )
    until: Annotated[date | None, BeforeValidator(_none_if_empty)] = Field(
        None, description="Only batches created on this day (UTC) or earlier."
    )
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
        values = self.model_dump(mode="json", exclude_defaults=True, exclude={"after", "before", "limit"})
        return {name: "1" if value is True else value for name, value in values.items()}


def _midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC)


def _cursor(text: str | None) -> Cursor | None:
    return None if text is None else Cursor(*map(int, text.split(".")))


def shown_cursor(cursor: Cursor | None) -> str | None:
    """Return a place in a list as addresses have it."""
    return None if cursor is None else f"{cursor.value}.{cursor.key}"


@router.get("/")
def list_batches(
    request: Request, viewer: ViewerDep, store: StoreDep, asked: Annotated[Listing, Query()]
) -> HTMLResponse:
    """Show batches, newest first unless another order is asked for."""
    visible, wanted, now = viewer.sees(store), asked.wanted(), datetime.now(UTC)
    found = store.list_batches(visible, wanted, asked.at())
    counts = store.count_batches(visible, wanted)
    is_running = any(not batch.status.is_terminal for batch in found.batches)
    usual = store.usual_seconds() if is_running else {}
    return page(
        request,
        "list.html",
        asked=asked,
        given=asked.given(),
        rows=[(batch, progress_of(batch, usual, now)) for batch in found.batches],
        counts=counts,
        total=sum(counts[each] for each in (asked.status or counts) if each in counts),
        previous=shown_cursor(found.before),
        following=shown_cursor(found.after),
        models=sorted({model for _, model in store.models_of(visible)}),
        providers=sorted(ADAPTERS),
        is_live=is_running,
    )


@router.get("/task")
def show_task(request: Request, viewer: ViewerDep, store: StoreDep, asked: Annotated[Listing, Query()]) -> Response:
    """Show the batch of a task instance, or the list of those it made."""
    if asked.dag_id is None or asked.task_id is None:
        raise HTTPException(422, "Name a Dag and a task.")
    found = store.list_batches(viewer.sees(store), asked.wanted(), asked.at())
    if len(found.batches) == 1:
        return RedirectResponse(f"{request.scope['root_path']}/batches/{found.batches[0].batch_id}", status_code=302)
    return list_batches(request, viewer, store, asked)
