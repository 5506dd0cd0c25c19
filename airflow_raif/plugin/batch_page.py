"""A batch and one of its entries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.status import EntryStatus, FailureReason
from airflow_raif.plugin import payload
from airflow_raif.plugin.access import PayloadBatch, SeenBatch, StoreDep, ViewerDep
from airflow_raif.plugin.actions import ACTIONS
from airflow_raif.plugin.progress import progress_of
from airflow_raif.plugin.render import page
from airflow_raif.plugin.timeline import timeline_of
from airflow_raif.store import EntriesWanted, ListedEntry, Store

router = APIRouter()


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


class EntryListing(BaseModel):
    """Which entries of a batch are asked for, as an address has it."""

    model_config = ConfigDict(extra="ignore")

    status: Annotated[EntryStatus | None, BeforeValidator(_none_if_empty)] = None
    reason: Annotated[FailureReason | None, BeforeValidator(_none_if_empty)] = Field(
        None, description="Only entries that failed for this reason."
    )
    part: Annotated[int | None, BeforeValidator(_none_if_empty)] = Field(None, ge=0, le=10**6)
    custom_id: Annotated[str | None, BeforeValidator(_none_if_empty)] = Field(None, max_length=2000)
    start: int = Field(0, ge=0, le=10**12, description="Position in the input to begin with.")
    before: int | None = Field(None, ge=0, le=10**12, description="Instead: the page before this position.")
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


#: What was done, by the name of an action, where the next page tells it.
_DONE = {action.name: action.done for action in ACTIONS.values()} | {
    f"{action.name}-running": f"{action.title} goes on; this page shows what comes of it."
    for action in ACTIONS.values()
}


@router.get("/batches/{batch_id}")
def show_batch(
    request: Request,
    batch: SeenBatch,
    viewer: ViewerDep,
    store: StoreDep,
    asked: Annotated[EntryListing, Query()],
    done: str = "",
) -> HTMLResponse:
    """Show a batch, its parts, what failed, and its entries."""
    now = datetime.now(UTC)
    is_over = batch.status.is_terminal
    entries, has_previous, has_following = store.list_entries(batch, asked.wanted())
    may_act = viewer.may_act(batch)
    return page(
        request,
        "batch.html",
        batch=batch,
        progress=progress_of(batch, {} if is_over else store.usual_seconds(), now),
        timeline=timeline_of(batch, now),
        failures=store.failures_of(batch),
        asked=asked,
        given=asked.model_dump(mode="json", exclude_defaults=True, exclude={"start", "before", "limit"}),
        entries=entries,
        previous=entries[0].index if entries and has_previous else None,
        following=entries[-1].index + 1 if entries and has_following else None,
        actions=[action for action in ACTIONS.values() if may_act and action.is_possible(batch)],
        may_see_payload=viewer.may_see_payload(batch),
        is_live=not is_over or batch.results_fetched_at is None,
        done=_DONE.get(done, ""),
    )


def find_entry(store: Store, batch: Batch, index: int) -> ListedEntry:
    """Return an entry.

    :raises HTTPException: 404, there is none at this position.
    """
    entry = store.find_entry(batch, index)
    if entry is None:
        raise HTTPException(404, f"Batch {batch.batch_id} has no entry {index}.")
    return entry


@router.get("/batches/{batch_id}/entries/{index}")
def show_entry(request: Request, batch: PayloadBatch, store: StoreDep, index: int) -> HTMLResponse:
    """Show an entry's request and result."""
    entry = find_entry(store, batch, index)
    place = payload.result_place(entry)
    return page(
        request,
        "entry.html",
        batch=batch,
        entry=entry,
        sent=payload.shown_payload(batch, payload.request_place(entry)),
        received=place and payload.shown_payload(batch, place),
        has_result=place is not None,
        answer=payload.answer_of(batch, entry),
    )
