"""What the three dialects share on the wire: errors, keys, guarded routes, bodies on disk, dropped sockets."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from airflow_raif.emulator.faults import HttpFault
from airflow_raif.emulator.state import EmulatorState

ABORT = "raif_emulator.abort"
Handler = Callable[[Request], Any]
#: Renders an error: (status, message, code, headers).
ErrorRenderer = Callable[[int, str, str, Mapping[str, str] | None], Response]


class ApiError(Exception):
    """A failure that the dialect renders in its own way."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


class JsonResponse(Response):
    """A JSON reply."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the content; ready bytes pass."""
        return content if isinstance(content, bytes) else msgspec.json.encode(content)


class DroppedResponse(Response):
    """No reply at all: the socket is closed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as the base
        """Close the socket."""
        await scope[ABORT]()


def read_key(request: Request) -> str:
    """Return the key of a call from wherever a client may put it."""
    headers = request.headers
    bearer = headers.get("authorization", "").removeprefix("Bearer").strip()
    named = headers.get("x-goog-api-key") or headers.get("x-api-key") or headers.get("api-key")
    return named or request.query_params.get("key") or bearer


class Dialect:
    """Collects the guarded routes of one provider."""

    def __init__(
        self, state: EmulatorState, name: str, render_error: ErrorRenderer, bad_key: ApiError, *, id_header: str = ""
    ) -> None:
        self.state = state
        self.name = name
        self.routes: list[Route] = []
        self._render_error = render_error
        self._bad_key = bad_key
        #: The header in which every reply carries an id of its own; ``""`` for none.
        self._id_header = id_header

    def add(self, method: str, path: str, name: str, handler: Handler) -> None:
        """Add a route. A plain function runs in a thread, since it may make results."""
        self.routes.append(Route(path, self._guard(f"{self.name}.{name}", handler), methods=[method]))

    def error(self, error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
        """Render an error as this provider does."""
        return self._render_error(error.status, error.message, error.code, headers)

    def _guard(self, name: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            response = await answer(request)
            if self._id_header:
                response.headers.setdefault(self._id_header, f"req_{secrets.token_hex(12)}")
            return response

        async def answer(request: Request) -> Response:
            with self.state.lock:
                self.state.requests[name] += 1
                fault = self.state.faults.take_http(name)
            key = read_key(request)
            # An upload's own address stands for the key: Google's SDK sends none to it.
            is_upload = name == "gemini.files.upload" and "upload_id" in request.query_params
            if not is_upload and (not key or key.startswith("bad")):
                return self.error(self._bad_key)
            await self._hold(fault, "before")
            if fault and fault.drop == "before":
                return DroppedResponse()
            if fault and fault.status:
                wait = {} if fault.retry_after is None else {"retry-after": f"{fault.retry_after:g}"}
                return self.error(ApiError(fault.status, f"Emulated fault {fault.status}"), wait)
            try:
                response = await _call(handler, request)
            except ApiError as exc:
                return self.error(exc)
            await self._hold(fault, "after")
            return DroppedResponse() if fault and fault.drop == "after" else response

        return guarded

    async def _hold(self, fault: HttpFault | None, when: str) -> None:
        # Whoever takes it off is in another thread.
        while fault and fault.hold == when and any(each is fault for each in self.state.faults.http):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _call(handler: Handler, request: Request) -> Response:
    if inspect.iscoroutinefunction(handler):
        response: Response = await handler(request)
        return response
    return await run_in_threadpool(handler, request)


async def save_body(request: Request, path: Path, limit: int, *, append: bool = False) -> int:
    """Write a request's body to disk as it comes; return its size.

    :raises ApiError: 413, it is larger than the limit.
    """
    size = 0
    with path.open("ab" if append else "wb") as file:
        async for block in request.stream():
            size += len(block)
            if size > limit:
                raise ApiError(413, "Request exceeds the maximum size", "request_too_large")
            file.write(block)
    return size


async def read_json(request: Request, shape: Any = dict) -> Any:
    """Read a small JSON body.

    :raises ApiError: 400, it is not JSON of that shape.
    """
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=shape)
    except msgspec.DecodeError as exc:
        raise ApiError(400, f"We could not parse the JSON body of your request: {exc}") from exc


def reject(status: int, message: str, code: str = "") -> NoReturn:
    """Fail a call."""
    raise ApiError(status, message, code)


def read_limit(request: Request, name: str, default: int, highest: int) -> int:
    """Read a page size.

    :raises ApiError: 400, it is no number from 1 to the highest.
    """
    text = request.query_params.get(name) or str(default)
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= highest:
        reject(400, f"Invalid '{name}': must be between 1 and {highest}")
    return int(text)


def read_page_token(request: Request) -> int:
    """Read where a page of Gemini's lists begins.

    :raises ApiError: 400, no page came with this token.
    """
    text = request.query_params.get("pageToken") or "0"
    if not (text.isascii() and text.isdigit()):
        reject(400, "Invalid page token.")
    return int(text)


def host_url(request: Request) -> str:
    """Return the address a client called, from its Host header."""
    return f"{request.url.scheme}://{request.headers['host']}"
