"""A try of the task, in a process of its own that may be killed."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import tenacity
from fsspec.implementations.local import LocalFileSystem
from sqlalchemy import Engine

from airflow_raif.adapters import gemini, http
from airflow_raif.adapters.http import AsyncHttpTransport
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.batch import Batch, Claim
from airflow_raif.domain.errors import ConfigurationError, InvalidBatchError, RaifError
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.status import TERMINAL, BatchStatus
from airflow_raif.domain.sweep import SweepRules
from airflow_raif.pricing.prices import PriceBook
from airflow_raif.services.advance import advance_batch, advance_part
from airflow_raif.services.apply import apply_part, apply_results
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.poller import SharedPoller
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.start import start_batch
from airflow_raif.services.sweep import sweep_batches
from airflow_raif.store import BatchMissingError
from tests.chaos.plan import Plan
from tests.chaos.steps import SteppedFolder, SteppedStore, SteppedTransport, Steps
from tests.support import ANSWER, PROVIDERS, defaults_of, settings_of

log = logging.getLogger(__name__)

#: Seconds until a silent provider counts as away.
TIMEOUT = 0.75
PRICES = PriceBook()


@dataclass
class World:
    """What the tries of a life share: store, provider, files and a clock that is moved on."""

    #: The run of the task, which no other life has.
    run: str
    provider_url: str
    #: Its compiled statements are known to every fork, its connections to none.
    engine: Engine
    home: Path
    offset: Any

    def now(self) -> datetime:
        """Return the time of this world."""
        return datetime.now(UTC) + timedelta(seconds=self.offset.value)


@dataclass
class Try:
    """A running or ended worker."""

    pid: int
    pipe: int
    lines: list[str] = field(default_factory=list)
    #: ``running``, ``held``, ``killed``, or the word the worker ended with.
    state: str = "running"

    def wait(self) -> Try:
        """Wait until it ends or is held."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            self.state = "held"
            return self
        with os.fdopen(self.pipe, "rb") as pipe:
            self.lines = pipe.read().decode().splitlines()
        if os.WIFSIGNALED(status):
            self.state = "killed"
        else:
            self.state = next((each for each in reversed(self.lines) if not each.startswith(("held", "#"))), "silent")
        return self

    def let_go(self) -> Try:
        """Let a held one run to its end."""
        os.kill(self.pid, signal.SIGCONT)
        return self.wait()

    @property
    def steps(self) -> tuple[int, int]:
        """How many steps, and writes, it took."""
        _, _, count, writes = next((each for each in self.lines if each.startswith("# steps")), "# steps 0 0").split()
        return int(count), int(writes)


def claim_of(world: World) -> Claim:
    """Return the task instance of a life."""
    return Claim("chaos", world.run, "task", -1)


