"""``airflow raif doctor``: what is wrong is named, with what to do; what is well is said to be."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from airflow_raif.emulator.faults import HttpFault
from airflow_raif.hooks import doctor as doctor_module
from airflow_raif.hooks.runtime import open_runtime
from airflow_raif.hooks.store import _STORES
from airflow_raif.services.create import create_batch
from airflow_raif.store import migrate
from tests.support import MODELS, base_url, defaults_of, rows

KEY = "sk-very-secret"
NIGHT = datetime(2026, 3, 4, tzinfo=UTC)


@pytest.fixture
def airflow_is_well(monkeypatch):
    """Stand in for what Airflow's database tells; tests/integration asks a real one."""
    told = {"heartbeat": (datetime.now(UTC), True), "connections": []}
    compat = "airflow_raif.hooks.airflow_compat"
    monkeypatch.setattr(f"{compat}.triggerer_heartbeat", lambda: told["heartbeat"])
    monkeypatch.setattr(f"{compat}.connections_of_types", lambda types: told["connections"])
    return told


@pytest.fixture
def findings(raif_command):
    """Run the doctor; return its exit code, and its findings by check."""

    def run(*words):
        done = raif_command("doctor", "-o", "json", *words)
        assert KEY not in done.out + done.err
        found = {}
        for each in json.loads(done.out):
            found.setdefault(each["check"], []).append(each)
        return done.code, {check: each[-1] for check, each in found.items()}

    return run


def test_all_is_well(emulator, providers, raif_store, airflow_is_well, findings, raif_command, raif_home):
    """Nothing to do, nothing left behind, and 0."""
    providers(emulator)
    airflow_is_well["connections"] = ["openai_default", "anthropic_default", "gemini_default"]
    code, found = findings()
    assert (code, {each["level"] for each in found.values()}) == (0, {"ok"})
    assert {"versions", "extras", "store", "spool", "results", "prices", "triggerer"} < set(found)
    for package in ("openai", "pydantic-ai-slim", "pyarrow", "tiktoken"):
        assert package in found["extras"]["message"]
    assert "accepts the key" in found["connection gemini_default"]["message"]
    assert f"sqlite:///{raif_home}/raif.db, from the default: reachable, writable" in found["store"]["message"]
    assert not (raif_home / "spool").exists()
    table = raif_command("doctor")
    assert table.code == 0
    assert "0 problems, 0 warnings." in table.out


def test_only_the_connections_that_are_named(emulator, providers, raif_store, airflow_is_well, findings):
    """Such as those in a secrets backend, which cannot be listed."""
    providers(emulator)
    airflow_is_well["connections"] = ["anthropic_default"]
    code, found = findings("--conn-id", "openai_default", "--conn-id", "nowhere")
    assert code == 1
    assert [check for check in found if check.startswith("connection ")] == [
        "connection nowhere", "connection openai_default",
    ]  # fmt: skip
    assert "there is no connection 'nowhere'" in found["connection nowhere"]["message"]
    assert found["connection openai_default"]["level"] == "ok"


@pytest.mark.parametrize(
    ("fault", "level", "remedy"),
    [
        (HttpFault(route="openai.*", status=401, times=-1), "problem", "put a valid API key"),
        (HttpFault(route="openai.*", status=503, times=-1), "problem", "see the connection's host, and the network"),
        (HttpFault(route="openai.*", status=404, times=-1), "warning", "see whether the server serves batches"),
    ],
)
def test_a_provider_that_will_not(emulator, providers, raif_store, airflow_is_well, findings, fault, level, remedy):
    """Said as the provider says it, without the key; and asked once."""
    providers(emulator, key=KEY)
    emulator.state.faults.http.append(fault)
    code, found = findings("--conn-id", "openai_default")
    assert code == (level == "problem")
    assert found["connection openai_default"]["level"] == level
    assert remedy in found["connection openai_default"]["remedy"]
    assert sum(emulator.state.requests.values()) == 1


def test_a_connection_that_is_no_good(connection, raif_store, airflow_is_well, findings):
    """Of another type, without a key, for several providers: each with the remedy."""
    connection("database", conn_type="postgres", password=KEY)
    connection("keyless", conn_type="raif_openai")
    connection("several", conn_type="pydanticai", password=KEY)
    airflow_is_well["connections"] = ["database", "keyless", "several"]
    code, found = findings()
    assert code == 1
    assert "use one of type raif_openai" in found["connection database"]["message"]
    assert "put it into its password field" in found["connection keyless"]["message"]
    assert "write the model as 'provider:model'" in found["connection several"]["message"]


def test_a_key_that_no_header_takes(emulator, providers, connection, raif_store, airflow_is_well, findings):
    """It is told of its connection, and the others are looked at all the same."""
    providers(emulator)
    connection("dashed", conn_type="raif_openai", password=f"{KEY}\N{EM DASH}")
    airflow_is_well["connections"] = ["dashed", "openai_default"]
    code, found = findings()
    assert code == 1
    assert "has a character that no header takes" in found["connection dashed"]["message"]
    assert found["connection openai_default"]["level"] == "ok"


