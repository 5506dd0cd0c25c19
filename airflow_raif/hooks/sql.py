"""Databases of the user's own, through Airflow Connections of any type that SQLAlchemy has a dialect for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

from airflow_raif.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Engine


@contextmanager
def sql_engine(conn_id: str) -> Iterator[Engine]:
    """Open an engine on a connection's database, and close its connections in the end.

    :raises ConfigurationError: the connection's type is no database, or none that SQLAlchemy knows.
    """
    hook = BaseHook.get_hook(conn_id)
    make_engine = getattr(hook, "get_sqlalchemy_engine", None)
    if make_engine is None:
        raise ConfigurationError(f"connection {conn_id!r} is no SQL database: its hook is {type(hook).__name__}")
    try:
        # Rows stay out of errors and logs.
        engine = make_engine({"hide_parameters": True})
    except (NotImplementedError, ImportError) as error:
        raise ConfigurationError(f"connection {conn_id!r} cannot be opened with SQLAlchemy: {error}") from error
    try:
        yield engine
    finally:
        engine.dispose()
