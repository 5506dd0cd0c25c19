"""The process that is measured: a triggerer's event loop full of waiting batches."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import selectors
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_raif.triggers import pace
from airflow_raif.triggers.batch import BatchTrigger
from tests.benchmarks.poller_server import batch_id as provider_id

PAGE_BYTES = 4096


class TimedSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Notes the most CPU the loop's thread spends between two looks at the sockets: nothing else gets a turn then."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0.0
        self._since: float | None = None

    def select(self, timeout: float | None = None) -> Any:
        if self._since is not None:
            self.longest = max(self.longest, time.thread_time() - self._since)
        try:
            return super().select(timeout)
        finally:
            self._since = time.thread_time()

    def reset(self) -> None:
        self.longest, self._since = 0.0, None


class Watch:
    """What is seen of the loop over a while."""

    def __init__(self, selector: TimedSelector) -> None:
        self._selector = selector
        self._gc_since = 0.0
        self._reset()
        gc.callbacks.append(self._note_gc)

    def _reset(self) -> None:
        self.late = self.gc = 0.0
        self.peak = 0
        self._selector.reset()

    @contextlib.asynccontextmanager
    async def on(self, figures: dict[str, Any], phase: str) -> AsyncIterator[None]:
        """Ask for a turn every 5 ms, note by how much it came late, and add what was seen to the figures."""
        self._reset()
        task = asyncio.create_task(self._look())
        try:
            yield
        finally:
            task.cancel()
        seen = {"late_ms": self.late, "block_cpu_ms": self._selector.longest, "gc_ms": self.gc}
        figures["phases"][phase] = {name: round(seconds * 1000, 1) for name, seconds in seen.items()}

    async def _look(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            self.late = max(self.late, time.monotonic() - before - 0.005)
            self.peak = max(self.peak, resident())

    def _note_gc(self, phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            self._gc_since = time.monotonic()
        else:
            self.gc = max(self.gc, time.monotonic() - self._gc_since)


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 - quicker
        return int(file.read().split()[1]) * PAGE_BYTES


def control(url: str, query: str = "") -> int:
    """Return how many calls the provider has had."""
    with urllib.request.urlopen(f"{url}/control{query}") as answer:
        return int(json.load(answer))


class IdleTrigger(BaseTrigger):
    """Waits for nothing but the end of the measurement: what any trigger costs."""

    over: asyncio.Event

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.IdleTrigger", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await self.over.wait()
        yield TriggerEvent({"status": "ended"})


def make_trigger(plan: dict[str, Any], number: int, batch_id: str, conn_id: str) -> BaseTrigger:
    """Make ours, a peer's or an idle trigger for one batch."""
    kind, interval = plan["kind"], plan["interval"]
    at_provider = provider_id(plan["provider"], 0, number)
    if kind == "idle":
        return IdleTrigger()
    if kind == "common.ai":
        from airflow.providers.common.ai.triggers.llm_batch import LLMBatchTrigger

        return LLMBatchTrigger(
            llm_conn_id=conn_id, adapter=plan["provider"], batch_id=at_provider, poll_interval=interval,
            end_time=time.time() + 86400, cancel_on_kill=True, cancel_on_timeout=True, timeout=86400,
        )  # fmt: skip
    if kind == "openai":
        from airflow.providers.openai.triggers.openai import OpenAIBatchTrigger

        return OpenAIBatchTrigger(conn_id=conn_id, batch_id=at_provider, poll_interval=interval, timeout=86400)
    return BatchTrigger(
        conn_id=conn_id, batch_id=batch_id, model=f"{plan['provider']}:some-model", end_time=time.time() + 86400,
        poll_intervals=[interval], min_dwell=0.0,
    )  # fmt: skip


class Plain:
    """Runs a trigger as a triggerer does, without its logs, spans and portals."""

    def start(self, number: int, trigger: BaseTrigger) -> asyncio.Task[Any]:
        return asyncio.create_task(self._run(trigger), name=f"dag/run/wait/{number}/1 (ID {number})")

    async def _run(self, trigger: BaseTrigger) -> str:
        (event,) = [event.payload async for event in trigger.run()]
        return str(event["status"])


class Airflow:
    """Runs a trigger with Airflow's own runner, without its supervisor."""

    def __init__(self) -> None:
        from airflow.jobs.triggerer_job_runner import TriggerRunner

        self._runner = TriggerRunner()

    def start(self, number: int, trigger: BaseTrigger) -> asyncio.Task[Any]:
        name = f"dag/run/wait/{number}/1 (ID {number})"
        trigger.task_instance = None
        task = asyncio.create_task(self._run(number, trigger), name=name)
        self._runner.triggers[number] = {"task": task, "is_watcher": False, "name": name, "events": 0}
        return task

    async def _run(self, number: int, trigger: BaseTrigger) -> str:
        await self._runner.run_trigger(number, trigger)
        return "ended" if self._runner.triggers[number]["events"] == 1 else "no event"


async def measure(selector: TimedSelector, plan: dict[str, Any]) -> dict[str, Any]:
    watch, url, interval, ticks = Watch(selector), plan["url"], plan["interval"], plan["ticks"]
    runner = Airflow() if plan["runner"] == "airflow" else Plain()
    figures: dict[str, Any] = {"phases": {}}
    IdleTrigger.over = asyncio.Event()
    async with watch.on(figures, "idle"):
        await asyncio.sleep(plan["idle"])
    # The first batch of a process pays for imports, pools and clients.
    async with watch.on(figures, "first batch"):
        first = runner.start(0, make_trigger(plan, 0, *plan["waiting"][0]))
        while plan["kind"] != "idle" and not control(url):  # noqa: ASYNC110 - the server is another process
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.5)
        first.cancel()
        await asyncio.wait([first])
    gc.collect()
    before, cpu = resident(), time.process_time()
    async with watch.on(figures, "start of all"):
        tasks = []
        for number, (batch_id, conn_id) in enumerate(plan["waiting"]):
            tasks.append(runner.start(number, make_trigger(plan, number, batch_id, conn_id)))
            await asyncio.sleep(0)
        await asyncio.sleep(interval * 1.5)
    starting, calls, cpu = time.process_time() - cpu, control(url), time.process_time()
    await asyncio.sleep(interval * ticks)
    cpu, calls = time.process_time() - cpu, control(url) - calls
    async with watch.on(figures, "ticks"):
        await asyncio.sleep(interval * 2)
    peak = watch.peak
    async with watch.on(figures, "end of all"):
        control(url, "?end=1")
        IdleTrigger.over.set()
        found = await asyncio.gather(*tasks)
    assert set(found) <= {"ended", "success"}, set(found)
    count, phases = len(tasks), figures["phases"]
    return {
        "requests_per_tick": round(calls / ticks, 1),
        "cpu_ms_per_batch_tick": round(cpu * 1000 / ticks / count, 4),
        "cpu_ms_per_start": round(starting * 1000 / count, 3),
        "kb_per_batch": round((peak - before) / 1024 / count, 2),
        "process_mib": round(peak / 2**20, 1),
        "late_ms": max(phases[phase]["late_ms"] for phase in ("start of all", "ticks", "end of all")),
        "block_cpu_ms": max(phases[phase]["block_cpu_ms"] for phase in phases),
        **figures,
    }


def main() -> None:
    # Events that leave all at once are the harder case, and ten thousand in turn would take a quarter of an hour.
    pace.EVENT_PAUSE_SECONDS = 0.0
    plan = json.loads(Path(sys.argv[1]).read_text())
    selector = TimedSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        print(json.dumps(runner.run(measure(selector, plan))))


if __name__ == "__main__":
    main()
