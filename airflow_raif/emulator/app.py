"""The ASGI application: sends each call to the provider it is meant for, and serves the knobs."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_raif.emulator import anthropic, gemini, openai
from airflow_raif.emulator.compose import Composer
from airflow_raif.emulator.faults import Faults
from airflow_raif.emulator.state import EmulatorState
from airflow_raif.emulator.wire import ErrorRenderer, JsonResponse


class ProviderSwitch:
    """Tells the providers apart by what only their clients send, since some of their paths are the same."""

    def __init__(self, dialects: Mapping[str, ASGIApp]) -> None:
        self._dialects = dialects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the call on."""
        request = Request(scope)
        first = request.url.path.split("/", 2)[1]
        is_gemini = "x-goog-api-key" in request.headers or "key" in request.query_params
        if is_gemini or first in ("v1beta", "v1alpha", "upload", "download"):
            name = "gemini"
        elif "anthropic-version" in request.headers or request.url.path.startswith("/v1/messages"):
            name = "anthropic"
        else:
            name = "openai"
        await self._dialects[name](scope, receive, send)


def create_app(state: EmulatorState) -> Starlette:
    """Build the application over a state; it may be mounted in any ASGI server."""

    async def show_state(_: Request) -> Response:
        return JsonResponse(state.snapshot())

    async def set_faults(request: Request) -> Response:
        try:
            state.faults = msgspec.json.decode(await request.body(), type=Faults)
        except msgspec.DecodeError as exc:
            return JsonResponse({"error": str(exc)}, 400)
        return JsonResponse(state.faults)

    composer = Composer()
    switch = ProviderSwitch(
        {
            "openai": _router(openai.OpenAIDialect(state, composer).routes(), openai.render_error),
            "anthropic": _router(anthropic.AnthropicDialect(state, composer).routes(), anthropic.render_error),
            "gemini": _router(gemini.GeminiDialect(state, composer).routes(), gemini.render_error),
        }
    )
    return Starlette(
        routes=[
            Route("/_emulator/state", show_state),
            Route("/_emulator/faults", set_faults, methods=["PUT"]),
            Mount("/", switch),
        ]
    )


def _router(routes: list[Route], render_error: ErrorRenderer) -> Router:
    async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
        response = render_error(404, f"Unknown request URL: {scope['method']} {scope['path']}", "unknown_url", None)
        await response(scope, receive, send)

    return Router(routes=routes, default=not_found, redirect_slashes=False)
