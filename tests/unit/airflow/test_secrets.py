"""What Airflow keeps and shows of us holds no secret: XCom, triggers, events, errors, logs, reprs, the command line."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from airflow.sdk.exceptions import TaskDeferred

from airflow_raif.cli import db as db_commands
from airflow_raif.domain.errors import ConfigurationError, RaifError
from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks.batch import BatchHook
from airflow_raif.hooks.connections import aresolve, resolve
from airflow_raif.hooks.db_manager import RaifDBManager, migrate_store
from airflow_raif.hooks.store import afind_store, find_store
from airflow_raif.operators.batch import (
    ApplyBatchResultsOperator,
    BatchInferenceOperator,
    CancelBatchOperator,
    SubmitBatchOperator,
)
from airflow_raif.sensors.batch import WaitForBatchSensor
from airflow_raif.triggers.batch import BatchTrigger
from tests.gateway import Answer, Gateway
from tests.leaks import Leaks, log_everything
from tests.support import MODELS, PROVIDERS, base_url

KEY = "sk-proj-S3cr3tK3y_0123456789/abc+XYZ-0987654321"
TOKEN = "gateway-t0ken-5f4dcc3b5aa765d61d8327deb882cf99"
PASSWORD = "pa55word/of:the@base+url 77"
STORE_PASSWORD = "st0re:pass/word@of raif 4711"
ECHO = f"No: {KEY} {TOKEN} {PASSWORD} {base64.b64encode(f'user:{PASSWORD}'.encode()).decode()}"


@pytest.fixture
def leaks(caplog, monkeypatch) -> Leaks:
    log_everything(caplog)
    monkeypatch.setenv("AIRFLOW__RAIF__STORE_TIMEOUT", "0")
    monkeypatch.setenv("AIRFLOW__RAIF__OUTAGE_PAUSE", "0")
    return Leaks(KEY, TOKEN, PASSWORD, STORE_PASSWORD)


@pytest.fixture(params=PROVIDERS)
def provider(request) -> str:
    return request.param


@pytest.fixture
def gateway(emulator_of, monkeypatch, no_backoff) -> Iterator[Gateway]:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    with Gateway(emulator_of(progress=Progress.parse("polls:3")).url).serving() as opened:
        yield opened


@pytest.fixture
def define(connection, gateway, raif_home):
    """Make a provider's connection to the gateway, with all that may be secret in it."""

    def made(provider: str, **fields: Any) -> None:
        url = base_url(provider, gateway.url).replace("://", f"://user:{quote(PASSWORD, safe='')}@")
        kind = "anthropic" if provider == "anthropic" else "openai"
        arguments = {"default_headers": {"X-Gateway-Auth": f"Bearer {TOKEN}"}, "timeout": 5}
        extra = {f"{kind}_client_kwargs": arguments}
        given = {"conn_type": f"raif_{provider}", "password": KEY, "host": url, "extra": extra, **fields}
        connection(f"{provider}_default", **given)

    return made


def run(operator: Any, context: dict[str, Any], leaks: Leaks, execute: Any = None) -> Any:
    """Execute an operator through its deferrals, and note everything that Airflow would keep of it."""
    leaks.see(
        "operator", (operator, vars(operator), {name: getattr(operator, name) for name in operator.template_fields})
    )
    execute = execute or (lambda: operator.execute(context))
    for _ in range(6):
        try:
            result = execute()
        except TaskDeferred as deferred:
            trigger = deferred.trigger
            leaks.see("deferral", (deferred, deferred.args, deferred.kwargs, deferred.method_name, deferred.timeout))
            leaks.see("trigger", (trigger.serialize(), vars(trigger)))
            event = asyncio.run(one_event(trigger))
            leaks.see("event", event)
            method = getattr(operator, deferred.method_name)
            execute = lambda: method(context, event)  # noqa: B023, E731
        except Exception as error:  # noqa: BLE001
            leaks.see_error(type(operator).__name__, error)
            return None
        else:
            leaks.see("XCom", result)
            return result
    return None


async def one_event(trigger: BatchTrigger) -> dict[str, Any]:
    trigger.end_time = min(trigger.end_time or 0, time.time() + 5)
    async for event in trigger.run():
        return event.payload
    raise AssertionError


