"""The provider's side of a life: emulator and proxy in a process of their own, told what to do through a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import Counter
from dataclasses import replace
from multiprocessing import get_context
from time import time
from typing import Any

import msgspec

from airflow_raif.emulator.faults import Faults
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import EmulatorSettings, Progress
from airflow_raif.emulator.state import Batch
from tests.chaos.answers import paid_answers, request_ids
from tests.chaos.proxy import Fault, FaultProxy

#: Tokens of a request, about.
TOKENS = 60


class Behaviour(msgspec.Struct, kw_only=True):
    """How the provider behaves in one life."""

    progress: str = "polls:1"
    #: The emulator's own faults.
    faults: dict[str, Any] = {}
    #: What happens on the way to it.
    proxy: list[Fault] = []
    #: Seconds that the provider's clock is ahead.
    ahead: float = 0.0
    #: Requests that it queues at once, or as many tokens as they have; None: any number.
    quota: int | None = None
    #: How far its Date header is off that; None: it has none.
    date_skew: float | None = 0.0


class AtProvider(msgspec.Struct, kw_only=True):
    """A batch as it lies at the provider."""

    id: str
    status: str
    tag: str | None
    #: The ids of its requests, in order.
    ids: tuple[str, ...]
    #: Text and output tokens of every answer that is billed, by id.
    paid: dict[str, tuple[str, int]]


class Report(msgspec.Struct, kw_only=True):
    """What a life left behind at the provider."""

    batches: list[AtProvider]
    struck: dict[str, int]
    #: Answers of synchronous calls: (request, status, answer, fault).
    synchronous: list[tuple[bytes, int, bytes, str]]
    calls: list[str]


class Provider:
    """A handle on the process; ``url`` is the proxy's."""

    def __init__(self, offset: Any) -> None:
        context = get_context("fork")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, offset), daemon=True)
        self._process.start()
        self.url: str = self._pipe.recv()

    def begin(self, behaviour: Behaviour) -> None:
        """Forget the life before, and behave like this."""
        self._ask(("begin", behaviour))

    def set_faults(self, faults: dict[str, Any]) -> None:
        """Replace the emulator's own faults."""
        self._ask(("faults", faults))

    def report(self, provider: str) -> Report:
        """Return what the life left."""
        report: Report = self._ask(("report", provider))
        return report

    def stop(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(10)
        self._process.kill()

    def _ask(self, message: Any) -> Any:
        self._pipe.send(message)
        answer = self._pipe.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer


class _Host:
    """Emulator and proxy."""

    def __init__(self, offset: Any) -> None:
        self._ahead = 0.0
        self._offset = offset
        self.emulator = EmulatorServer(EmulatorSettings(clock=self.clock))
        self.emulator.start()
        host, port = self.emulator.url.removeprefix("http://").split(":")
        self.proxy = FaultProxy(host, int(port), self.clock)
        started: list[int] = []
        is_ready = threading.Event()

        async def run() -> None:
            started.append(await self.proxy.start())
            is_ready.set()
            await asyncio.Event().wait()

        threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
        is_ready.wait(10)
        self.url = f"http://127.0.0.1:{started[0]}"

    def clock(self) -> float:
        return time() + self._offset.value + self._ahead

    def begin(self, behaviour: Behaviour) -> None:
        state = self.emulator.state
        with state.lock:
            for path in state.directory.iterdir():
                path.unlink()
            for kept in (*state.batches.values(), *state.files.values()):
                kept.clear()
            for counter in (state.creates, state.uploads, state.requests):
                counter.clear()
            tokens = None if behaviour.quota is None else behaviour.quota * TOKENS
            state.settings = replace(
                state.settings,
                progress=Progress.parse(behaviour.progress),
                openai_max_enqueued_tokens=tokens,
                anthropic_max_queued_requests=behaviour.quota,
                gemini_max_enqueued_tokens=tokens,
            )
            state.faults = msgspec.convert(behaviour.faults, Faults)
        self._ahead = behaviour.ahead
        self.proxy.date_skew = behaviour.date_skew
        self.proxy.faults = behaviour.proxy
        self.proxy.struck = Counter()
        self.proxy.calls = []

    def report(self, provider: str) -> Report:
        batches = self.emulator.state.batches[provider].values()
        return Report(
            batches=[_at_provider(provider, batch) for batch in batches if not _is_refused(batch)],
            struck=dict(self.proxy.struck),
            synchronous=[
                (call.request, call.status, call.answer, call.fault)
                for call in self.proxy.calls
                if call.route == "synchronous" and call.status > 0
            ],
            calls=[f"{call.route} {call.fault} -> {call.status}" for call in self.proxy.calls],
        )


def _is_refused(batch: Batch) -> bool:
    """Whether nothing of a batch was ever queued; its part goes out again."""
    return any(error.get("code") == "token_limit_exceeded" for error in batch.errors)


def _at_provider(provider: str, batch: Batch) -> AtProvider:
    output = batch.output.path.read_bytes() if batch.output else b""
    tag = batch.details.get("displayName") or (batch.details.get("metadata") or {}).get("raif")
    return AtProvider(
        id=batch.id,
        status=batch.status,
        tag=tag,
        ids=request_ids(batch.rows_path.read_bytes()),
        paid=paid_answers(provider, output),
    )


def _serve(pipe: Any, offset: Any) -> None:
    host = _Host(offset)
    pipe.send(host.url)
    while (message := pipe.recv()) is not None:
        what, argument = message
        try:
            if what == "begin":
                pipe.send(host.begin(argument))
            elif what == "faults":
                host.emulator.state.faults = msgspec.convert(argument, Faults)
                pipe.send(None)
            else:
                pipe.send(host.report(argument))
        except Exception as error:  # noqa: BLE001 - told through the pipe
            pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
    host.emulator.stop()
    os._exit(0)
