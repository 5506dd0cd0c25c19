"""What can be done to a batch on its page: asked first, written to the audit log, done off the event loop.

Nothing here creates anything at a provider: that is for workers. What a retry sends is made pending, and its task is
cleared, so that a worker sends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import RaifError
from airflow_raif.domain.next_step import NextStep, next_step_of
from airflow_raif.hooks import by_hand
from airflow_raif.hooks.airflow_server import write_audit_log
from airflow_raif.hooks.by_hand import Done
from airflow_raif.plugin import shown
from airflow_raif.plugin.access import ActedBatch, Viewer, ViewerDep
from airflow_raif.plugin.forgery import check_origin, check_token, make_note, make_token
from airflow_raif.plugin.progress import progress_of
from airflow_raif.plugin.render import page

log = logging.getLogger(__name__)
router = APIRouter()

#: Seconds that a page waits for an action before it goes on without its end.
WAIT_SECONDS = 10.0
#: Actions at work at the same time; more wait, so that many clicks do not take the API server's threads.
_POOL = ThreadPoolExecutor(4, thread_name_prefix="raif-action")
_AT_WORK: dict[tuple[str, str], Future[Done]] = {}


@dataclass(frozen=True)
class Action:
    """One of them."""

    name: str
    #: On its button.
    title: str
    #: What it does and costs, as a person is asked before; raises what the action would.
    question: Callable[[Batch], str]
    is_possible: Callable[[Batch], bool]
    run: Callable[[str], Done]
    is_dangerous: bool = False

    @property
    def event(self) -> str:
        """Its name in Airflow's audit log."""
        return f"raif_{self.name}_batch"


def _is_at_work(batch: Batch) -> bool:
    return not batch.status.is_terminal and (batch.is_sent or batch.is_held_back or batch.is_cancel_requested)


def _is_fetchable(batch: Batch) -> bool:
    return batch.is_sent and batch.results_fetched_at is None


def _is_stuck(batch: Batch) -> bool:
    step = next_step_of(batch)
    return step.is_for_task or step in (NextStep.LOOK_UP, NextStep.STOP)


def _is_retryable(batch: Batch) -> bool:
    is_over = batch.status.is_terminal and batch.results_fetched_at is not None
    return is_over and batch.failed_count > 0 and batch.spool_deleted_at is None


def _retry_question(batch: Batch) -> str:
    plan, tasks = by_hand.plan_retry(batch.batch_id)
    reasons = ", ".join(f"{shown.count(number)} {reason}" for reason, number in plan.counts.items())
    cost = "An unknown amount, since no price of the model is known"
    if plan.cost.batch is not None:
        more = "" if plan.covers_answers else " for the requests alone, and more for the answers"
        cost = f"About {shown.dollars(plan.cost.batch)}{more}"
    then = "No task made the batch, so that a task of your own has to send them."
    if tasks is not None:
        paused = " Its Dag is paused: unpause it." if tasks.is_paused else ""
        then = f"These tasks are cleared, and so run again: {', '.join(tasks.names)}.{paused}"
    return f"{shown.count(plan.entry_count)} failed rows go out again ({reasons}). {cost}. {then}"


ACTIONS = {
    action.name: action
    for action in (
        Action(
            "fetch",
            "Fetch now",
            lambda batch: (
                f"{batch.provider} is asked how the batch is, and the results of what has ended are downloaded. This"
                " costs nothing."
            ),
            _is_fetchable,
            by_hand.fetch,
        ),
        Action("retry", "Retry failed rows", _retry_question, _is_retryable, by_hand.retry),
        Action(
            "resume",
            "Resume",
            lambda _: (
                "What the batch needs next is done: creates without a reply are looked up, a cancel that was not heard"
                " is made again, what has ended is fetched. If the rest is its task's, and that is over, the task is"
                " cleared and sends what was not sent yet, which is paid."
            ),
            _is_stuck,
            by_hand.resume,
        ),
        Action(
            "cancel",
            "Cancel",
            lambda batch: (
                f"{batch.provider} is asked to stop the batch. Rows that are done by then are paid, and can be fetched;"
                " the others fail as canceled. The task fails for good: after that, retrying the failed rows goes on"
                " with this batch, while clearing the task makes a new one, which is paid anew."
            ),
            lambda batch: _is_at_work(batch) and not batch.is_canceling,
            by_hand.cancel,
            is_dangerous=True,
        ),
        Action(
            "expire",
            "Expire",
            lambda batch: (
                f"The batch is given up: {batch.provider} is asked once more how it is, what still runs is canceled,"
                " and what has ended is fetched. Rows that are done by then are paid; the others fail."
            ),
            _is_at_work,
            by_hand.expire,
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


def _check_possible(action: Action, batch: Batch) -> None:
    if not action.is_possible(batch):
        raise HTTPException(
            409, f"Batch {batch.batch_id} is {batch.status} now, and cannot be taken to {action.title!r}."
        )


async def start(action: Action, viewer: Viewer, batch: Batch) -> Done | None:
    """Do something to a batch; ``None``: after :data:`WAIT_SECONDS` it still went on, and goes on.

    :raises HTTPException: 409, it cannot be done to the batch as it is.
    :raises RaifError: it could not be done; says why.
    """
    _check_possible(action, batch)
    await run_in_threadpool(write_audit_log, viewer.user, action.event, batch.claim, {"batch_id": batch.batch_id})
    key = (batch.batch_id, action.name)
    work = _AT_WORK.get(key)
    if work is None:
        # Whoever asks for the same meanwhile waits for the same.
        work = _AT_WORK[key] = _POOL.submit(action.run, batch.batch_id)
        work.add_done_callback(lambda _: _AT_WORK.pop(key, None))
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    work.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
    try:
        await asyncio.wait_for(ended.wait(), WAIT_SECONDS)
    except TimeoutError:
        work.add_done_callback(lambda work: _tell_end(action, viewer, batch, work))
        return None
    return work.result()


def _tell_end(action: Action, viewer: Viewer, batch: Batch, work: Future[Done]) -> None:
    """Write to the logs how an action failed that nobody waited for any more."""
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
    _check_possible(action, batch)
    return page(
        request,
        "ask.html",
        batch=batch,
        action=action,
        progress=progress_of(batch, {}, datetime.now(UTC)),
        question=action.question(batch),
        token=make_token(viewer, batch.batch_id, action.name),
    )


@router.post("/batches/{batch_id}/{action}", dependencies=[Depends(check_origin)])
async def act(
    request: Request, batch: ActedBatch, viewer: ViewerDep, action: ActionDep, token: Annotated[str, Form()] = ""
) -> Response:
    """Do it, and go back to the batch."""
    check_token(token, viewer, batch.batch_id, action.name)
    done = await start(action, viewer, batch)
    told = f"{action.title} goes on; this page shows what comes of it." if done is None else done.sentence
    address = f"{request.scope['root_path']}/batches/{batch.batch_id}?done={make_note(told)}"
    return RedirectResponse(address, status_code=303)
