"""A provider that is away for three hours: no task fails, no batch is canceled, and each is made once.

Operators, trigger and poller are the real ones. Nothing waits: whoever would moves the clock on.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from dataclasses import replace
from datetime import datetime, timedelta

import httpx
import pytest
import tenacity
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_raif.adapters import gemini
from airflow_raif.adapters.http import HttpTransport
from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks.batch import BatchHook
from airflow_raif.operators import _waiting
from airflow_raif.operators.batch import (
    ApplyBatchResultsOperator,
    BatchInferenceOperator,
    CancelBatchOperator,
    SubmitBatchOperator,
)
from airflow_raif.sensors.batch import WaitForBatchSensor
from airflow_raif.services import poller, runtime
from airflow_raif.triggers import batch as trigger_module
from airflow_raif.triggers import pace
from airflow_raif.triggers.batch import BatchTrigger
from tests.chaos.proxy import route_of
from tests.support import MODELS, PROVIDERS, read_rows

HOURS = 3 * 3600
#: Routes whose first call meets the outage, which goes on for all of them; a triggerer's calls are ``wait``.
STAGES = {"submit": ("upload", "create"), "poll": ("get",), "wait": ("wait",), "fetch": ("results",)}
KINDS = ("refused", "503", "529", "timeout")
ROWS = [{"custom_id": f"row {n}", "prompt": f"prompt {n}"} for n in range(3)]


class Clock:
    """A clock that goes on by itself, and that whoever waits moves on."""

    def __init__(self):
        self.moved = 0.0

    def time(self):
        return time.time() + self.moved

    def monotonic(self):
        return time.monotonic() + self.moved

    def sleep(self, seconds):
        self.moved += seconds

    def datetime(self):
        clock = self

        class Moved(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.fromtimestamp(clock.time(), tz)

        return Moved


class MovedLoop(asyncio.SelectorEventLoop):
    """An event loop that waits for calls and threads, and moves the clock where only time would pass."""

    def __init__(self, clock):
        self.clock = clock
        self.under_way = 0
        super().__init__(_Selector(self))

    def time(self):
        return self.clock.monotonic()

    def run_in_executor(self, executor, function, *arguments):
        future = super().run_in_executor(executor, function, *arguments)
        self.under_way += 1
        future.add_done_callback(self._is_done)
        return future

    def _is_done(self, _future):
        self.under_way -= 1


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        if self._loop.under_way or timeout is None or timeout <= 0:
            return super().select(timeout)
        if not (ready := super().select(0)):
            self._loop.clock.sleep(timeout)
        return ready


class Outage:
    """Answers in the provider's place for three hours from the first call of some routes on."""

    def __init__(self, clock):
        self._clock = clock
        self.kind, self.routes = "", ()
        self.ends_at = None
        self.struck = 0

    def begin(self, kind, routes):
        self.kind, self.routes, self.ends_at, self.struck = kind, routes, None, 0

    @property
    def is_over(self):
        return self.ends_at is not None and self._clock.time() >= self.ends_at

    def strikes(self, route):
        """Whether the provider is away; the first call that times out is one that it has heard."""
        if self.ends_at is None and route in self.routes:
            self.ends_at = self._clock.time() + HOURS
        is_away = self.ends_at is not None and not self.is_over
        self.struck += is_away
        return is_away

    @property
    def is_heard(self):
        return self.kind == "timeout" and self.struck == 1

    def answer(self, request):
        if self.kind == "refused":
            raise httpx.ConnectError("[Errno 111] Connection refused", request=request)
        if self.kind == "timeout":
            raise httpx.ReadTimeout("timed out", request=request)
        return httpx.Response(int(self.kind), content=b"Service unavailable", request=request)


