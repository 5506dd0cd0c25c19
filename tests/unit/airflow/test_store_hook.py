"""Where the metadata tables are found."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError

from airflow_raif.domain.errors import ConfigurationError, ConnectionUnavailableError, StoreError
from airflow_raif.hooks.store import afind_store, find_store, find_store_url


def test_configuration_comes_first(monkeypatch, connection, raif_home):
    """[raif] sql_alchemy_conn wins over a connection."""
    monkeypatch.setenv("AIRFLOW__RAIF__SQL_ALCHEMY_CONN", "sqlite:////elsewhere.db")
    connection("raif_state", conn_type="postgres", host="db", login="u", password="p", schema="raif")
    assert find_store_url() == ("sqlite:////elsewhere.db", False)


def test_connection_comes_second(connection, raif_home):
    """The connection raif_state is used where nothing is configured."""
    connection("raif_state", conn_type="postgres", host="db", login="u", password="p", port=5433, schema="raif")
    address, embedded = find_store_url()
    assert address.startswith("postgresql://u:p@db:5433/raif")
    assert not embedded


def test_connection_of_another_name(monkeypatch, connection, raif_home):
    """[raif] state_conn_id names it."""
    monkeypatch.setenv("AIRFLOW__RAIF__STATE_CONN_ID", "ledger")
    connection("ledger", conn_type="postgres", host="db", schema="raif")
    assert find_store_url()[0].startswith("postgresql://")


def test_embedded_file_comes_last(raif_home):
    """With no set-up the store is a file in AIRFLOW_HOME."""
    assert find_store_url() == (f"sqlite:///{raif_home}/raif.db", True)
    assert find_store() is find_store()
    assert (raif_home / "raif.db").exists()


async def test_asynchronous_search(connection, raif_home, monkeypatch):
    """The triggerer finds the same store."""
    assert await afind_store() is find_store()
    monkeypatch.setenv("AIRFLOW__RAIF__SQL_ALCHEMY_CONN", f"sqlite:///{raif_home}/fresh.db")
    with pytest.raises(StoreError, match="airflow raif db migrate"):
        await afind_store()


@pytest.mark.parametrize("executor", ["CeleryExecutor", "LocalExecutor,KubernetesExecutor", "team:CeleryExecutor"])
def test_a_file_cannot_be_shared_between_hosts(monkeypatch, raif_home, executor):
    """With remote workers the file is refused, with what to set instead."""
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    with pytest.raises(ConfigurationError, match=r"set \[raif\] sql_alchemy_conn.*airflow raif db migrate"):
        find_store_url()


async def test_a_database_that_is_away_is_no_missing_connection(airflow_database, monkeypatch, raif_home):
    """While Airflow's database is away no other store is taken for the one that its connection names."""
    monkeypatch.setenv("AIRFLOW__RAIF__STORE_TIMEOUT", "0")
    airflow_database.away = 2
    with pytest.raises(ConnectionUnavailableError, match="'raif_state' cannot be looked up.*a retry goes on"):
        find_store()
    with pytest.raises(ConnectionUnavailableError, match="'raif_state' cannot be looked up"):
        await afind_store()
    assert not (raif_home / "raif.db").exists()


def test_a_database_that_comes_back_is_waited_for(airflow_database, raif_home):
    """A worker asks again until Airflow's database answers, and only then takes the embedded file."""
    airflow_database.away = 1
    assert find_store_url() == (f"sqlite:///{raif_home}/raif.db", True)
    assert airflow_database.asked > 2


def test_a_server_process_asks_the_database_itself(monkeypatch, raif_home):
    """Command lines and the API server, which have no supervisor, take no other store either."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    monkeypatch.setenv("AIRFLOW__RAIF__STORE_TIMEOUT", "0")

    def refuse(*_):
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    monkeypatch.setattr("sqlalchemy.orm.Session.execute", refuse)
    with pytest.raises(ConnectionUnavailableError, match="OperationalError"):
        find_store_url()


def test_a_named_connection_must_exist(monkeypatch, raif_home):
    """With [raif] state_conn_id set there is no other store: a secrets backend may be away, and looks like this."""
    monkeypatch.setenv("AIRFLOW__RAIF__STATE_CONN_ID", "ledger")
    with pytest.raises(ConnectionUnavailableError, match=r"state_conn_id names the connection 'ledger'"):
        find_store()
