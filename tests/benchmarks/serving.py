"""Servers of the benchmarks, in processes of their own, so that their CPU time is not counted."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def serving(module: str, argument: object) -> Iterator[str]:
    """Run a module that prints its port and serves; yield its address."""
    server = subprocess.Popen([sys.executable, "-m", module, str(argument)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait()
