"""An Airflow with seeded batches to look at: ``python -m tests.browser.serve [--port N]``, until it is stopped.

Users admin, op, user and viewer have their name as password and as role; nobody has no role. Only the API server runs:
tasks that are cleared stay queued.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from airflow_raif.demo.components import environment, free_port
from tests.browser import seed

USERS = ("admin", "op", "user", "viewer")
DAGS = Path(__file__).parent / "dags"
_AIRFLOW = (sys.executable, "-m", "airflow")


@dataclass(frozen=True)
class Served:
    """A running API server."""

    url: str
    home: Path
    #: Ids of the batches by the names that :mod:`tests.browser.seed` gives them.
    batches: Mapping[str, str]

    def token(self, user: str) -> str:
        """Return a token of a user."""
        return token_of(self.url, user)


def token_of(url: str, user: str) -> str:
    """Log a user in and return the token."""
    answer = httpx.post(f"{url}/auth/token", json={"username": user, "password": user}, timeout=60)
    return str(answer.raise_for_status().json()["access_token"])


def settings(home: Path, port: int, conns: Mapping[str, object]) -> dict[str, str]:
    """Return the environment of its processes."""
    env = environment(home, DAGS, port, "http://127.0.0.1:9")
    passwords = home / "passwords.json"
    passwords.write_text(json.dumps({user: user for user in (*USERS, "nobody")}))
    env |= {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join((*(f"{user}:{user}" for user in USERS), "nobody:")),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__API__SECRET_KEY": "only-on-loopback",
        "_AIRFLOW_PROCESS_CONTEXT": "server",
    }
    return env | {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in conns.items()}


@contextmanager
def serve(home: Path, port: int | None = None, seeding: str = "tests.browser.serve") -> Iterator[Served]:
    """Run an API server on a fresh home with seeded batches.

    :param seeding: the module whose ``--seed`` makes them, and prints their ids by name.
    """
    port = port or free_port()
    with seed.emulators() as servers, (home / "api-server.log").open("wb") as log:
        env = settings(home, port, seed.connections(servers, max_requests=200))
        subprocess.run([*_AIRFLOW, "db", "migrate"], env=env, check=True, capture_output=True)
        # All of these take seconds to import what they need, none needs another.
        parsing = subprocess.Popen([*_AIRFLOW, "dags", "reserialize"], env=env, stdout=log, stderr=log)
        seeds = subprocess.Popen([sys.executable, "-m", seeding, "--seed"], env=env, stdout=subprocess.PIPE, text=True)
        server = subprocess.Popen([*_AIRFLOW, "api-server"], env=env, stdout=log, stderr=log)
        try:
            told, _ = seeds.communicate()
            if seeds.returncode or parsing.wait():
                raise RuntimeError((home / "api-server.log").read_text())
            served = Served(f"http://127.0.0.1:{port}", home, json.loads(told.splitlines()[-1]))
            wait_for(served.url, server, home / "api-server.log")
            _make_runs(served)
            yield served
        finally:
            server.terminate()
            for each in (seeds, parsing, server):
                each.wait(30)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an API server answers."""
    end = time.monotonic() + 240
    while server.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/api/v2/version", timeout=30).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    raise RuntimeError(log.read_text())


def _make_runs(served: Served) -> None:
    headers = {"Authorization": f"Bearer {served.token('admin')}"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=60) as client:
        for dag_id in seed.DAGS:
            client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()
            run = {"dag_run_id": seed.RUN, "logical_date": None}
            client.post(f"/api/v2/dags/{dag_id}/dagRuns", json=run).raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.serve", description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--seed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.seed:
        made = seed.seed() | seed.more()
        print(json.dumps({name: batch.batch_id for name, batch in made.items()}))
        return
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: sys.exit())
    with tempfile.TemporaryDirectory(prefix="raif-pages-") as home, serve(Path(home), options.port) as served:
        print(f"{served.url}/plugin/raif in Airflow's UI, {served.url}/raif/ by itself; log in as one of {USERS}")
        for name, batch_id in served.batches.items():
            print(f"{name:10} {served.url}/raif/batches/{batch_id}")
        signal.pause()


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    main()
