"""A batch and one of its entries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.next_step import next_step_of
from airflow_raif.plugin import payload
from airflow_raif.plugin.access import PayloadBatch, SeenBatch, StoreDep, ViewerDep
from airflow_raif.plugin.actions import ACTIONS
from airflow_raif.plugin.asked import BatchView, Position
from airflow_raif.plugin.forgery import read_note
from airflow_raif.plugin.progress import progress_of
from airflow_raif.plugin.render import page
from airflow_raif.plugin.timeline import timeline_of
from airflow_raif.store import ListedEntry, Store

router = APIRouter()


@router.get("/batches/{batch_id}")
def show_batch(
    request: Request,
    batch: SeenBatch,
    viewer: ViewerDep,
    store: StoreDep,
    asked: Annotated[BatchView, Query()],
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
        given=asked.model_dump(mode="json", exclude_defaults=True, exclude={"start", "before", "done"}),
        entries=entries,
        previous=entries[0].index if entries and has_previous else None,
        following=entries[-1].index + 1 if entries and has_following else None,
        actions=[action for action in ACTIONS.values() if may_act and action.is_possible(batch)],
        may_see_payload=viewer.may_see_payload(batch),
        is_live=not is_over or batch.results_fetched_at is None,
        done=read_note(asked.done),
        step=next_step_of(batch),
    )


def find_entry(store: Store, batch: Batch, index: Position) -> ListedEntry:
    """Return an entry.

    :raises HTTPException: 404, there is none at this position.
    """
    entry = store.find_entry(batch, index)
    if entry is None:
        raise HTTPException(404, f"Batch {batch.batch_id} has no entry {index}.")
    return entry


@router.get("/batches/{batch_id}/entries/{index}")
def show_entry(request: Request, batch: PayloadBatch, store: StoreDep, index: Position) -> HTMLResponse:
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
