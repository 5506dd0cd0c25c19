"""Runs lives one after the other in this process, with a provider, a store and a clock of their own."""

from __future__ import annotations

import gc
import shutil
import tempfile
import traceback
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path
from signal import SIGQUIT
from typing import Any

from sqlalchemy import Engine, create_engine

from airflow_raif.store import Store, migrate
from airflow_raif.store.engine import make_engine, parse_url
from tests.chaos.account import Figures
from tests.chaos.life import Life, Outcome
from tests.chaos.plan import Plan
from tests.chaos.provider import Provider
from tests.chaos.worker import World, warm_up
from tests.postgres import PostgresServer

_RANK = "CASE {} WHEN 'pending' THEN 0 WHEN 'submitted' THEN 1 WHEN 'in_progress' THEN 2 ELSE 3 END"
_OLD, _NEW = _RANK.format("OLD.status"), _RANK.format("NEW.status")
_BACK = f"({_NEW} < {_OLD} OR ({_OLD} = 3 AND NEW.status <> OLD.status))"
#: What the provider would not queue waits again.
_PART = f"({_BACK} AND NOT (NEW.provider_batch_id IS NULL AND COALESCE(NEW.raw_status, '') = 'refused'))"
#: A round alone opens a batch again: it takes the stamps of its end and of its results with it.
_BATCH = f"({_BACK} AND NOT (OLD.ended_at IS NOT NULL AND NEW.ended_at IS NULL AND NEW.results_fetched_at IS NULL))"


def guard(address: str) -> None:
    """Let the database itself refuse a status that moves backwards."""
    engine = create_engine(parse_url(address))
    with engine.begin() as connection:
        for table, condition in (("raif_part", _PART), ("raif_batch", _BATCH)):
            if engine.dialect.name == "sqlite":
                statement = (
                    f"CREATE TRIGGER guard_{table} BEFORE UPDATE ON {table} WHEN {condition}"
                    " BEGIN SELECT RAISE(ABORT, 'status moved backwards'); END"
                )
                connection.exec_driver_sql(statement)
                continue
            connection.exec_driver_sql(
                f"CREATE FUNCTION guard_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" IF {condition} THEN RAISE EXCEPTION 'status moved backwards'; END IF;"
                " RETURN NEW; END $$"
            )
            connection.exec_driver_sql(
                f"CREATE TRIGGER guard_{table} BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION guard_{table}()"
            )
    engine.dispose()


class Runner:
    """Everything that lives need."""

    def __init__(self, stores: Iterable[str]) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="raif-chaos-"))
        self._offset: Any = get_context("fork").Value("d", 0.0, lock=False)
        self._provider = Provider(self._offset)
        self._lives = 0
        self._engines: dict[str, Engine] = {}
        self._server: PostgresServer | None = None
        for name in stores:
            address = self._address(name)
            migrate.upgrade(address)
            guard(address)
            self._engines[name] = make_engine(parse_url(address))
            warm_up(self._world(name, "warm"))
        # What is there now is copied by no fork's collector.
        gc.collect()
        gc.freeze()

    def _world(self, store: str, run: str) -> World:
        return World(run, self._provider.url, self._engines[store], self.home / "life", self._offset)

    def _address(self, name: str) -> str:
        if name == "sqlite":
            return f"sqlite:///{self.home}/raif.db"
        home = self.home / "postgres"
        home.mkdir()
        self._server = PostgresServer(home)
        self._server.start()
        return self._server.create_database()

    def restart(self) -> None:
        """Let the database crash and come back."""
        assert self._server is not None
        self._server.stop(SIGQUIT)
        self._server.start()

    def close(self) -> None:
        """Stop everything."""
        for engine in self._engines.values():
            engine.dispose()
        gc.unfreeze()
        self._provider.stop()
        if self._server is not None:
            self._server.stop(SIGQUIT)
        shutil.rmtree(self.home, ignore_errors=True)

    def live(self, plan: Plan) -> Outcome:
        """Run one life."""
        self._lives += 1
        world = self._world(plan.store, f"life {self._lives}")
        # A connection that a fork would share is closed before.
        world.engine.dispose()
        try:
            outcome = Life(plan, world, self._provider, self.restart).run(Store(world.engine, wait_seconds=60))
        except Exception:  # noqa: BLE001 - told with the life
            outcome = Outcome(plan, Figures(wrong=[f"the harness broke: {traceback.format_exc()}"]))
        log = world.home / "log"
        if outcome.figures and log.exists():
            outcome.log = log.read_text(errors="replace")
        return outcome


def live_all(plans: list[Plan], stores: tuple[str, ...]) -> list[Outcome]:
    """Run lives."""
    runner = Runner(stores)
    try:
        return [runner.live(plan) for plan in plans]
    finally:
        runner.close()
