"""Steps of a worker: before and after each transaction, call and rename, where it may be killed or held."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import httpx
from sqlalchemy import event

from airflow_raif.adapters.base import Request, Response
from airflow_raif.adapters.http import HttpTransport
from airflow_raif.spool.files import Folder
from airflow_raif.store import Store


class Steps:
    """Counts the steps of this process, and kills or holds it at those it is told."""

    def __init__(
        self,
        *,
        kill_at: int = 0,
        kill_after_write: int = 0,
        hold_at: int = 0,
        hold_on: str = "",
        holds_outside: bool = True,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.count = 0
        #: Counts the steps after which something is different outside of this process.
        self.writes = 0
        self.transactions = 0
        self._kill_at = kill_at
        self._kill_after_write = kill_after_write
        self._hold_at = hold_at
        #: In the name of the step at which to hold.
        self._hold_on = hold_on
        # Whoever holds a lock in its sleep stops everybody.
        self._holds_outside = holds_outside
        self._tell = tell

    def __call__(self, label: str, *, is_write: bool = False) -> None:
        """Take a step."""
        self.count += 1
        self.writes += is_write
        if self.count == self._kill_at or (is_write and self.writes == self._kill_after_write):
            self._tell(f"killed {label}")
            os.kill(os.getpid(), signal.SIGKILL)
        is_place = self._hold_at and self.count >= self._hold_at
        if (is_place or (self._hold_on and self._hold_on in label)) and not (self.transactions and self._holds_outside):
            self._hold_at, self._hold_on = 0, ""
            self._tell(f"held {label}")
            os.kill(os.getpid(), signal.SIGSTOP)


class SteppedStore(Store):
    """A store whose transactions are steps."""

    steps: Steps
    _has_written = False

    def watch(self) -> None:
        """Tell transactions that write from those that only read."""

        @event.listens_for(self._engine, "before_cursor_execute")
        def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            self._has_written = self._has_written or statement.startswith(("INSERT", "UPDATE", "DELETE"))

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        name = sys._getframe(2).f_code.co_name
        self.steps(f"before {name}")
        self._has_written = False
        with super()._transaction() as connection:
            self.steps.transactions += 1
            try:
                yield connection
                self.steps(f"before the commit of {name}")
            finally:
                self.steps.transactions -= 1
        self.steps(f"after {name}", is_write=self._has_written)

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        name = sys._getframe(2).f_code.co_name
        self.steps(f"before {name}")
        with super()._reading() as connection:
            yield connection
        self.steps(f"after {name}")


class SteppedTransport(HttpTransport):
    """A transport whose calls are steps; it refuses to send while a transaction is open."""

    def __init__(self, steps: Steps, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._steps = steps

    def _open(self, request: Request) -> httpx.Response:
        assert not self._steps.transactions, f"{request.method} {request.path} is sent inside a transaction"
        what = f"{request.method} {request.path}"
        self._steps(f"before {what}")
        response = super()._open(request)
        self._steps(f"after the head of {what}", is_write=request.method != "GET")
        return response

    def _send_once(self, request: Request) -> Response:
        response = super()._send_once(request)
        self._steps(f"after {request.method} {request.path}")
        return response

    def _arguments(self, request: Request) -> dict[str, Any]:
        arguments = super()._arguments(request)
        if callable(request.content):
            arguments["content"] = self._in_steps(arguments["content"], request)
        return arguments

    def _blocks(self, response: httpx.Response, request: Request) -> Iterator[bytes]:
        return self._in_steps(super()._blocks(response, request), request)

    def _in_steps(self, blocks: Iterator[bytes], request: Request) -> Iterator[bytes]:
        for block in blocks:
            yield block
            self._steps(f"in the middle of {request.method} {request.path}")


class SteppedFolder(Folder):
    """A folder whose renames are steps."""

    steps: Steps

    def child(self, name: str) -> Folder:
        found = SteppedFolder(self.fs, f"{self.path}/{name}", f"{self.uri}/{name}")
        found.steps = self.steps
        return found

    @contextmanager
    def write(self, name: str | Callable[[], str], **options: Any) -> Iterator[IO[bytes]]:
        with super().write(name, **options) as file:
            yield file
            final = name() if callable(name) else name
            self.steps(f"before {final} is renamed")
        self.steps(f"after {final} is renamed", is_write=True)

    def rename(self, name: str, new_name: str) -> None:
        super().rename(name, new_name)
        self.steps(f"after {name} is renamed", is_write=True)
