"""Airflow's real API server in this process, with seeded batches and users of each role."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from airflow_raif.domain.batch import Batch
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.hooks import store as store_hook
from airflow_raif.store import Store
from tests.browser import seed
from tests.browser.serve import DAGS, USERS

ORIGIN = "http://airflow.test"


@dataclass(frozen=True)
class World:
    """What the tests of a module share."""

    app: FastAPI
    store: Store
    batches: dict[str, Batch]
    servers: dict[str, EmulatorServer]
    home: Path

    def id(self, name: str) -> str:
        return self.batches[name].batch_id


@pytest.fixture(scope="session")
def known_dags(migrated: Path) -> None:
    """The seeded batches' Dags, as far as permissions ask for them."""
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    with create_session() as session:
        session.add(DagBundleModel(name="seeded"))
        session.flush()
        for dag_id in seed.DAGS:
            session.add(DagModel(dag_id=dag_id, bundle_name="seeded", fileloc=str(DAGS / "seeded.py")))


@pytest.fixture(scope="module")
def with_runs(world: World) -> None:
    """The Dags themselves, and the run that the seeded batches are of."""
    env = {**os.environ, "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS)}
    subprocess.run([sys.executable, "-m", "airflow", "dags", "reserialize"], env=env, check=True, capture_output=True)
    client = log_in(world.app, "admin")
    for dag_id in seed.DAGS:
        run = {"dag_run_id": seed.RUN, "logical_date": None}
        answer = client.post(f"/api/v2/dags/{dag_id}/dagRuns", json=run)
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A folder with an empty store."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copy(empty_store, folder / "raif.db")
    return folder


@pytest.fixture(scope="module")
def configured(home: Path) -> Iterator[pytest.MonkeyPatch]:
    """Configuration of an API server with a user of each role."""
    passwords = home / "passwords.json"
    passwords.write_text(json.dumps({user: user for user in USERS}))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AIRFLOW__RAIF__SQL_ALCHEMY_CONN": f"sqlite:///{home}/raif.db",
            "AIRFLOW__RAIF__SPOOL_PATH": f"file://{home}/spool",
            "AIRFLOW__RAIF__RESULT_PATH": f"file://{home}/results",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{user}" for user in USERS),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__API__SECRET_KEY": "only-in-tests",
            "AIRFLOW__API_AUTH__JWT_SECRET": "only-in-tests-" + 8 * "0123456789",
            "_AIRFLOW_PROCESS_CONTEXT": "server",
        }.items():
            patch.setenv(name, value)
        yield patch
    store_hook._STORES.pop(f"sqlite:///{home}/raif.db").close()


@pytest.fixture(scope="module")
def make_app() -> Iterator[Callable[[], FastAPI]]:
    """Build Airflow's API server as it is configured now."""
    from airflow.api_fastapi.app import create_app, purge_cached_app

    def make() -> FastAPI:
        purge_cached_app()
        return create_app("core")

    yield make
    purge_cached_app()


@pytest.fixture(scope="module")
def world(
    home: Path, known_dags: None, configured: pytest.MonkeyPatch, make_app: Callable[[], FastAPI]
) -> Iterator[World]:
    """The API server with simple authentication, and batches of every kind."""
    with seed.emulators() as servers:
        for name, value in seed.connections(servers, max_requests=25).items():
            configured.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(value))
        batches = seed.seed(60)
        yield World(make_app(), store_hook.find_store(), batches, servers, home)


def log_in(app: FastAPI, user: str | None) -> TestClient:
    """Return a browser's client of a user; ``None``: nobody is logged in."""
    client = TestClient(app, base_url=ORIGIN, follow_redirects=False)
    if user is not None:
        answer = client.post("/auth/token", json={"username": user, "password": user})
        client.cookies.set("_token", answer.json()["access_token"])
    return client


@pytest.fixture(scope="module")
def client_of(world: World) -> Callable[[str | None], TestClient]:
    """Return a browser's client of a user; ``None``: nobody is logged in."""
    clients: dict[str | None, TestClient] = {}

    def client(user: str | None) -> TestClient:
        if user not in clients:
            clients[user] = log_in(world.app, user)
        return clients[user]

    return client
