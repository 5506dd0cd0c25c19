"""The FastAPI application of the pages and the JSON API."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import airflow_raif
from airflow_raif.domain.errors import (
    AmbiguousSubmitError,
    ConfigurationError,
    ConnectionUnavailableError,
    InvalidBatchError,
    ProviderError,
    RaifError,
    StoreNotReadyError,
    StoreUnavailableError,
    TaskMissingError,
)
from airflow_raif.hooks.airflow_server import login_url
from airflow_raif.plugin import actions, api, batch_page, cost_page, pages
from airflow_raif.plugin.render import page
from airflow_raif.store import BatchMissingError

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
#: Nothing but our own files and answers; shown in a frame by Airflow alone.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{what}-src 'self'" for what in ("script", "style", "img", "connect", "font")),
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'self'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cross-origin-resource-policy": "same-origin",
}
_STATUS_OF_ERROR: tuple[tuple[type[RaifError], int], ...] = (
    (BatchMissingError, 404),
    (InvalidBatchError, 409),
    (AmbiguousSubmitError, 409),
    (TaskMissingError, 409),
    (ProviderError, 502),
    (StoreUnavailableError, 503),
    (StoreNotReadyError, 503),
    (ConnectionUnavailableError, 503),
    (ConfigurationError, 503),
)


class _Headers:
    """Adds the headers of every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, send_more)


class _Assets(StaticFiles):
    """Files that never change under one address: it holds a hash of what is in them."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "public, max-age=31536000, immutable"
        return response


def make_app() -> FastAPI:
    """Build the application; its routes are sync functions, which FastAPI runs in threads, wherever they wait."""
    app = FastAPI(
        title="LLM batches",
        description="Batches of airflow-raif, with the permissions of the caller in Airflow.",
        version=airflow_raif.__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(_Headers)
    app.mount("/static", _Assets(directory=STATIC), name="static")
    app.include_router(api.router)
    for each in (pages.router, cost_page.router, batch_page.router, actions.router):
        app.include_router(each, include_in_schema=False)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RaifError, _our_error)
    return app


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101 - it is registered for these
    # A page that updates itself asks, too; what it gets must not be a form to log in.
    is_page = not api.is_asked(request) and "hx-request" not in request.headers
    if error.status_code == 401 and is_page:
        here = quote(f"{request.url.path}?{request.url.query}".rstrip("?"), safe="/?=&%:+{}")
        return RedirectResponse(login_url(here), status_code=302)
    return _answer(request, error.status_code, str(error.detail), error.headers)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    told = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
    return _answer(request, 422, told)


def _our_error(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUS_OF_ERROR if isinstance(error, kind)), 500)
    if status >= 500:
        log.warning("%s %s: %s", request.method, request.url.path, error)
    return _answer(request, status, str(error))


def _answer(request: Request, status: int, told: str, headers: Any = None) -> Response:
    if api.is_asked(request):
        return JSONResponse({"detail": told}, status_code=status, headers=headers)
    return page(request, "error.html", status=status, told=told, headers=headers)