@pytest.fixture
def clock(monkeypatch):
    """One clock for operators, trigger, poller, transport and emulator."""
    moved = Clock()
    monkeypatch.setattr(_waiting, "time", moved.time)
    monkeypatch.setattr(_waiting, "sleep", moved.sleep)
    monkeypatch.setattr(trigger_module, "time", moved.time)
    monkeypatch.setattr(pace, "monotonic", moved.monotonic)
    monkeypatch.setattr(poller, "monotonic", moved.monotonic)
    monkeypatch.setattr(runtime, "datetime", moved.datetime())
    monkeypatch.setattr(tenacity.nap, "time", moved)
    monkeypatch.setitem(HttpTransport.__init__.__kwdefaults__, "sleep", moved.sleep)
    monkeypatch.setenv("AIRFLOW__RAIF__POLL_INTERVALS", "600,1800")
    monkeypatch.setenv("AIRFLOW__RAIF__MIN_DWELL_SECONDS", "10")
    return moved


@pytest.fixture
def outage(monkeypatch, clock):
    """Stands between every call and the emulator."""
    away = Outage(clock)
    send, asend = httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request

    def handle(self, request):
        if not away.strikes(route_of(request.method, request.url.path)):
            return send(self, request)
        if away.is_heard:
            send(self, request).read()
        if away.kind == "timeout":
            clock.sleep(60)
        return away.answer(request)

    async def ahandle(self, request):
        loop = asyncio.get_running_loop()
        if away.strikes("wait") and not away.is_heard:
            if away.kind == "timeout":
                await asyncio.sleep(60)
            return away.answer(request)
        loop.under_way += 1
        try:
            response = await asend(self, request)
            await response.aread()
        finally:
            loop.under_way -= 1
        if away.is_heard:
            return away.answer(request)
        return response

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", ahandle)
    return away


@pytest.fixture
def emulator(emulator_of, clock, providers, monkeypatch):
    """A provider whose batches take some looks; Gemini's requests and results go by file."""
    monkeypatch.setattr(gemini, "INLINE_MAX_BYTES", 0)
    started = emulator_of(progress=Progress.parse("polls:3"), clock=clock.time)
    providers(started)
    return started


def live(task, context, clock):
    """Run a task as Airflow does, without any retry: execute, fire the trigger, resume, until it returns."""
    method, arguments = "execute", {}
    while True:
        try:
            return getattr(task, method)(context, **arguments)
        except TaskDeferred as deferred:
            wait = deferred
        began = clock.time()
        method, arguments = wait.method_name, {"event": fire(wait.trigger, clock)}
        # Airflow's own limit would fail the task.
        assert timedelta(seconds=clock.time() - began) < wait.timeout


def fire(trigger, clock):
    """Return the event of a trigger, made of what a triggerer is told."""

    async def first():
        return (await anext(BatchTrigger(**trigger.serialize()[1]).run())).payload

    with asyncio.Runner(loop_factory=lambda: MovedLoop(clock)) as runner:
        return runner.run(first())


def arguments_of(provider):
    return {
        "conn_id": f"{provider}_default", "model": MODELS[provider], "requests": ROWS, "max_tokens": 60,
    }  # fmt: skip


def composed(provider, context, clock):
    submitted = live(SubmitBatchOperator(task_id="s", **arguments_of(provider)), context, clock)
    waited = live(WaitForBatchSensor(task_id="w", batch=submitted), context, clock)
    return live(ApplyBatchResultsOperator(task_id="a", batch=waited), context, clock)


def one_task(provider, context, clock, **arguments):
    return live(BatchInferenceOperator(task_id="t", **arguments_of(provider), **arguments), context, clock)


def in_worker(provider, context, clock):
    return one_task(provider, context, clock, deferrable=False)


def check(manifest, emulator, provider, outage, *, creates):
    assert outage.is_over
    assert outage.struck > 3
    assert [row["status"] for row in read_rows(manifest["result_uri"])] == ["completed"] * len(ROWS)
    assert emulator.state.creates[provider] == creates
    assert emulator.state.requests[f"{provider}.batches.cancel"] == 0


SHAPES = (composed, one_task, in_worker)


