"""A Redis server on loopback, as Celery's broker."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from airflow_raif.demo.components import free_port


class RedisServer:
    """One server that keeps nothing on disk."""

    def __init__(self, home: Path) -> None:
        self._binary = shutil.which("redis-server")
        if self._binary is None:
            pytest.skip("no redis-server on this machine")
        self._home = home
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def address(self, database: int) -> str:
        """Return the address of one of its databases."""
        return f"redis://127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Start it and wait until it listens."""
        with (self._home / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binary), "--bind", "127.0.0.1", "--port", str(self._port), "--save", "", "--appendonly",
                 "no", "--dir", str(self._home)],
                stdout=log, stderr=log,
            )  # fmt: skip
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.1)
        pytest.fail((self._home / "redis.log").read_text())

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
