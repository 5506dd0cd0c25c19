"""The one transport: timeouts, retries, redaction, and errors in our words."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import isfinite
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import msgspec
import tenacity

from airflow_raif.adapters.base import Adapter, Request, Response
from airflow_raif.domain.errors import (
    AuthenticationError,
    BatchNotFoundError,
    ConfigurationError,
    MalformedResponseError,
    ProviderError,
    RateLimitedError,
    RejectedError,
    TransientProviderError,
    UnavailableError,
)

MAX_ATTEMPTS = 6
#: A provider may ask for any wait; one call waits no longer than this.
MAX_RETRY_AFTER_SECONDS = 60.0
#: https://www.rfc-editor.org/rfc/rfc9110#name-tokens
_is_token = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
#: 429s that no waiting cures.
_EXHAUSTED_CODES = frozenset(
    ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "enforced_spend_limit_reached")
)
_TRANSIENT_STATUSES = frozenset((408, 409, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529))

#: Read once in a process: to load the certificates of the world takes longer than a call does.
_ssl_context = functools.cache(httpx.create_ssl_context)


class _Common:
    """What both transports know of the connection."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._secrets = adapter.secrets
        self._secrets.keep_from_logs()
        self._origin = _origin(adapter.base_url)
        extra = {name.lower(): value for name, value in adapter.settings.headers.items()}
        self._headers = {name.lower(): value for name, value in adapter.auth_headers().items()} | extra
        for name, value in self._headers.items():
            if not _is_token(name) or not value.isascii() or not value.isprintable():
                what = "an extra header" if name in extra else "the API key"
                raise ConfigurationError(
                    f"{what} of the {adapter.name} connection has a character that no header takes (a line end, a"
                    " dash of a word processor, a blank in a name); enter it anew"
                )

    def _arguments(self, request: Request) -> dict[str, Any]:
        headers = {**self._headers, **request.headers}
        content: bytes | Iterable[bytes] | None
        if callable(request.content):
            # With its length given, httpx does not send the body chunked.
            headers["content-length"] = str(request.content_length)
            content = request.content()
        else:
            content = request.content
        return {"method": request.method, "url": self._url(request.path), "headers": headers, "content": content}

    def _url(self, path: str) -> str:
        """Return the absolute address; the key goes to the connection's own host only."""
        if path.startswith("/"):
            return self._adapter.base_url + path
        if self._origin is None or _origin(path) != self._origin:
            raise ProviderError(
                self._secrets.text(
                    f"{self._adapter.name} sent us to {_host(path)}, which is not the connection's host"
                    f" {_host(self._adapter.base_url)}; the key was not sent there"
                ),
                provider=self._adapter.name,
            )
        return path

    def _answer(self, response: httpx.Response) -> Response:
        return Response(response.status_code, response.headers, self._secrets.content(response.content))

    def _lost(self, error: httpx.HTTPError | httpx.InvalidURL, request: Request) -> ProviderError:
        """Map what happened instead of an answer.

        It is raised where the library's error is not being handled, and so is not in the chain that a traceback shows:
        some of those quote the header or the address.
        """
        name, host = self._adapter.name, _host(self._adapter.base_url)
        if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
            return ProviderError(f"the base URL of the {name} connection, at {host}, is no address", provider=name)
        never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        what = "cannot be reached" if never_sent else "did not answer"
        detail = str(error) or type(error).__name__
        text = f"{name} at {host} {what}: {detail} ({request.method} {_path(request)})"
        mapped = UnavailableError(self._secrets.text(text), provider=name)
        mapped.maybe_sent = not never_sent
        return mapped

    def _refused(self, response: httpx.Response, request: Request) -> ProviderError:
        """Map an HTTP status and the provider's error body to our errors."""
        name, status = self._adapter.name, response.status_code
        message, code = _error_body(self._secrets.content(response.content))
        request_id = self._secrets.text(
            response.headers.get("x-request-id") or response.headers.get("request-id") or ""
        )
        text = self._secrets.text(f"{name} answered {status} to {request.method} {_path(request)}: {message}")
        details: dict[str, Any] = {"provider": name, "status": status, "code": code, "request_id": request_id or None}
        if response.is_success:
            return MalformedResponseError(
                f"{name} answered {request.method} {_path(request)} with a web page; something on the way to"
                f" {_host(self._adapter.base_url)} did so in its place, or the base URL is wrong",
                **details,
            )
        if 300 <= status < 400:
            return ProviderError(f"{text} (a redirect, which is not followed with the key)", **details)
        if status in (401, 403) or code == "API_KEY_INVALID":
            return AuthenticationError(f"{text}; check the connection's password, which is the API key", **details)
        if status == 404:
            return BatchNotFoundError(text, **details)
        if status == 429 and code not in _EXHAUSTED_CODES:
            limited = RateLimitedError(text, **details)
            limited.retry_after = retry_after(response.headers)
            limited.maybe_sent = False
            return limited
        if status in _TRANSIENT_STATUSES or status >= 500:
            unavailable = UnavailableError(text, **details)
            unavailable.retry_after = retry_after(response.headers)
            return unavailable
        return RejectedError(text, **details)