def fork(plan: Plan, world: World, work: Callable[[Plan, World, Runtime], str], **steps: Any) -> Try:
    """Start a worker; the word that its work returns, or the error it ended with, is its state."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writes)
        return Try(pid, reads)
    os.close(reads)
    _run(plan, world, work, writes, steps)
    raise AssertionError


def _run(plan: Plan, world: World, work: Callable[..., str], pipe: int, given: dict[str, Any]) -> None:
    def tell(line: str) -> None:
        os.write(pipe, line.replace("\n", " ").encode() + b"\n")

    try:
        with suppress(OSError):
            file = os.open(world.home / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 2)
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, force=True)
        world.engine.dispose(close=False)
        steps = Steps(tell=tell, **given)
        try:
            with _runtime(plan, world, steps) as transport:
                said = work(plan, world, transport)
        except RaifError as error:
            said = f"{'retry' if error.retryable else 'fatal'}: {type(error).__name__}: {error}"
        tell(f"# steps {steps.count} {steps.writes}")
        tell(said)
    except BaseException as error:
        log.exception("A worker broke")
        tell(f"broken: {type(error).__name__}: {error}")
    finally:
        os._exit(0)


def warm_up(world: World) -> None:
    """Import, and compile statements, what a try needs, so that no worker has to."""
    for provider in PROVIDERS:
        plan = Plan(seed=0, provider=provider, store="", has_schema=True, rows=3)
        with _runtime(plan, replace(world, run=f"warm {provider}"), Steps()) as runtime:
            while not whole_try(plan, replace(world, run=f"warm {provider}"), runtime).startswith("done"):
                pass
    world.engine.dispose()


class _runtime:
    """Open what a worker works with."""

    def __init__(self, plan: Plan, world: World, steps: Steps) -> None:
        # Nothing of a life waits for real, but for a database that is away.
        http._jitter = tenacity.wait_none()
        http.MAX_RETRY_AFTER_SECONDS = 0.0
        if plan.by_file:
            gemini.INLINE_MAX_BYTES = 0
        limits = {"max_requests": plan.part_size}
        quotas = {"max_enqueued_requests": plan.max_enqueued} if plan.max_enqueued else {}
        adapter = make_adapter(
            settings_of(plan.provider, world.provider_url, limits=limits, queue_limits=quotas, timeout_seconds=TIMEOUT)
        )
        client = httpx.Client(timeout=TIMEOUT, verify=False, trust_env=False)
        self._transport = SteppedTransport(steps, adapter, client=client, sleep=lambda _: None)
        self._store = SteppedStore(world.engine, wait_seconds=60)
        self._store.steps = steps
        self._store.watch()
        spool = folder_of(plan, world.home / "spool", steps)
        self._runtime = Runtime(
            store=self._store, adapter=adapter, transport=self._transport, spool=spool,
            conn_id=f"chaos {plan.provider} {plan.seed}", prices=PRICES, clock=world.now,
        )  # fmt: skip

    def __enter__(self) -> Runtime:
        return self._runtime

    def __exit__(self, *_: object) -> None:
        self._transport.close()
        self._store.close()


class ObjectStore(LocalFileSystem):
    """Stands in for S3 and the like: an object is there once its upload is complete, and knows no links."""

    protocol = "objects"

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        temporary = f"{rpath}.{os.getpid()}.upload"
        shutil.copyfile(lpath, temporary)
        Path(temporary).replace(rpath)


def folder_of(plan: Plan, path: Path, steps: Steps) -> SteppedFolder:
    """Return a folder whose renames are steps."""
    found = SteppedFolder(ObjectStore() if plan.is_remote else LocalFileSystem(), str(path), f"file://{path}")
    found.steps = steps
    return found


def whole_try(plan: Plan, world: World, runtime: Runtime) -> str:
    """Do what a try of the operator does: find or submit the batch, ask once, go on, apply if it is over."""
    policy = RoundPolicy(
        max_rounds=plan.max_rounds,
        synchronous_stragglers=plan.stragglers,
        repeat_invalid_output=plan.repeat_invalid_output,
    )
    batch = start_batch(
        runtime,
        lambda: plan.given(),
        defaults=defaults_of(plan.provider, output_schema=ANSWER if plan.has_schema else None),
        claim=claim_of(world),
        round_policy=policy,
    )
    return _go_on(plan, world, runtime, batch)


def deferred_try(batch_id: str) -> Callable[[Plan, World, Runtime], str]:
    """Return what a task does when its trigger fires: go on with the batch that it has."""

    def work(plan: Plan, world: World, runtime: Runtime) -> str:
        return _go_on(plan, world, runtime, runtime.store.get_batch(batch_id))

    return work


def _go_on(plan: Plan, world: World, runtime: Runtime, batch: Batch) -> str:
    fetch_batch_status(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id, may_fetch=not plan.by_parts)
    if not batch.status.is_terminal:
        return f"deferred {batch.batch_id}"
    if plan.by_parts:
        return " ".join(["parts", batch.batch_id, *(str(part.number) for part in batch.first_parts)])
    fetch_batch_results(runtime, batch.batch_id)
    batch = apply_results(runtime, batch.batch_id, _destination(plan, world, runtime, batch.batch_id))
    return f"done {batch.batch_id}"


def _destination(plan: Plan, world: World, runtime: Runtime, batch_id: str) -> SteppedFolder:
    assert isinstance(runtime.spool, SteppedFolder)
    return folder_of(plan, world.home / "out" / batch_id, runtime.spool.steps)


def part_try(batch_id: str, number: int) -> Callable[[Plan, World, Runtime], str]:
    """Return what a mapped task does for one part: go on with its rows, ask once, apply them if they are all there."""

    def work(plan: Plan, world: World, runtime: Runtime) -> str:
        share = advance_part(runtime, batch_id, number)
        if not share.is_fetched:
            fetch_batch_status(runtime, batch_id, None if share.part.is_shared else share.numbers)
            share = advance_part(runtime, batch_id, number)
        if not share.is_fetched:
            return f"waits {batch_id} {number}"

        def end(batch: Batch) -> None:
            assert batch.batch_id == batch_id
            with ends_of(world, batch_id).open("a") as file:
                file.write(f"{number}\n")

        destination = _destination(plan, world, runtime, batch_id)
        apply_part(runtime, batch_id, number, destination, end=end if plan.is_told else None)
        return f"applied {batch_id} {number}"

    return work


def ends_of(world: World, batch_id: str) -> Path:
    """Return the file with the parts whose tasks told of a batch's end."""
    return world.home / f"{batch_id} ended"


def cancel(plan: Plan, world: World, runtime: Runtime) -> str:
    """Do what a kill or a user's click does."""
    batch = runtime.store.find_by_claim(claim_of(world))
    if batch is None:
        return "not canceled: there is none"
    try:
        return f"canceled {cancel_batch(runtime, batch.batch_id)}"
    except (InvalidBatchError, BatchMissingError) as error:
        # Another attempt may have discarded what was not created whole.
        return f"not canceled: {error}"


def poll(plan: Plan, world: World, runtime: Runtime) -> str:
    """Do what a triggerer does, for a moment."""
    batch = runtime.store.find_by_claim(claim_of(world))
    if batch is None or batch.status in (BatchStatus.PENDING, *TERMINAL):
        return "nothing to wait for"

    async def wait(batch_id: str) -> str:
        client = httpx.AsyncClient(timeout=TIMEOUT, verify=False, trust_env=False)
        transport = AsyncHttpTransport(runtime.adapter, client=client)
        poller = SharedPoller(runtime.adapter, transport, runtime.store, clock=world.now)
        try:
            async with asyncio.timeout(0.4):
                return f"waited: {await poller.wait(batch_id, [0.1])}"
        except TimeoutError:
            return "waited for nothing"

    return asyncio.run(wait(batch.batch_id))


def sweep(plan: Plan, world: World, runtime: Runtime) -> str:
    """Do what the maintenance DAG does, as if nobody had been at work for long."""

    @contextmanager
    def open_runtime(batch: Batch) -> Iterator[Runtime]:
        if batch.claim != claim_of(world):
            raise ConfigurationError("a batch of another life")
        yield runtime

    rules = SweepRules(grace=timedelta())
    report = sweep_batches(runtime.store, open_runtime, runtime.spool, rules, clock=world.now)
    return f"swept: {dict(report.counts)}"


BESIDE = {"cancel": cancel, "poll": poll, "sweep": sweep}


def encoded(plan: Plan) -> str:
    """Return a plan as a failure prints it."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1).decode()
