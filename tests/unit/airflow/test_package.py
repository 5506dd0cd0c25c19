"""What Airflow discovers, what an import costs, and the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import airflow_raif
from airflow_raif.get_provider_info import get_provider_info

HEAVY = (
    "openai",
    "anthropic",
    "google.genai",
    "sqlalchemy",
    "genai_prices",
    "alembic",
    "jsonschema_rs",
    "httpx",
    "pydantic_ai",
)
IMPORT_ALL = """
import sys, airflow.sdk
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, ObjectStoragePath, conf
import airflow.triggers.base
before = set(sys.modules)
import airflow_raif.operators.batch, airflow_raif.sensors.batch, airflow_raif.hooks.batch, airflow_raif.triggers.batch
import airflow_raif.operators.maintenance
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_provider_info_follows_airflows_schema():
    """Airflow's own schema accepts the provider info."""
    import airflow
    import jsonschema

    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_everything_named_in_the_provider_info_exists():
    """Hooks, modules, commands and the database manager can be imported."""
    info = get_provider_info()
    for kind in ("operators", "sensors", "hooks", "triggers"):
        for group in info[kind]:
            for name in group["python-modules"]:
                import_module(name)
    dotted = [each["hook-class-name"] for each in info["connection-types"]] + info["cli"] + info["db-managers"]
    for name in dotted:
        module, _, attribute = name.rpartition(".")
        assert getattr(import_module(module), attribute)


def test_no_connection_type_of_another_package():
    """Types that other providers register are used, not registered again."""
    assert {each["connection-type"] for each in get_provider_info()["connection-types"]} == {
        "raif_openai",
        "raif_anthropic",
        "raif_gemini",
    }


def test_every_connection_field_is_explained():
    """Labelled forms: each field has a label and a description."""
    for kind in get_provider_info()["connection-types"]:
        for field in kind["conn-fields"].values():
            assert field["label"]
            assert field["description"].endswith(".")


def test_airflow_lists_the_provider(fresh_home):
    """``airflow providers`` finds the package, its connection types and its hooks, without a warning about it."""
    code = (
        "from airflow.providers_manager import ProvidersManager as P; p = P();"
        "print('airflow-raif' in p.providers, sorted(k for k in p.hooks if k.startswith('raif_')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "True ['raif_anthropic', 'raif_gemini', 'raif_openai']" in done.stdout
    assert "raif" not in done.stderr.lower()


@pytest.fixture
def fresh_home(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))


def test_entry_points():
    """Both groups that Airflow reads are there."""
    assert any(point.value.startswith("airflow_raif.") for point in entry_points(group="apache_airflow_provider"))
    (plugin,) = [point for point in entry_points(group="airflow.plugins") if point.name == "raif"]
    assert plugin.load().name == "raif"


def test_importing_the_operators_loads_no_sdk_and_no_database():
    """Parsing a DAG file stays cheap: nothing heavy beyond what Airflow itself has loaded."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "airflow_raif.operators.batch" in loaded
    assert [name for name in loaded if name.startswith(HEAVY)] == []


def test_version_is_the_distributions():
    """One version, in one place."""
    from importlib.metadata import version

    assert airflow_raif.__version__ == version("airflow-raif")


def test_commands_migrate_and_check(tmp_path):
    """``airflow raif db`` brings up the tables and says where they are, without the password."""
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}

    def run(*command):
        return subprocess.run(
            [sys.executable, "-m", "airflow", "raif", "db", *command],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip

    checked = run("check")
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert "airflow raif db migrate" in checked.stderr
    migrated = run("migrate")
    assert migrated.returncode == 0, migrated.stdout + migrated.stderr
    assert (tmp_path / "raif.db").exists()
    assert run("check").returncode == 0


def test_database_manager_targets_the_store(raif_home):
    """``airflow db migrate`` brings up the store's own database, and ``airflow db reset`` drops it."""
    from airflow_raif.hooks.db_manager import RaifDBManager

    manager = RaifDBManager(session=None)
    assert not manager.check_migration()
    manager.initdb()
    manager.upgradedb()
    manager.create_db_from_orm()
    assert manager.check_migration()
    assert manager.get_alembic_config().get_main_option("script_location")
    manager.drop_tables(None)
    assert manager.get_current_revision() is None


def test_database_manager_does_not_stop_an_airflow_of_several_hosts(monkeypatch, raif_home, caplog):
    """Where no store is set up yet, Airflow's own migration ends well and its components start; what to set is said."""
    from airflow_raif.hooks.db_manager import RaifDBManager

    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    manager = RaifDBManager(session=None)
    manager.initdb()
    assert "not migrated: raif keeps its tables in a file by default, which CeleryExecutor cannot share" in caplog.text
    assert manager.check_migration()
    assert not (raif_home / "raif.db").exists()


def test_database_manager_does_not_stop_a_fresh_airflow(monkeypatch, raif_home, caplog):
    """In a fresh Airflow the connection that [raif] state_conn_id names cannot exist yet; that is said, not raised."""
    from airflow_raif.hooks.db_manager import RaifDBManager

    monkeypatch.setenv("AIRFLOW__RAIF__STATE_CONN_ID", "ledger")
    manager = RaifDBManager(session=None)
    manager.initdb()
    assert "run `airflow raif db migrate`" in caplog.text
    assert not manager.check_migration()
    assert not (raif_home / "raif.db").exists()
