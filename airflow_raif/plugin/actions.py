"""What can be done to a batch on its page: asked first, written to the audit log, done off the event loop.

Nothing here creates anything at a provider: that is for workers. A batch job that has to be sent is made pending, and
its task cleared, so that a worker sends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import RaifError
from airflow_raif.hooks.airflow_compat import write_audit_log
from airflow_raif.hooks.runtime import open_batch_runtime
from airflow_raif.plugin.access import ActedBatch, Viewer, ViewerDep
from airflow_raif.plugin.forgery import check_origin, check_token, make_token
from airflow_raif.plugin.render import page
from airflow_raif.services.runtime import Runtime

log = logging.getLogger(__name__)
router = APIRouter()

#: Seconds that a page waits for an action before it goes on without its end.
WAIT_SECONDS = 10.0
#: Actions at work at the same time; more wait, so that many clicks do not take the API server's threads.
_POOL = ThreadPoolExecutor(4, thread_name_prefix="raif-action")
_AT_WORK: dict[tuple[str, str], Future[None]] = {}


@dataclass(frozen=True)
class Action:
    """One of them."""

    name: str
    #: On its button.
    title: str
    #: What it does and costs, asked before it is done.
    question: Callable[[Batch], str]
    is_possible: Callable[[Batch], bool]
    run: Callable[[Runtime, Batch], object]
    #: Told when it was done.
    done: str
    is_dangerous: bool = False

    @property
    def event(self) -> str:
        """Its name in Airflow's audit log."""
        return f"raif_{self.name}_batch"


def _fetch(runtime: Runtime, batch: Batch) -> None:
    from airflow_raif.services.fetch import fetch_ended_parts
    from airflow_raif.services.poll import fetch_batch_status

    fetch_batch_status(runtime, batch.batch_id)
    fetch_ended_parts(runtime, batch.batch_id)


def _cancel(runtime: Runtime, batch: Batch) -> None:
    from airflow_raif.services.cancel import cancel_batch

    cancel_batch(runtime, batch.batch_id)


def _expire(runtime: Runtime, batch: Batch) -> None:
    from airflow_raif.services.expire import expire_batch

    expire_batch(runtime, batch.batch_id, may_cancel=True)


def _is_sent(batch: Batch) -> bool:
    return not batch.status.is_terminal and (batch.is_sent or batch.is_held_back or batch.is_cancel_requested)


ACTIONS = {
    action.name: action
    for action in (
        Action(
            "fetch",
            "Fetch now",
            lambda batch: (
                f"{batch.provider} is asked how batch {batch.batch_id} is, and the results of what has ended are"
                " downloaded. This costs nothing."
            ),
            lambda batch: batch.is_sent and batch.results_fetched_at is None,
            _fetch,
            "The provider was asked, and what had ended was fetched.",
        ),
        Action(
            "cancel",
            "Cancel",
            lambda batch: (
                f"{batch.provider} is asked to stop batch {batch.batch_id}. Rows that are done by then are paid for and"
                " can be fetched; the others fail as canceled, and the task fails for good: only clearing it makes a"
                " new batch, which is paid anew."
            ),
            lambda batch: _is_sent(batch) and not batch.is_canceling,
            _cancel,
            "The provider was asked to stop the batch. It may take some minutes until it has.",
            is_dangerous=True,
        ),
        Action(
            "expire",
            "Expire",
            lambda batch: (
                f"Batch {batch.batch_id} is given up: {batch.provider} is asked once more, what still runs is canceled,"
                " and what has ended is fetched. Rows that are done by then are paid for; the others fail."
            ),
            _is_sent,
            _expire,
            "The batch was given up; what had ended was fetched.",
            is_dangerous=True,
        ),
    )
}


def find_action(action: str) -> Action:
    """Return the action of a name.

    :raises HTTPException: 404, there is none.
    """
    if action not in ACTIONS:
        raise HTTPException(404, f"There is no action {action!r}.")
    return ACTIONS[action]


ActionDep = Annotated[Action, Depends(find_action)]


async def start(action: Action, viewer: Viewer, batch: Batch) -> bool:
    """Do something to a batch; return whether it was done within :data:`WAIT_SECONDS`, otherwise it goes on.

    :raises HTTPException: 409, it cannot be done to the batch as it is.
    :raises RaifError: it could not be done.
    """
    if not action.is_possible(batch):
        raise HTTPException(409, f"Batch {batch.batch_id} is {batch.status}: there is nothing to {action.name}.")
    await run_in_threadpool(write_audit_log, viewer.user, action.event, batch.claim, {"batch_id": batch.batch_id})
    key = (batch.batch_id, action.name)
    work = _AT_WORK.get(key)
    if work is None:
        # Whoever asks for the same meanwhile waits for the same.
        work = _AT_WORK[key] = _POOL.submit(_run, action, batch)
        work.add_done_callback(lambda _: _AT_WORK.pop(key, None))
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    work.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
    try:
        await asyncio.wait_for(ended.wait(), WAIT_SECONDS)
    except TimeoutError:
        work.add_done_callback(lambda work: _tell_end(action, viewer, batch, work))
        return False
    work.result()
    return True


def _run(action: Action, batch: Batch) -> None:
    # Whatever would be paid for is refused: it is not sent from here.
    with open_batch_runtime(batch.batch_id, is_ending=lambda: True) as (runtime, current):
        action.run(runtime, current)


def _tell_end(action: Action, viewer: Viewer, batch: Batch, work: Future[None]) -> None:
    """Write to the log how an action failed that nobody waited for."""
    error = work.exception()
    if error is None:
        return
    log.error("%s of batch %s, asked for by %s, failed", action.title, batch.batch_id, viewer.name, exc_info=error)
    told = str(error) if isinstance(error, RaifError) else type(error).__name__
    extra = {"batch_id": batch.batch_id, "error": told}
    write_audit_log(viewer.user, f"{action.event}_failed", batch.claim, extra)


@router.get("/batches/{batch_id}/{action}")
def ask(request: Request, batch: ActedBatch, viewer: ViewerDep, action: ActionDep) -> HTMLResponse:
    """Ask whether an action is meant."""
    return page(
        request,
        "ask.html",
        batch=batch,
        action=action,
        token=make_token(viewer, batch.batch_id, action.name),
        is_possible=action.is_possible(batch),
    )


@router.post("/batches/{batch_id}/{action}", dependencies=[Depends(check_origin)])
async def act(
    request: Request, batch: ActedBatch, viewer: ViewerDep, action: ActionDep, token: Annotated[str, Form()] = ""
) -> Response:
    """Do it, and go back to the batch."""
    check_token(token, viewer, batch.batch_id, action.name)
    is_done = await start(action, viewer, batch)
    told = action.name if is_done else f"{action.name}-running"
    return RedirectResponse(f"{request.scope['root_path']}/batches/{batch.batch_id}?done={told}", status_code=303)
