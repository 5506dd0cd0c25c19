"""A PostgreSQL server on loopback that tests start, stop, kill and start again themselves."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest


def _binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


class PostgresServer:
    """One server with a data folder of its own; ``address`` names it without a database."""

    def __init__(self, home: Path) -> None:
        pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed")
        if not all(map(_binary, ("initdb", "postgres", "pg_isready"))):
            pytest.skip("no PostgreSQL server binary on this machine")
        self._home = home
        self._run_as: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        if os.getuid() == 0:
            # PostgreSQL refuses to run as root.
            user = "postgres" if "postgres" in Path("/etc/passwd").read_text() else "nobody"
            self._run_as = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"]
            for folder in (home, *home.parents):
                if folder == Path("/tmp"):
                    break
                folder.chmod(0o755)
            shutil.chown(home, user)
        subprocess.run(
            [*self._run_as, str(_binary("initdb")), "-D", str(home / "data"), "-U", "raif", "--auth=trust",
             "--no-sync", "-E", "UTF8"],
            check=True, capture_output=True,
        )  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"postgresql://raif:not-a-secret-{getpass.getuser()}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._run_as, str(_binary("postgres")), "-D", str(self._home / "data"), "-h", "127.0.0.1",
                 "-p", str(self.port), "-k", str(self._home), "-c", "max_connections=200"],
                stdout=log, stderr=log,
            )  # fmt: skip
        ready = [str(_binary("pg_isready")), "-h", "127.0.0.1", "-p", str(self.port), "-t", "30"]
        for _ in range(300):
            if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
                return
        pytest.fail((self._home / "log").read_text())

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT rolls open transactions back, SIGQUIT is as good as a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def create_database(self) -> str:
        """Return the address of a fresh database without tables."""
        import psycopg

        name = f"raif_{uuid4().hex[:12]}"
        with psycopg.connect(f"{self.address}/postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"{self.address}/{name}"
