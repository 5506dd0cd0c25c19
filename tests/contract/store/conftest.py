"""The databases a store runs on: an embedded file, and a PostgreSQL server that the tests start themselves."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from airflow_raif.store import Store, migrate


def _binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server on loopback; yields its address without a database."""
    initdb, server, client = _binary("initdb"), _binary("postgres"), _binary("psql")
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed")
    if not (initdb and server and client):
        pytest.skip("no PostgreSQL server binary on this machine")
    home = tmp_path_factory.mktemp("postgres")
    run_as: list[str] = []
    if os.getuid() == 0:
        # PostgreSQL refuses to run as root.
        user = "postgres" if "postgres" in Path("/etc/passwd").read_text() else "nobody"
        run_as = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"]
        for folder in (home, *home.parents):
            if folder == Path("/tmp"):
                break
            folder.chmod(0o755)
        shutil.chown(home, user)
    data = home / "data"
    subprocess.run(
        [*run_as, initdb, "-D", str(data), "-U", "raif", "--auth=trust", "--no-sync", "-E", "UTF8"],
        check=True, capture_output=True,
    )  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*run_as, server, "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", str(home), "-F"],
            stdout=log, stderr=log,
        )  # fmt: skip
    ready = [_binary("pg_isready") or "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "30"]
    try:
        for _ in range(300):
            if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
                break
        else:
            pytest.fail((home / "log").read_text())
        yield f"postgresql://raif:not-a-secret-{getpass.getuser()}@127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.fixture
def server_url(postgres: str) -> str:
    """A fresh database on the server, without tables."""
    import psycopg

    name = f"raif_{uuid4().hex[:12]}"
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{postgres}/{name}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/raif.db"
    return request.getfixturevalue("server_url")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A migrated store on each database."""
    migrate.upgrade(url)
    opened = Store.open(url)
    yield opened
    opened.close()
