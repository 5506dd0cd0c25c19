"""Where the metadata tables are found."""

from __future__ import annotations

import pytest

from airflow_raif.domain.errors import ConfigurationError, StoreError
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
