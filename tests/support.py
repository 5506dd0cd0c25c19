"""What tests of several floors build: runtimes over an emulator, and readers of result files."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import httpx
import msgspec
import pytest

from airflow_raif.adapters.base import ConnectionSettings
from airflow_raif.adapters.http import HttpTransport
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.batch import Claim
from airflow_raif.domain.errors import ConfigurationError
from airflow_raif.domain.request import RequestDefaults
from airflow_raif.rich.models import make_model
from airflow_raif.services.find import LIST_LAG_SECONDS
from airflow_raif.services.runtime import Runtime
from airflow_raif.spool.files import Folder
from airflow_raif.store import Store

MODELS = {"openai": "gpt-5-nano", "anthropic": "claude-haiku-4-5", "gemini": "gemini-2.5-flash"}
PROVIDERS = tuple(MODELS)
ANSWER = {
    "type": "object",
    "properties": {"summary": {"type": "string"}, "category": {"type": "string", "enum": ["a", "b"]}},
    "required": ["summary", "category"],
    "additionalProperties": False,
}
CLAIM = Claim("dag", "run", "task", -1)


def folder(path: Path) -> Folder:
    path.mkdir(parents=True, exist_ok=True)
    return Folder(fsspec.filesystem("file"), str(path), f"file://{path}")


def base_url(provider: str, url: str) -> str:
    return f"{url}/v1" if provider == "openai" else url


def settings_of(provider: str, url: str, **values: Any) -> ConnectionSettings:
    values.setdefault("api_key", "good-key")
    return ConnectionSettings(provider=provider, base_url=base_url(provider, url), **values)


@contextlib.contextmanager
def runtime_of(provider: str, url: str, store: Store, path: Path, **values: Any) -> Iterator[Runtime]:
    """Open a runtime whose repeated calls do not wait."""
    adapter = make_adapter(settings_of(provider, url, **values))
    with HttpTransport(adapter, sleep=lambda _: None) as transport:
        yield Runtime(
            store=store, adapter=adapter, transport=transport, spool=folder(path / "spool"), conn_id=f"{provider}_test"
        )


def defaults_of(provider: str, **values: Any) -> RequestDefaults:
    values.setdefault("max_tokens", 500)
    return RequestDefaults(**{"model": MODELS[provider], **values})


def rows(count: int) -> list[dict[str, Any]]:
    return [{"custom_id": f"row {n}", "prompt": f"Sum up number {n}: é漢\u2028x", "shelf": n} for n in range(count)]


def read_rows(uri: str) -> list[dict[str, Any]]:
    text = Path(uri.removeprefix("file://")).read_bytes()
    return [msgspec.json.decode(line) for line in text.split(b"\n")[:-1]]


def later(runtime: Runtime, by: timedelta = timedelta(seconds=LIST_LAG_SECONDS + 1)) -> Runtime:
    """The same runtime, as a retry finds the world when the provider's list surely shows every create."""
    return dataclasses.replace(runtime, clock=lambda: runtime.clock() + by)


class Gateway(httpx.HTTPTransport):
    """Stands between us and the provider, and may change what comes back."""

    def __init__(self, change, before):
        super().__init__()
        self.change = change
        self.before = before

    def handle_request(self, request):
        self.before(request)
        response = super().handle_request(request)
        response.read()
        self.change(request, response)
        return response


def through(runtime, change=lambda request, response: None, before=lambda request: None):
    """The same runtime, its answers changed on their way by ``change(request, response)``."""
    client = httpx.Client(transport=Gateway(change, before), timeout=60)
    transport = HttpTransport(runtime.adapter, client=client, sleep=lambda _: None)
    weakref.finalize(transport, client.close)
    return dataclasses.replace(runtime, transport=transport)


def answer_with(response, content):
    response._content = content
    response.headers.pop("content-encoding", None)


def need_pydantic_ai(provider):
    """Skip the test where pydantic-ai, or the generation of SDKs that it needs, is not installed."""
    try:
        make_model(provider, MODELS[provider])
    except ConfigurationError as error:
        pytest.skip(str(error))