ANSWERS = {
    "all is well": lambda call, answer: answer,
    "401": lambda call, answer: Answer(401, {}, json.dumps({"error": {"message": ECHO}}).encode()),
    "401 later": lambda call, answer: answer
    if call.method == "POST"
    else Answer(401, {}, json.dumps({"error": {"message": ECHO}}).encode()),
    "400": lambda call, answer: Answer(400, {}, json.dumps({"error": {"message": ECHO, "code": ECHO}}).encode()),
    "500": lambda call, answer: Answer(500, {}, ECHO.encode()),
    "a page": lambda call, answer: Answer(200, {}, ECHO.encode()),
    "a redirect": lambda call, answer: Answer(302, {"location": f"https://x.example/?k={quote(KEY)}"}, ECHO.encode()),
    "rows": lambda call, answer: Answer(
        answer.status, answer.headers, answer.body.replace(b'"text":"', f'"text":"{ECHO} '.encode())
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_operators_and_what_airflow_keeps_of_them(name, provider, define, gateway, context, leaks, caplog, raif_home):
    """Whole lives through operators, triggers and the hook."""
    gateway.change = ANSWERS[name]
    define(provider)
    hook = BatchHook(f"{provider}_default", f"{provider}:{MODELS[provider]}")
    leaks.see("Test Connection", hook.test_connection())
    leaks.see("hook", (hook, vars(hook), hook.settings, resolve(f"{provider}_default")))
    arguments = {"conn_id": f"{provider}_default", "model": MODELS[provider], "requests": ["a", "b"], "max_tokens": 500}
    run(BatchInferenceOperator(task_id="t", poll_interval=0.02, **arguments), context, leaks)
    context["ti"].map_index = 1
    submitted = run(SubmitBatchOperator(task_id="s", **arguments), context, leaks)
    if submitted is not None:
        run(WaitForBatchSensor(task_id="w", batch=submitted, poll_interval=0.02), context, leaks)
        run(ApplyBatchResultsOperator(task_id="a", batch=submitted), context, leaks)
        run(CancelBatchOperator(task_id="c", batch=submitted), context, leaks)
    leaks.see("XCom", context["pushed"])
    find_store().close()
    leaks.see_logs(caplog.records)
    leaks.see_tables(f"sqlite:///{raif_home}/raif.db")
    leaks.see_files(raif_home)
    assert leaks.found() == []
    assert "receive_response_headers" in caplog.text
    assert TOKEN in gateway.calls[0].headers["x-gateway-auth"]
    if name == "all is well":
        assert context["pushed"]["raif_manifest"]["counts"]["completed"] == 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"host": f"http://user:{PASSWORD}@127.0.0.1:1"}, "which is no address"),
        ({"host": f"http://{PASSWORD}@127.0.0.1:1"}, "which is no address"),
        ({"host": f"user:{PASSWORD}"}, "which is no address"),
        ({"host": f"ftp://user:{quote(PASSWORD, safe='')}@127.0.0.1"}, "which is no address"),
        ({"host": "", "extra": {"openai_client_kwargs": {"base_url": f"http://user:{PASSWORD}@h"}}}, "is no address"),
        ({"extra": {"platform": "bedrock", "secret": TOKEN}}, "platform 'bedrock'"),
        ({"extra": {"timeout": "soon", "openai_client_kwargs": {"default_headers": {"A": TOKEN}}}}, "timeout 'soon'"),
        ({"conn_type": "http"}, "is of type 'http'"),
    ],
)
async def test_a_connection_that_is_wrong(fields, says, define, leaks, caplog):
    """It is told what is wrong, without what must not be told."""
    define("openai", **fields)
    for look in (lambda: resolve("openai_default"), lambda: asyncio.run(aresolve("openai_default"))):
        with pytest.raises(ConfigurationError, match=says) as told:
            await asyncio.to_thread(look)
        leaks.see_error("resolve", told.value)
    leaks.see("Test Connection", await asyncio.to_thread(BatchHook("openai_default").test_connection))
    leaks.see_logs(caplog.records)
    assert leaks.found() == []


@pytest.mark.parametrize("uri", [f"raif-openai://:{KEY}@h", f"{{broken {KEY}", f"http://u:{PASSWORD}@h:p"])
def test_a_connection_that_airflow_cannot_read(uri, monkeypatch, leaks, caplog, raif_home):
    """What its parser quotes of the connection is not in the chain of the error."""
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", uri)
    with contextlib.suppress(RaifError):
        try:
            resolve("openai_default")
        except RaifError as error:
            leaks.see_error("resolve", error)
            raise
    leaks.see("Test Connection", BatchHook("openai_default").test_connection())
    leaks.see_logs(record for record in caplog.records if record.name.startswith("airflow_raif"))
    assert leaks.found() == []


