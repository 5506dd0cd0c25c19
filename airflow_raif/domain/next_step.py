"""What a batch needs next, from whom; what pages and commands tell of one that does not go on."""

from __future__ import annotations

from enum import StrEnum

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.status import BatchStatus


class NextStep(StrEnum):
    """What is to be done next for a batch."""

    #: It is through.
    NONE = "none"
    #: The provider works on it.
    WAIT = "wait"
    #: A create got no reply: look it up, adopt what it made, or have it sent again.
    LOOK_UP = "look_up"
    #: It was told to stop, and that was not heard.
    STOP = "stop"
    #: It has ended, and its results are to be fetched.
    FETCH = "fetch"
    #: Its task has to read its input to the end, send parts, or apply results; only a worker does.
    READ = "read"
    SEND = "send"
    APPLY = "apply"

    @property
    def is_for_task(self) -> bool:
        """Whether only the batch's task does it."""
        return self in (NextStep.READ, NextStep.SEND, NextStep.APPLY)


def next_step_of(batch: Batch) -> NextStep:
    """Return what a batch needs next; what a person or a sweep can do comes before what its task does."""
    if any(
        part.intent_at and part.provider_batch_id is None and part.status is BatchStatus.PENDING
        for part in batch.parts
        if not part.is_synchronous
    ):
        return NextStep.LOOK_UP
    if batch.is_cancel_requested:
        return NextStep.STOP
    if any(part.provider_batch_id and not part.status.is_terminal for part in batch.parts):
        return NextStep.WAIT
    if batch.spooled_at is None:
        return NextStep.READ
    if not batch.status.is_terminal:
        return NextStep.SEND
    if batch.results_fetched_at is None:
        return NextStep.FETCH
    return NextStep.APPLY if batch.applied_at is None else NextStep.NONE
