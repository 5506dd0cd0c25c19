"""Whatever goes wrong, and whatever a provider repeats: no secret is in logs, tables, files, errors or reprs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from airflow_raif.adapters.http import AsyncHttpTransport
from airflow_raif.domain.errors import ConfigurationError, RaifError
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.apply import apply_results
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.create import create_batch
from airflow_raif.services.manifest import manifest_of
from airflow_raif.services.outcome import check_outcome
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.poller import SharedPoller
from airflow_raif.services.submit import submit_batch
from tests.gateway import Answer, Call, Gateway
from tests.leaks import Leaks, log_everything
from tests.support import PROVIDERS, defaults_of, folder, rows, runtime_of

KEY = "sk-proj-S3cr3tK3y_0123456789/abc+XYZ-0987654321"
TOKEN = "gateway-t0ken-5f4dcc3b5aa765d61d8327deb882cf99"
PASSWORD = "pa55word/of:the@base+url 77"
ORGANIZATION = "org-S3cr3t0rganization42"
HEADERS = {"X-Gateway-Auth": f"Bearer {TOKEN}", "OpenAI-Organization": ORGANIZATION}


def echo() -> str:
    """What a server says that repeats everything it got, in any form."""
    basic = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
    other = base64.b64encode(f"api-key:{KEY}".encode()).decode()
    return (
        f"No: {KEY} {TOKEN} {ORGANIZATION} {PASSWORD} {quote(KEY, safe='')} {quote(PASSWORD, safe='')} {basic} {other}"
    )


@dataclass
class Scene:
    """A provider behind a gateway, and a stranger's server."""

    provider: str
    gateway: Gateway
    stranger: Gateway


Change = Callable[[Scene, Call, Answer], Answer]


def _nothing(scene: Scene, call: Call, answer: Answer) -> Answer:
    return answer


def _status(code: int) -> Change:
    return lambda scene, call, answer: Answer(
        code, {"x-request-id": KEY}, json.dumps({"error": {"message": echo()}}).encode()
    )