class HttpTransport(_Common):
    """Synchronous calls over one client, for a worker."""

    def __init__(
        self, adapter: Adapter, *, client: httpx.Client | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__(adapter)
        self._client = client
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def send(self, request: Request, *, retry: bool = True) -> Response:
        """Send and read the whole answer; ``retry=False`` sends exactly once.

        :raises ProviderError: the provider refused, failed or cannot be reached.
        """
        if not retry:
            return self._send_once(request)
        response: Response = self._retrying(lambda: self._send_once(request))
        return response

    @contextmanager
    def stream(self, request: Request) -> Iterator[Iterator[bytes]]:
        """Open an answer and yield its body in blocks.

        :raises UnavailableError: also while reading, if the connection is lost; and if its loss could not be noticed.
        """
        response: httpx.Response = self._retrying(lambda: self._open(request))
        try:
            if not response.headers.keys() & {"content-length", "transfer-encoding"}:
                raise UnavailableError(
                    f"{self._adapter.name} or a gateway before it does not say where its answer to {request.method}"
                    f" {_path(request)} ends (no Content-Length, not chunked), so it may be cut off; nothing was read",
                    provider=self._adapter.name,
                )
            yield self._blocks(response, request)
        finally:
            response.close()

    def _retrying(self, call: Callable[[], Any]) -> Any:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientProviderError),
            stop=tenacity.stop_after_attempt(MAX_ATTEMPTS),
            wait=pause,
            sleep=self._sleep,
            reraise=True,
        )(call)

    def _send_once(self, request: Request) -> Response:
        response = self._open(request)
        try:
            response.read()
            return self._answer(response)
        except httpx.HTTPError as error:
            failed = self._lost(error, request)
        finally:
            response.close()
        raise failed

    def _open(self, request: Request) -> httpx.Response:
        if self._client is None:
            self._client = httpx.Client(timeout=self._adapter.settings.timeout_seconds, verify=_ssl_context())
        arguments = self._arguments(request)
        try:
            response = self._client.send(self._client.build_request(**arguments), stream=True)
            if response.is_success and not _is_page(response):
                return response
            response.read()
            response.close()
            failed = self._refused(response, request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failed = self._lost(error, request)
        raise failed

    def _blocks(self, response: httpx.Response, request: Request) -> Iterator[bytes]:
        try:
            yield from self._secrets.blocks(response.iter_bytes())
        except httpx.HTTPError as error:
            failed = self._lost(error, request)
        else:
            return
        raise failed


class AsyncHttpTransport(_Common):
    """Asynchronous calls over one client, for the shared poller; it schedules its own repetitions."""

    def __init__(self, adapter: Adapter, *, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(adapter)
        # Made here, since it loads certificates, which is too slow for the first call on an event loop.
        self._client = client or httpx.AsyncClient(timeout=adapter.settings.timeout_seconds, verify=_ssl_context())

    async def send(self, request: Request, *, retry: bool = False) -> Response:
        """Send and read the whole answer, once.

        :raises ProviderError: the provider refused, failed or cannot be reached.
        """
        arguments = self._arguments(request)
        try:
            response = await self._client.request(**arguments)
            if response.is_success and not _is_page(response):
                return self._answer(response)
            failed = self._refused(response, request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failed = self._lost(error, request)
        raise failed

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()


_jitter = tenacity.wait_exponential_jitter(initial=1, max=30, jitter=1)


def pause(state: tenacity.RetryCallState) -> float:
    """Return the seconds before the next attempt: exponential with jitter, or what the provider asks for, capped."""
    error = state.outcome.exception() if state.outcome is not None else None
    hint = error.retry_after if isinstance(error, TransientProviderError) else None
    return max(_jitter(state), min(hint or 0.0, MAX_RETRY_AFTER_SECONDS))


def retry_after(headers: httpx.Headers) -> float | None:
    """Return the seconds a provider asks to wait, if it does so in seconds or milliseconds."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if isfinite(seconds):
            return max(seconds, 0.0)
    return None


def _origin(url: str) -> tuple[str, str, int | None] | None:
    """Return where a call to an address goes, as the library that makes it reads it; ``None``: it is no address."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return None
    return parsed.scheme, parsed.host, parsed.port or {"http": 80, "https": 443}.get(parsed.scheme)


def _is_page(response: httpx.Response) -> bool:
    """Whether a gateway or a login page answered: no API of a provider speaks HTML."""
    return bool(response.headers.get("content-type", "").lower().startswith("text/html"))


def _host(url: str) -> str:
    """Return host and port of an address for a message; a user and password in it are left out."""
    origin = _origin(url)
    return httpx.URL(url).netloc.decode() if origin and origin[1] else "no host"


def _path(request: Request) -> str:
    return urlsplit(request.path).path


def _error_body(content: bytes) -> tuple[str, str | None]:
    """Read message and code from any of the three providers' error bodies."""
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return content[:300].decode("utf-8", "replace") or "no body", None
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, str):
        return error[:1000], None
    if not isinstance(error, dict):
        return content[:300].decode("utf-8", "replace"), None
    details = error.get("details")
    code = error.get("code")
    if isinstance(details, dict):
        code = details.get("error_code") or code
    elif isinstance(details, list):
        code = next((each["reason"] for each in details if isinstance(each, dict) and each.get("reason")), code)
    if not isinstance(code, str):
        code = error.get("type") or error.get("status")
    code = code if isinstance(code, str) else None
    return str(error.get("message") or code or "no message")[:1000], code
