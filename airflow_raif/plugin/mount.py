"""The ASGI application that Airflow mounts; what it needs is imported at the first request, in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Application = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]


class LazyApplication:
    """Builds the application when it is first asked for: Airflow's other components load plugins, too."""

    def __init__(self) -> None:
        self._built: asyncio.Future[Application] | None = None

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Answer a request."""
        if self._built is None or self._built.get_loop() is not asyncio.get_running_loop():
            self._built = asyncio.ensure_future(asyncio.to_thread(_build))
        # Whoever asks and goes away must not end it for the others.
        application = await asyncio.shield(self._built)
        await application(scope, receive, send)


def _build() -> Application:
    from airflow_raif.plugin.app import make_app

    return make_app()
