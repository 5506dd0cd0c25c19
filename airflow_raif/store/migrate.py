"""Creating and upgrading the tables with Alembic, safe when several processes start at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, column, inspect, select, table, text

from airflow_raif.domain.errors import StoreNotReadyError
from airflow_raif.store.engine import make_engine, parse_url, shown, store_errors
from airflow_raif.store.tables import VERSION_TABLE, metadata

#: Key of the advisory lock that serialises upgrades on PostgreSQL; any number will do.
_LOCK = 7_230_114


def alembic_config() -> Config:
    """Return Alembic's configuration; the scripts lie in the package."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def head_revision() -> str:
    """Return the revision this version of the package needs."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if head is None:
        raise StoreNotReadyError("the package holds no migration; install it anew")
    return head


def current_revision(address: str) -> str | None:
    """Return the revision of a database; ``None``: it has no tables of ours."""
    with _opened(address) as engine, engine.connect() as connection:
        return _revision(connection)


def upgrade(address: str) -> None:
    """Bring a database to the newest revision; a second process waits for the first."""
    with _opened(address) as engine:
        upgrade_engine(engine)


def drop(address: str) -> None:
    """Delete the tables with everything in them."""
    with _opened(address) as engine, engine.begin() as connection:
        metadata.drop_all(connection)
        connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))


def upgrade_engine(engine: Engine) -> None:
    """Upgrade inside one transaction that holds a lock; where nothing is to be done, without a word.

    :raises StoreNotReadyError: a newer version of the package was here.
    """
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        current = _revision(connection)
        if current == head_revision():
            return
        known = {each.revision for each in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
        if current is not None and current not in known:
            raise StoreNotReadyError(
                f"the store at {shown(engine.url)} is at revision {current}, which this version of airflow_raif does"
                " not know; install here the version that made it, or a newer one"
            )
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def check_revision(engine: Engine) -> None:
    """See that the tables are of the revision this package needs.

    :raises StoreNotReadyError: they are missing or of another revision; says what to run.
    """
    with engine.connect() as connection:
        current = _revision(connection)
    if current != head_revision():
        address = shown(engine.url)
        state = "has no tables of raif yet" if current is None else f"is at revision {current}, not {head_revision()}"
        raise StoreNotReadyError(
            f"the store at {address} {state}; run `airflow db migrate` or `airflow raif db migrate`"
        )


def _revision(connection: Connection) -> str | None:
    # Alembic's own way writes into the log of every task what kind of database it found.
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    return found


@contextmanager
def _opened(address: str) -> Iterator[Engine]:
    url = parse_url(address)
    engine = make_engine(url)
    try:
        with store_errors(url):
            yield engine
    finally:
        engine.dispose()