def _gemini_key(scene: Scene, call: Call, answer: Answer) -> Answer:
    error = {"code": 400, "message": echo(), "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}
    return Answer(400, {}, json.dumps({"error": error}).encode())


def _code(scene: Scene, call: Call, answer: Answer) -> Answer:
    return Answer(400, {}, json.dumps({"error": {"message": "no", "code": echo(), "type": echo()}}).encode())


def _page(scene: Scene, call: Call, answer: Answer) -> Answer:
    return Answer(200, {"content-type": "text/html"}, f"<html>{echo()}</html>".encode())


def _page_of_results(scene: Scene, call: Call, answer: Answer) -> Answer:
    return _page(scene, call, answer) if call.is_download else answer


def _redirect(scene: Scene, call: Call, answer: Answer) -> Answer:
    address = f"{scene.stranger.url}{call.path}?key={quote(KEY, safe='')}&token={TOKEN}"
    return Answer(307, {"location": address}, f"Moved to {address}".encode())


def _redirect_of_results(scene: Scene, call: Call, answer: Answer) -> Answer:
    return _redirect(scene, call, answer) if call.is_download else answer


def _elsewhere(scene: Scene, call: Call, answer: Answer) -> Answer:
    """Every address that is given leads to the stranger."""
    answer.headers = {k: v.replace(scene.gateway.url, scene.stranger.url) for k, v in answer.headers.items()}
    answer.body = answer.body.replace(scene.gateway.url.encode(), scene.stranger.url.encode())
    return answer


def _in_headers(scene: Scene, call: Call, answer: Answer) -> Answer:
    said = {"x-request-id": echo(), "set-cookie": f"session={quote(KEY, safe='')}", "x-you-sent": echo()}
    answer.headers |= said
    if "x-goog-upload-url" in answer.headers:
        answer.headers["x-goog-upload-url"] += f"&key={quote(KEY, safe='')}"
    return answer


def _in_every_text(scene: Scene, call: Call, answer: Answer) -> Answer:
    """Whatever is a text of the provider's or the model's own holds it."""
    said = json.dumps(echo())[1:-1].encode()
    for name in (b'"text":"', b'"message":"', b'"raw_status":"', b'"displayName":"raif', b'"role":"', b'"model":"'):
        answer.body = answer.body.replace(name, name + said + b" ")
    return answer


def _in_failed_rows(scene: Scene, call: Call, answer: Answer) -> Answer:
    if call.is_download:
        failed = []
        for line in answer.body.splitlines():
            row = json.loads(line)
            error = {"code": echo(), "type": echo(), "message": echo(), "status": echo()}
            if scene.provider == "openai":
                row = {"custom_id": row["custom_id"], "response": None, "error": error}
            elif scene.provider == "anthropic":
                row = {"custom_id": row["custom_id"], "result": {"type": "errored", "error": error}}
            else:
                row = {"key": row["key"], "error": error}
            failed.append(json.dumps(row).encode() + b"\n")
        answer.body = b"".join(failed)
    return answer


def _in_broken_rows(scene: Scene, call: Call, answer: Answer) -> Answer:
    if call.is_download:
        answer.body += f'{{"id": "{echo()}", "custom_id": \n'.encode() + f'{{"custom_id": "{echo()}"}}\n'.encode()
    return answer


def _in_the_batch(scene: Scene, call: Call, answer: Answer) -> Answer:
    """The batch failed as a whole, for a reason that holds it, and its status is a word of that kind, too."""
    if call.method == "GET" and "batches/" in call.path and not call.is_download:
        batch = json.loads(answer.body)
        error = {"code": echo(), "message": echo(), "status": echo(), "line": 1}
        if scene.provider == "openai":
            batch |= {
                "status": "failed",
                "errors": {"data": [error]},
                "output_file_id": echo(),
                "metadata": {"raif": KEY},
            }
        elif scene.provider == "anthropic":
            batch |= {"processing_status": echo(), "results_url": f"https://elsewhere.example/{quote(KEY)}"}
        else:
            batch["error"] = error
            batch["metadata"] |= {"state": "BATCH_STATE_FAILED", "displayName": KEY}
        answer.body = json.dumps(batch).encode()
    return answer


def _a_status_word(scene: Scene, call: Call, answer: Answer) -> Answer:
    for word in ("validating", "in_progress", "completed", "ended", "BATCH_STATE_PENDING", "BATCH_STATE_SUCCEEDED"):
        answer.body = answer.body.replace(f'"{word}"'.encode(), json.dumps(echo()[:90]).encode())
    return answer


def _cut(scene: Scene, call: Call, answer: Answer) -> Answer:
    answer.headers["content-length"] = str(len(answer.body))
    return Answer(answer.status, answer.headers, answer.body[:-1], has_length=False)


SCENES: dict[str, Change] = {
    "all is well": _nothing,
    "401": _status(401),
    "403": _status(403),
    "404": _status(404),
    "400 of Gemini": _gemini_key,
    "400 with a code": _code,
    "429": _status(429),
    "500": _status(500),
    "a page": _page,
    "a page of results": _page_of_results,
    "a redirect": _redirect,
    "a redirect of results": _redirect_of_results,
    "addresses of a stranger": _elsewhere,
    "headers": _in_headers,
    "texts": _in_every_text,
    "failed rows": _in_failed_rows,
    "broken rows": _in_broken_rows,
    "the batch": _in_the_batch,
    "a status word": _a_status_word,
    "an answer that is cut": _cut,
}


@pytest.fixture(params=PROVIDERS)
def scene(request, emulator, monkeypatch, no_backoff) -> Iterator[Scene]:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    # By file, since that has an upload address and a download.
    monkeypatch.setattr("airflow_raif.adapters.gemini.INLINE_MAX_BYTES", 0)
    with Gateway(emulator.url).serving() as gateway, Gateway().serving() as stranger:
        yield Scene(request.param, gateway, stranger)


@pytest.fixture
def leaks(caplog) -> Leaks:
    log_everything(caplog)
    return Leaks(KEY, TOKEN, PASSWORD, ORGANIZATION)


def with_user(url: str) -> str:
    return url.replace("://", f"://user:{quote(PASSWORD, safe='')}@")


async def polled(runtime, leaks: Leaks, batch_id: str) -> None:
    """What the triggerer does: wait with the shared poller, here for a moment."""
    closed = asyncio.Event()

    async def on_close() -> None:
        closed.set()

    transport = AsyncHttpTransport(runtime.adapter)
    poller = SharedPoller(runtime.adapter, transport, runtime.store, on_close=on_close)
    leaks.see("repr", (poller, transport))
    try:
        leaks.see("poller", await asyncio.wait_for(poller.wait(batch_id, (0.01,)), 0.3))
    except (RaifError, TimeoutError) as error:
        leaks.see_error("poller", error)
    await closed.wait()


async def live(runtime, leaks: Leaks, out: Path) -> None:
    """Do all that is ever done with a batch, whatever fails."""
    batch = create_batch(
        runtime, rows(2), defaults=defaults_of(runtime.adapter.name),
        round_policy=RoundPolicy(max_rounds=1, synchronous_stragglers=5),
    )  # fmt: skip
    batch_id = batch.batch_id
    leaks.see("repr", (runtime, runtime.adapter, runtime.adapter.settings, runtime.transport, vars(runtime), batch))
    steps: list[Callable[[], Any]] = [
        lambda: runtime.transport.send(runtime.adapter.check_request(), retry=False),
        lambda: submit_batch(runtime, batch_id),
        lambda: submit_batch(runtime, batch_id),
        lambda: fetch_batch_status(runtime, batch_id),
        lambda: advance_batch(runtime, batch_id),
        lambda: fetch_batch_status(runtime, batch_id),
        lambda: advance_batch(runtime, batch_id),
        lambda: apply_results(runtime, batch_id, folder(out)),
        lambda: manifest_of(runtime, runtime.store.get_batch(batch_id)),
        lambda: check_outcome(runtime, runtime.store.get_batch(batch_id)),
        lambda: cancel_batch(runtime, batch_id),
    ]
    for number, step in enumerate(steps):
        try:
            leaks.see(f"step {number}", step())
        except RaifError as error:
            leaks.see_error(f"step {number}", error)
        if number == 3:
            await polled(runtime, leaks, batch_id)


@pytest.mark.parametrize("name", SCENES)
async def test_no_secret_gets_anywhere(name, scene, leaks, store, tmp_path, caplog):
    """In whole lives, with everything logged that can be."""
    scene.gateway.change = lambda call, answer: SCENES[name](scene, call, answer)
    settings = {"api_key": KEY, "headers": HEADERS}
    with runtime_of(scene.provider, with_user(scene.gateway.url), store, tmp_path, **settings) as runtime:
        await live(runtime, leaks, tmp_path / "out")
    store.close()
    leaks.see_logs(caplog.records)
    leaks.see_tables(f"sqlite:///{tmp_path}/raif.db")
    leaks.see_files(tmp_path)
    assert leaks.found() == []
    # The secrets were in play, and everything was logged.
    assert "receive_response_headers" in caplog.text
    sent = scene.gateway.calls[0].headers
    assert (TOKEN in sent["x-gateway-auth"], sent["openai-organization"]) == (True, ORGANIZATION)
    assert base64.b64encode(f"user:{PASSWORD}".encode()).decode() in sent["authorization"]
    if scene.provider != "openai":
        assert KEY in (sent.get("x-api-key"), sent.get("x-goog-api-key"))
    # Nobody else got any of them, or was asked at all.
    assert scene.stranger.calls == []


async def test_nobody_listens(scene, leaks, store, tmp_path, caplog):
    """A connection that is refused is told with host and port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with runtime_of(scene.provider, with_user(url), store, tmp_path, api_key=KEY, headers=HEADERS) as runtime:
            await live(runtime, leaks, tmp_path / "out")
    leaks.see_logs(caplog.records)
    assert leaks.found() == []
    assert leaks.saw(f"{scene.provider} at {url.removeprefix('http://')} cannot be reached")


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": KEY + "\x7f"},
        {"api_key": KEY.replace("-", "\u2014")},
        {"api_key": f"{KEY}\r\nX-Other: 1"},
        {"api_key": "good-key", "headers": {"X-Gateway-Auth": f"{TOKEN}\n{TOKEN}"}},
        {"api_key": "good-key", "headers": {"X-Gateway-Auth": f"{TOKEN}\x00"}},
        {"api_key": "good-key", "headers": {"X Gateway": TOKEN}},
    ],
)
async def test_a_header_that_cannot_be_sent(settings, scene, leaks, store, tmp_path, caplog):
    """It is told which one, and not what is in it."""
    with contextlib.suppress(ConfigurationError):
        try:
            with runtime_of(scene.provider, scene.gateway.url, store, tmp_path, **settings) as runtime:
                await live(runtime, leaks, tmp_path / "out")
        except ConfigurationError as error:
            leaks.see_error("opening", error)
            raise
    leaks.see_logs(caplog.records)
    assert leaks.found() == []