@pytest.mark.parametrize(
    ("provider", "kind", "shape"),
    [(provider, kind, SHAPES[(p + k) % 3]) for p, provider in enumerate(PROVIDERS) for k, kind in enumerate(KINDS)],
)
def test_three_hours(provider, kind, shape, emulator, outage, clock, context, monkeypatch):
    """Whichever call meets it first, the task goes on where it stopped once the provider answers again."""
    monkeypatch.setenv("AIRFLOW__RAIF__OUTAGE_PAUSE", "1700")
    stages = [each for each in STAGES if each != "wait" or shape is not in_worker]
    for number, stage in enumerate(stages, 1):
        outage.begin(kind, STAGES[stage])
        context["ti"].run_id = stage
        check(shape(provider, context, clock), emulator, provider, outage, creates=number)


def test_three_hours_as_configured_by_default(emulator, outage, clock, context, monkeypatch):
    """The task comes back every five minutes, and none of that is a try."""
    monkeypatch.setenv("AIRFLOW__RAIF__POLL_INTERVALS", "60,120,300,600,1800")
    outage.begin("503", STAGES["submit"])
    check(one_task("openai", context, clock), emulator, "openai", outage, creates=1)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_outage_across_the_end_of_the_providers_window(provider, emulator, outage, clock, context):
    """It begins shortly before the deadline that nobody set: what the batch finished is fetched all the same."""
    emulator.state.settings = replace(emulator.state.settings, progress=Progress.parse("seconds:3600"))
    submitted = live(SubmitBatchOperator(task_id="s", **arguments_of(provider)), context, clock)
    sensor = WaitForBatchSensor(task_id="w", batch=submitted)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)
    clock.sleep(deferred.value.trigger.end_time - clock.time() - 3600)
    outage.begin("503", STAGES["wait"] + STAGES["poll"])
    waited = live(sensor, context, clock)
    manifest = live(ApplyBatchResultsOperator(task_id="a", batch=waited), context, clock)
    check(manifest, emulator, provider, outage, creates=1)


def test_apply_without_a_sensor_before_it(emulator, outage, clock, context):
    """Whoever fetches waits the outage out."""
    submitted = live(SubmitBatchOperator(task_id="s", **arguments_of("openai")), context, clock)
    while not BatchHook("openai_default").fetch_batch_status(submitted["batch_id"]).is_terminal:
        pass
    outage.begin("503", STAGES["fetch"])
    manifest = live(ApplyBatchResultsOperator(task_id="a", batch=submitted), context, clock)
    check(manifest, emulator, "openai", outage, creates=1)


def test_a_cancel_is_made_once_the_provider_answers(emulator, outage, clock, context):
    """The user's cancel is not lost."""
    emulator.state.settings = replace(emulator.state.settings, progress=Progress.parse("polls:1000"))
    submitted = live(SubmitBatchOperator(task_id="s", **arguments_of("openai")), context, clock)
    outage.begin("503", ("cancel", "get"))
    assert live(CancelBatchOperator(task_id="c", batch=submitted), context, clock) == "canceled"
    assert outage.is_over


def test_a_batch_that_is_canceled_meanwhile_is_not_made_anew(emulator, outage, clock, context):
    """The user's cancel outlasts the outage: only a clear would pay."""
    outage.begin("503", ("create",))
    task = BatchInferenceOperator(task_id="t", **arguments_of("openai"))
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    clock.sleep(HOURS)
    CancelBatchOperator(task_id="c", batch=deferred.value.trigger.batch_id, missing_ok=False).execute(context)
    with pytest.raises(AirflowFailException, match="was canceled"):
        getattr(task, deferred.value.method_name)(context, fire(deferred.value.trigger, clock))
    assert emulator.state.creates["openai"] == 0


def test_a_clear_after_a_cancel_makes_its_batch_after_the_outage(emulator, outage, clock, context):
    """What the canceled one finished is fetched first."""
    emulator.state.faults.done_at_cancel = 0.5
    first = live(SubmitBatchOperator(task_id="s", **arguments_of("openai")), context, clock)
    CancelBatchOperator(task_id="c", batch=first).execute(context)
    outage.begin("503", STAGES["fetch"])
    second = live(SubmitBatchOperator(task_id="s", **arguments_of("openai")), context, clock)
    assert outage.is_over
    assert second["batch_id"] != first["batch_id"]
    assert emulator.state.creates["openai"] == 2
