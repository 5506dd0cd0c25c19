"""The list of batches, and the tab of a task instance."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from airflow_raif.adapters.registry import ADAPTERS
from airflow_raif.plugin.access import StoreDep, ViewerDep
from airflow_raif.plugin.asked import Listing, shown_cursor
from airflow_raif.plugin.progress import progress_of
from airflow_raif.plugin.render import page

router = APIRouter()


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
        models=sorted({batch.model for batch in found.batches}),
        providers=sorted(ADAPTERS),
    )


@router.get("/task")
def show_task(request: Request, viewer: ViewerDep, store: StoreDep, asked: Annotated[Listing, Query()]) -> Response:
    """Show the batch of a task instance, or the list of those it made."""
    if asked.dag_id is None or asked.task_id is None:
        raise HTTPException(422, "Name a Dag and a task.")
    found = store.list_batches(viewer.sees(store), asked.wanted(), asked.at())
    # Who narrows the list, or turns its pages, looks at the list, however little is left in it.
    is_tab = asked.model_dump(exclude_defaults=True).keys() <= {"dag_id", "run_id", "task_id", "map_index"}
    if is_tab and len(found.batches) == 1:
        return RedirectResponse(f"{request.scope['root_path']}/batches/{found.batches[0].batch_id}", status_code=302)
    return list_batches(request, viewer, store, asked)