@contextlib.contextmanager
def postgres_that_refuses() -> Iterator[int]:
    """A database that asks for a password and takes none."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                with client, contextlib.suppress(OSError):
                    while (size := int.from_bytes(client.recv(4))) and client.recv(size - 4)[:4] in (
                        (80877103).to_bytes(4), (80877104).to_bytes(4),
                    ):  # fmt: skip
                        client.sendall(b"N")
                    client.sendall(b"R" + (8).to_bytes(4) + (3).to_bytes(4))
                    client.recv(4096)
                    said = b'SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user "raif"\0\0'
                    client.sendall(b"E" + (len(said) + 4).to_bytes(4) + said)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@pytest.fixture(params=["down", "wrong password", "password in the query"])
def store_address(request) -> Iterator[str]:
    if request.param == "wrong password":
        with postgres_that_refuses() as port:
            yield f"postgresql://raif:{quote(STORE_PASSWORD, safe='')}@127.0.0.1:{port}/raif"
    elif request.param == "down":
        yield f"postgres://raif:{quote(STORE_PASSWORD, safe='')}@127.0.0.1:9/raif"
    else:
        yield f"postgresql://127.0.0.1:9/raif?user=raif&password={quote(STORE_PASSWORD, safe='')}"


def see_store(leaks: Leaks, capsys: pytest.CaptureFixture[str]) -> None:
    """Use the store in all the ways there are; note what is said."""
    manager = RaifDBManager.__new__(RaifDBManager)
    ways = (
        find_store,
        lambda: asyncio.run(afind_store()),
        migrate_store,
        manager.check_migration,
        lambda: db_commands.check(None),
        lambda: db_commands.migrate(None),
        lambda: BatchHook("openai_default").submit_batch("x" * 32),
    )
    for number, use in enumerate(ways):
        try:
            leaks.see(f"way {number}", use())
        except (Exception, SystemExit) as error:  # noqa: BLE001
            leaks.see_error(f"way {number}", error)
    written = capsys.readouterr()
    leaks.see("command line", written.out + written.err)


@pytest.mark.parametrize("where", ["configuration", "connection"])
def test_a_store_that_cannot_be_used(
    where, store_address, define, monkeypatch, connection, context, leaks, caplog, capsys
):
    """Its password is in no error, whoever asks for it."""
    define("openai")
    if where == "configuration":
        monkeypatch.setenv("AIRFLOW__RAIF__SQL_ALCHEMY_CONN", store_address)
    else:
        monkeypatch.setenv("AIRFLOW_CONN_RAIF_STATE", store_address)
    see_store(leaks, capsys)
    arguments = {"conn_id": "openai_default", "model": "gpt-5-nano", "requests": ["a"]}
    run(BatchInferenceOperator(task_id="t", **arguments), context, leaks)
    values = {"min_dwell": 0, "poll_intervals": [0.02], "end_time": time.time() + 0.5}
    trigger = BatchTrigger(conn_id="openai_default", batch_id="x", **values)
    leaks.see("event", asyncio.run(one_event(trigger)))
    leaks.see_logs(caplog.records)
    assert leaks.found() == []
    assert leaks.saw("the store at postgresql+psycopg://")
    assert leaks.saw("does not answer")


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://raif:{STORE_PASSWORD}@127.0.0.1:9/raif",
        f"postgresql://raif:{STORE_PASSWORD}",
        f"postgresql://127.0.0.1:{STORE_PASSWORD}/raif",
        f"raif:{STORE_PASSWORD}@127.0.0.1",
        f"mysql://raif:{quote(STORE_PASSWORD, safe='')}@127.0.0.1/raif",
    ],
)
def test_a_store_address_that_is_none(address, define, monkeypatch, leaks, caplog, capsys):
    """It is told how an address looks, and how a password is written in one."""
    define("openai")
    monkeypatch.setenv("AIRFLOW__RAIF__SQL_ALCHEMY_CONN", address)
    see_store(leaks, capsys)
    leaks.see_logs(caplog.records)
    assert leaks.found() == []
    assert leaks.saw("ConfigurationError")


def test_the_option_of_the_store_is_marked_as_secret():
    """So that Airflow's own pages hide it."""
    from airflow_raif.get_provider_info import get_provider_info

    assert get_provider_info()["config"]["raif"]["options"]["sql_alchemy_conn"]["sensitive"] is True


@pytest.mark.parametrize("is_async", [False, True])
async def test_official_clients(provider, is_async, define, gateway, leaks, caplog):
    """They get the secrets in headers, and no address with a password in it."""
    define(provider)
    hook = BatchHook(f"{provider}_default", f"{provider}:{MODELS[provider]}")
    client = (await hook.aget_conn()) if is_async else await asyncio.to_thread(hook.get_conn)
    leaks.see("client", client)
    if not is_async and provider != "gemini":
        await asyncio.to_thread(lambda: list(client.models.list()))
        sent = gateway.calls[-1].headers
        assert TOKEN in sent["x-gateway-auth"]
        assert sent["authorization"] == f"Basic {base64.b64encode(f'user:{PASSWORD}'.encode()).decode()}"
        assert "@" not in str(client.base_url)
    leaks.see_logs(record for record in caplog.records if record.name.startswith(("httpx", "airflow_raif")))
    assert leaks.found() == []
