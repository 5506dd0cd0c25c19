"""The trigger of a waiting batch: asks the shared poller, yields one event and returns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from time import time
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_raif.domain.errors import InvalidBatchError, RaifError
from airflow_raif.hooks.airflow_compat import ended_state
from airflow_raif.hooks.runtime import cancel_from_trigger, shared_poller
from airflow_raif.triggers.pace import take_turn

log = logging.getLogger(__name__)
#: Strong references: the supervisor cancels the task that runs ``on_kill`` again and again.
_BACKGROUND: set[asyncio.Task[None]] = set()


_ARGUMENTS = (
    "conn_id", "batch_id", "model", "end_time", "poll_intervals", "min_dwell", "cancel_on_kill", "cancel_on_success",
)  # fmt: skip


class BatchTrigger(BaseTrigger):
    """Wait until a batch is terminal, or parts of it that were held back may be sent.

    The event is ``{"status", "batch_id", "message"}`` with a terminal batch status, ``pending`` (parts of it may be
    sent now), ``timeout`` or ``error``.

    :param conn_id: the provider's connection.
    :param batch_id: our batch id.
    :param model: the model with its ``provider:`` prefix, where the connection serves several providers.
    :param end_time: Unix seconds after which to stop waiting; ``None``: never.
    :param poll_intervals: seconds between polls; the last one repeats.
    :param min_dwell: seconds before the first event. An event right after the deferral can meet a scheduler that
        has not seen the deferral yet and fails the task (Airflow 3.3).
    :param cancel_on_kill: cancel the batch when a user ends the waiting task.
    :param cancel_on_success: also when it was ended as a success; not where the task succeeds while its batch runs,
        since a triggerer that wakes after another took over cannot tell who ended it.
    """

    def __init__(
        self,
        *,
        conn_id: str,
        batch_id: str,
        model: str | None = None,
        end_time: float | None = None,
        poll_intervals: Sequence[float] = (60.0,),
        min_dwell: float = 0.0,
        cancel_on_kill: bool = True,
        cancel_on_success: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.batch_id = batch_id
        self.model = model
        self.end_time = end_time
        self.poll_intervals = list(poll_intervals)
        self.min_dwell = min_dwell
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_success = cancel_on_success

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer makes it of again: ids and times, no secret."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in _ARGUMENTS}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield the one event."""
        started = time()
        event = {"batch_id": self.batch_id, **await self._wait()}
        if (rest := self.min_dwell - (time() - started)) > 0:
            await asyncio.sleep(rest)
        await take_turn()
        yield TriggerEvent(event)

    async def _wait(self) -> dict[str, str]:
        seconds = None if self.end_time is None else max(self.end_time - time(), 0.0)
        try:
            async with asyncio.timeout(seconds):
                poller = await shared_poller(self.conn_id, self.model)
                status = await poller.wait(self.batch_id, self.poll_intervals)
        except TimeoutError:
            return {"status": "timeout", "message": f"batch {self.batch_id} did not end in time"}
        except RaifError as error:
            return {"status": "error", "message": str(error)}
        return {"status": status.value, "message": f"batch {self.batch_id} is {status}"}

    async def on_kill(self) -> None:
        """Cancel the batch if a user ended the task; a lost lease or a clear cancels nothing."""
        if not self.cancel_on_kill:
            return
        task = asyncio.create_task(self._cancel_if_finished())
        _BACKGROUND.add(task)
        task.add_done_callback(_BACKGROUND.discard)
        await asyncio.shield(task)

    async def _cancel_if_finished(self) -> None:
        state = None if self.task_instance is None else await ended_state(self.task_instance)
        if state is None or (state == "success" and not self.cancel_on_success):
            return
        try:
            await cancel_from_trigger(self.conn_id, self.model, self.batch_id)
        except InvalidBatchError as error:
            log.info("Nothing to cancel: %s", error)
        except RaifError:
            log.exception("Batch %s could not be canceled; it may go on at the provider", self.batch_id)
