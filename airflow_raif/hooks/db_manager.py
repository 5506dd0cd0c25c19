"""Lets ``airflow db migrate`` bring up the store's tables too."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from airflow.utils.db_manager import BaseDBManager

from airflow_raif.domain.errors import ConfigurationError, ConnectionUnavailableError
from airflow_raif.store import migrate
from airflow_raif.store.tables import VERSION_TABLE, metadata

log = logging.getLogger(__name__)


def migrate_store() -> str:
    """Bring the store, wherever it is, to the newest revision; return it."""
    from airflow_raif.hooks.store import find_store_url

    # Otherwise a command line sees no connection of Airflow's own database, and would take the embedded file.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    address, _ = find_store_url()
    migrate.upgrade(address)
    return migrate.head_revision()


def _migrate_with_airflow() -> None:
    """As :func:`migrate_store`; a connection that cannot exist yet in a fresh Airflow stops no migration of that."""
    try:
        migrate_store()
    except ConnectionUnavailableError as error:
        log.warning("raif's tables were not migrated: %s. Then run `airflow raif db migrate`.", error)
    except ConfigurationError as error:
        log.warning("raif's tables were not migrated: %s", error)


class RaifDBManager(BaseDBManager):
    """Targets the store's own database, not Airflow's, which tasks cannot reach."""

    metadata = metadata
    version_table_name = VERSION_TABLE
    migration_dir = str(Path(migrate.__file__).parent / "migrations")
    alembic_file = ""
    supports_table_dropping = True

    def get_alembic_config(self) -> Any:
        """Return the store's own configuration."""
        return migrate.alembic_config()

    def get_current_revision(self) -> str | None:
        """Return the store's revision."""
        from airflow_raif.hooks.store import find_store_url

        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
        try:
            return migrate.current_revision(find_store_url()[0])
        except ConnectionUnavailableError as error:
            log.warning("The revision of raif's tables is not known: %s", error)
            return None

    def check_migration(self) -> bool:
        """Whether the store is at the newest revision; where none is set up, there is nothing to wait for."""
        try:
            return self.get_current_revision() == migrate.head_revision()
        except ConfigurationError as error:
            log.warning("raif has no tables: %s", error)
            return True

    def create_db_from_orm(self) -> None:
        """Create the tables, by migration as always."""
        _migrate_with_airflow()

    def initdb(self, use_migration_files: bool = False) -> None:
        """Create or upgrade the tables."""
        _migrate_with_airflow()

    def upgradedb(self, to_revision: str | None = None, from_revision: str | None = None, *_: Any, **__: Any) -> None:
        """Upgrade the tables to the newest revision."""
        _migrate_with_airflow()

    def drop_tables(self, connection: Any) -> None:
        """Delete the store's tables; Airflow's own connection is left alone."""
        from airflow_raif.hooks.store import find_store_url

        migrate.drop(find_store_url()[0])