def test_a_connection_for_several_providers(emulator, connection, raif_store, airflow_is_well, findings):
    """Its batches tell the provider, also where it is named."""
    connection("several", conn_type="pydanticai", password="good-key", host=base_url("openai", emulator.url))
    with open_runtime("several", f"openai:{MODELS['openai']}") as runtime:
        create_batch(runtime, rows(2), defaults=defaults_of("openai"))
    for words in ((), ("--conn-id", "several")):
        assert findings(*words)[1]["connection several"]["level"] == "ok"


def test_no_connection_at_all(raif_store, airflow_is_well, findings):
    """A warning: a secrets backend may have one."""
    code, found = findings()
    assert (code, found["connections"]["level"]) == (0, "warning")
    assert "--conn-id" in found["connections"]["remedy"]


def test_clocks_that_disagree(emulator, providers, raif_store, airflow_is_well, findings, monkeypatch):
    """Lost creates are found by their time."""
    providers(emulator)

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr(doctor_module, "datetime", Ahead)
    code, found = findings("--conn-id", "openai_default")
    assert code == 0
    assert found["connection openai_default"]["level"] == "warning"
    assert re.search(r"its clock is -36\d\d s off ours", found["connection openai_default"]["message"])


@pytest.mark.parametrize(("heartbeat", "seen"), [(None, "none was ever started"), (NIGHT, "2026-03-04")])
def test_no_triggerer(raif_store, airflow_is_well, findings, heartbeat, seen):
    """Deferred tasks would wait for ever."""
    airflow_is_well["heartbeat"] = (heartbeat, False)
    code, found = findings()
    assert code == 1
    assert seen in found["triggerer"]["message"]
    assert "start `airflow triggerer`" in found["triggerer"]["remedy"]


def test_airflows_database_is_away(raif_store, airflow_is_well, findings, monkeypatch):
    """A check that fails is a finding, and the others are made."""

    def refuse():
        raise ConnectionError("refused")

    monkeypatch.setattr("airflow_raif.hooks.airflow_compat.triggerer_heartbeat", refuse)
    code, found = findings()
    assert code == 1
    assert found["triggerer"]["message"] == "ConnectionError: refused"
    assert found["store"]["level"] == "ok"


def test_a_store_that_is_not_ready(raif_home, airflow_is_well, findings, monkeypatch):
    """What to run."""
    monkeypatch.setenv("AIRFLOW__RAIF__SQL_ALCHEMY_CONN", f"sqlite:///{raif_home}/new.db")
    code, found = findings()
    assert code == 1
    assert "from [raif] sql_alchemy_conn, is without tables" in found["store"]["message"]
    assert found["store"]["remedy"] == "run `airflow raif db migrate`"


@pytest.mark.postgres
def test_a_store_that_cannot_be_written(postgres, raif_home, airflow_is_well, findings, monkeypatch):
    """Said before a task finds it out; and nothing is left of the try where it can."""
    address = postgres.create_database()
    migrate.upgrade(address)
    monkeypatch.setenv("AIRFLOW__RAIF__SQL_ALCHEMY_CONN", address)
    assert findings()[1]["store"]["level"] == "ok"
    store = _STORES.pop(address)
    with store._engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM raif_queue").scalar_one() == 0
        name = store._engine.url.database
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    store.close()
    code, found = findings()
    _STORES.pop(address).close()
    assert code == 1
    assert "read-only" in found["store"]["message"]


def test_a_store_that_needs_several_hosts(raif_home, airflow_is_well, findings, monkeypatch):
    """A file that workers elsewhere do not see is none; a local spool may be a shared disk."""
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    code, found = findings()
    assert code == 1
    assert "CeleryExecutor cannot share between hosts; set [raif]" in found["store"]["message"]
    assert found["spool"]["level"] == "warning"
    assert "to object storage" in found["spool"]["remedy"]


def test_a_spool_that_cannot_be_written(raif_store, raif_home, airflow_is_well, findings, monkeypatch):
    """With the option to set."""
    (raif_home / "file").write_text("")
    nowhere, file = "nowhere://bucket", f"file://{raif_home}/file/folder"
    for spool, results in ((nowhere, file), (file, nowhere)):
        monkeypatch.setenv("AIRFLOW__RAIF__SPOOL_PATH", spool)
        monkeypatch.setenv("AIRFLOW__RAIF__RESULT_PATH", results)
        code, found = findings()
        assert code == 1
        for check, option, address in (("spool", "spool_path", spool), ("results", "result_path", results)):
            assert found[check]["level"] == "problem"
            assert address in found[check]["message"]
            assert f"set [raif] {option}" in found[check]["remedy"]


def test_a_price_table_that_is_none(raif_store, airflow_is_well, findings, monkeypatch):
    """As a task would find out only when it reads its results."""
    monkeypatch.setenv("AIRFLOW__RAIF__PRICE_TABLE", "{not JSON")
    code, found = findings()
    assert (code, found["prices"]["level"]) == (1, "problem")
    assert "price_table cannot be read" in found["prices"]["message"]
