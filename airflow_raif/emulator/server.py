"""An emulator on a loopback port, in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_raif.emulator.app import create_app
from airflow_raif.emulator.recorder import Recorder
from airflow_raif.emulator.settings import EmulatorSettings
from airflow_raif.emulator.state import EmulatorState
from airflow_raif.emulator.wire import ABORT

HOST = "127.0.0.1"


class _DroppableProtocol(H11Protocol):
    """Lets the application close the socket without a reply."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        app = self.app

        async def with_abort(scope: Scope, receive: Receive, send: Send) -> None:
            async def abort() -> None:
                transport.abort()

            scope[ABORT] = abort
            await app(scope, receive, send)

        self.app = with_abort


class EmulatorServer:
    """A running emulator; use it as a context manager.

    ``with EmulatorServer() as emulator: ...`` serves at :attr:`url`; :attr:`state` holds files, batches, counters
    and the faults, which may be set while it runs.
    """

    def __init__(self, settings: EmulatorSettings | None = None, *, port: int = 0) -> None:
        self.settings = settings or EmulatorSettings()
        self.state = EmulatorState(self.settings)
        self._port = port
        app: ASGIApp = create_app(self.state)
        self._recorder = Recorder(app, self.settings.record) if self.settings.record else None
        config = uvicorn.Config(
            self._recorder or app,
            host=HOST,
            port=port,
            http=_DroppableProtocol,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address without a slash at the end; OpenAI's clients want ``/v1`` after it."""
        return f"http://{HOST}:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Bind the port and serve; calls are accepted when this returns.

        :raises OSError: the port is taken.
        """
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, self._port))
            listener.listen(128)
        except OSError:
            listener.close()
            self.state.close()
            raise
        self._port = listener.getsockname()[1]
        # The socket listens already, so a call made now waits in its queue until the loop runs.
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[listener])), name="raif-emulator", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, save the recorded traffic and delete the files."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        try:
            if self._recorder is not None:
                self._recorder.save()
        finally:
            self.state.close()
