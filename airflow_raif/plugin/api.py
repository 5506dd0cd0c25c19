"""The JSON API, under ``/raif/api``: what the pages show and do, with the same permissions, for scripts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from airflow_raif.plugin import payload
from airflow_raif.plugin.access import ActedBatch, PayloadBatch, SeenBatch, StoreDep, ViewerDep
from airflow_raif.plugin.actions import ACTIONS, ActionDep, start
from airflow_raif.plugin.asked import CostGroups, EntryListing, Listing, Position, shown_cursor
from airflow_raif.plugin.batch_page import find_entry
from airflow_raif.plugin.forgery import check_bearer, check_origin
from airflow_raif.plugin.models import (
    ActionOut,
    BatchDetails,
    BatchList,
    BatchOut,
    CostList,
    CostOut,
    EntryList,
    EntryOut,
    FailureList,
    PartOut,
    Problem,
    StatusCounts,
    Tokens,
)
from airflow_raif.plugin.progress import progress_of
from airflow_raif.plugin.prometheus import CONTENT_TYPE, metrics_text
from airflow_raif.store import CostFilter, CostGroup

PREFIX = "/api"
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": told}
    for code, told in (
        (401, "No valid token or session."),
        (403, "Not allowed for this Dag."),
        (404, "There is no such batch, entry or action."),
        (503, "The store cannot be asked."),
    )
}
router = APIRouter(prefix=PREFIX, responses=_PROBLEMS)


def is_asked(request: Request) -> bool:
    """Whether a request is for the JSON API, not for a page."""
    path = request.url.path.removeprefix(str(request.scope.get("root_path", "")))
    return path == PREFIX or path.startswith(f"{PREFIX}/")


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request, viewer: ViewerDep) -> JSONResponse:  # noqa: ARG001 - only who is logged in sees it
    """Return the description of this API."""
    described = dict(request.app.openapi())
    described["servers"] = [{"url": request.scope.get("root_path", "")}]
    return JSONResponse(described)


@router.get("/batches")
def list_batches(viewer: ViewerDep, store: StoreDep, asked: Annotated[Listing, Query()]) -> BatchList:
    """List the batches that the caller may see."""
    now, found = datetime.now(UTC), store.list_batches(viewer.sees(store), asked.wanted(), asked.at())
    usual = store.usual_seconds()
    return BatchList(
        batches=[BatchOut.of(batch, progress_of(batch, usual, now)) for batch in found.batches],
        previous=shown_cursor(found.before),
        next=shown_cursor(found.after),
    )


@router.get("/batches/counts")
def count_batches(viewer: ViewerDep, store: StoreDep, asked: Annotated[Listing, Query()]) -> StatusCounts:
    """Count the batches that the caller may see by status; a status that is asked for narrows nothing."""
    return StatusCounts(counts=store.count_batches(viewer.sees(store), asked.wanted()))


@router.get("/costs")
def sum_costs(viewer: ViewerDep, store: StoreDep, asked: Annotated[CostGroups, Query()]) -> CostList:
    """Add up what the batches cost that the caller may see, by day (UTC, of creation), Dag, model and so on."""
    rows = store.sum_costs(asked.by, asked.wanted(viewer.sees(store)))
    return CostList(costs=[CostOut.of(row) for row in rows])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def get_metrics(viewer: ViewerDep, store: StoreDep) -> Response:
    """Add up for Prometheus what the caller may see: batches by status, rows by outcome, cost, and the oldest's age."""
    visible = viewer.sees(store)
    costs = store.sum_costs([CostGroup.PROVIDER], CostFilter(dag_ids=visible.dag_ids, conn_ids=visible.conn_ids))
    told = metrics_text(store.tally_batches(visible), costs, datetime.now(UTC))
    return Response(told, headers={"content-type": CONTENT_TYPE})


@router.get("/batches/{batch_id}")
def get_batch(batch: SeenBatch, viewer: ViewerDep, store: StoreDep) -> BatchDetails:
    """Return a batch with its parts."""
    progress = progress_of(batch, {} if batch.status.is_terminal else store.usual_seconds(), datetime.now(UTC))
    may_act = viewer.may_act(batch)
    return BatchDetails.of(
        batch,
        progress,
        usage=Tokens.of(batch.usage),
        parts=[PartOut.of(part) for part in batch.parts],
        actions=[action.name for action in ACTIONS.values() if may_act and action.is_possible(batch)],
    )


@router.get("/batches/{batch_id}/failures")
def get_failures(batch: SeenBatch, viewer: ViewerDep, store: StoreDep) -> FailureList:
    """Count what failed of a batch by reason and message; messages only for who may read the task's logs."""
    return FailureList.of(store.failures_of(batch), with_messages=viewer.may_see_payload(batch))


@router.get("/batches/{batch_id}/entries")
def list_entries(
    batch: SeenBatch, viewer: ViewerDep, store: StoreDep, asked: Annotated[EntryListing, Query()]
) -> EntryList:
    """List a batch's entries in input order; errors only for who may read the task's logs."""
    entries, has_previous, has_next = store.list_entries(batch, asked.wanted())
    with_error = viewer.may_see_payload(batch)
    return EntryList(
        entries=[EntryOut.of(entry, with_error=with_error) for entry in entries],
        previous=entries[0].index if entries and has_previous else None,
        next=entries[-1].index + 1 if entries and has_next else None,
    )


@router.get("/batches/{batch_id}/entries/{index}")
def get_entry(batch: SeenBatch, viewer: ViewerDep, store: StoreDep, index: Position) -> EntryOut:
    """Return an entry."""
    return EntryOut.of(find_entry(store, batch, index), with_error=viewer.may_see_payload(batch))


@router.get("/batches/{batch_id}/entries/{index}/{which}", response_class=Response)
def get_payload(batch: PayloadBatch, store: StoreDep, index: Position, which: payload.Which) -> Response:
    """Return an entry's request as sent, or its result as received."""
    raw = payload.whole(batch, find_entry(store, batch, index), which)
    if raw is None:
        return JSONResponse({"detail": f"The spool has no {which} of this entry."}, status_code=404)
    name = f"{batch.batch_id}-{index}-{which}.json"
    return Response(
        raw, media_type="application/json", headers={"content-disposition": f'attachment; filename="{name}"'}
    )


@router.post(
    "/batches/{batch_id}/{action}",
    dependencies=[Depends(check_origin)],
    responses={409: {"model": Problem, "description": "It cannot be done to the batch as it is."}},
)
async def act(request: Request, batch: ActedBatch, viewer: ViewerDep, action: ActionDep) -> ActionOut:
    """Cancel, fetch, retry, resume or expire a batch, without a question.

    Needs a token in the Authorization header; a cookie is not enough.
    """
    check_bearer(request)
    done = await start(action, viewer, batch)
    if done is None:
        return ActionOut(is_done=False, told="It goes on after this answer.", tasks=[], status=batch.status)
    return ActionOut(is_done=done.is_through, told=done.sentence, tasks=done.tasks, status=done.batch.status)
