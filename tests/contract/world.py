"""Several connections, one clock for us and the provider, and sweeps over what is left behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow_raif.domain.batch import Batch, Claim
from airflow_raif.domain.errors import ConfigurationError
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.sweep import SweepRules
from airflow_raif.emulator.faults import HttpFault
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import Progress
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.report import SweepReport
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.start import start_batch
from airflow_raif.services.sweep import sweep_batches
from airflow_raif.store import Store
from tests.support import PROVIDERS, defaults_of, folder, read_rows, rows, runtime_of

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
#: More than the grace: whoever was at work before is taken to be gone.
LATER = 3 * HOUR


def completed(found: list[dict[str, Any]]) -> int:
    return [row["status"] for row in found].count("completed")


class World:
    """What is there: connections named after their providers, a store, a spool, and the time."""

    def __init__(self, emulator_of: Callable[..., EmulatorServer], store: Store, path: Path) -> None:
        self._start = datetime.now(UTC)
        self.ahead = timedelta()
        self.emulator = emulator_of(progress=Progress.parse("polls:1000"), clock=lambda: self.clock().timestamp())
        self.store = store
        self.path = path
        self.spool = folder(path / "spool")
        #: Settings by connection; the first word is the provider.
        self.connections: dict[str, dict[str, Any]] = {provider: {} for provider in PROVIDERS}
        self.opened: list[str] = []
        self._runtimes: dict[tuple[str, str], Runtime] = {}
        self.closing = ExitStack()

    def clock(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def passes(self, time: timedelta) -> None:
        self.ahead += time

    def end_all(self) -> None:
        """Let every batch end at its next look."""
        self.progress("immediate")

    def progress(self, text: str) -> None:
        object.__setattr__(self.emulator.settings, "progress", Progress.parse(text))

    def fault(self, route: str, **values: Any) -> None:
        self.emulator.state.faults.http.append(HttpFault(route=route, **values))

    def calls(self) -> int:
        return sum(self.emulator.state.requests.values())

    @contextmanager
    def open(self, conn_id: str) -> Iterator[Runtime]:
        if conn_id not in self.connections:
            raise ConfigurationError(f"there is no connection {conn_id!r}")
        self.opened.append(conn_id)
        settings = self.connections[conn_id]
        key = (conn_id, repr(settings))
        if key not in self._runtimes:
            made = runtime_of(conn_id.partition(" ")[0], self.emulator.url, self.store, self.path, **settings)
            self._runtimes[key] = self.closing.enter_context(made)
        yield dataclasses.replace(self._runtimes[key], conn_id=conn_id, clock=self.clock)

    def submit(
        self, conn_id: str, count: int = 3, claim: Claim | None = None, policy: RoundPolicy | None = None
    ) -> Batch:
        """Do what an attempt of a task does before it waits."""
        with self.open(conn_id) as runtime:
            return start_batch(
                runtime,
                lambda: rows(count),
                defaults=defaults_of(runtime.adapter.name),
                claim=claim or Claim("dag", "run", conn_id, count),
                round_policy=policy,
            )

    def lose_reply(self, provider: str, count: int = 3) -> tuple[Batch, str]:
        """Die between a create and the note of its reply; return the batch, and the id of what the provider made."""
        with self.open(provider) as runtime:
            claim = Claim("dag", "run", provider, count)
            batch = create_batch(runtime, rows(count), defaults=defaults_of(provider), claim=claim)
            (part,) = batch.parts
            spooled = runtime.spooled_part(batch, part)
            part.input_ref = runtime.adapter.upload(runtime.transport, spooled)
            if part.input_ref:
                self.store.record_upload(part.id, part.input_ref)
            self.store.record_intent(part.id, self.clock())
            made = runtime.adapter.create(runtime.transport, spooled, part.input_ref)
        return batch, made.provider_batch_id

    def finish(self, batch: Batch, place: str = "out") -> list[dict[str, Any]]:
        """Do what an attempt of a task does after its wait, rounds included; return the result rows."""
        with self.open(batch.conn_id) as runtime:
            while True:
                fetch_batch_status(runtime, batch.batch_id)
                if advance_batch(runtime, batch.batch_id).status.is_terminal:
                    break
            done = apply_results(runtime, batch.batch_id, folder(self.path / place / batch.batch_id))
        return read_rows(done.result_uri or "")

    def poll(self, batch: Batch) -> None:
        with self.open(batch.conn_id) as runtime:
            fetch_batch_status(runtime, batch.batch_id)

    def read(self, batch: Batch) -> Batch:
        return self.store.get_batch(batch.batch_id)

    def sweep(self, *, task_state: Callable[[Claim], str | None] | None = None, **rules: Any) -> SweepReport:
        return sweep_batches(
            self.store,
            lambda batch: self.open(batch.conn_id),
            self.spool,
            SweepRules(**rules),
            task_state=task_state,
            clock=self.clock,
        )
