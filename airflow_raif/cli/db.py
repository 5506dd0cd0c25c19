"""``airflow raif db``."""

from __future__ import annotations

import os
from typing import Any

from rich import print as rich_print
from rich.markup import escape


def migrate(_args: Any) -> None:
    """Create or upgrade the tables."""
    from airflow_raif.hooks.db_manager import migrate_store

    rich_print(f"The store is at revision {migrate_store()}.")


def check(_args: Any) -> None:
    """Say where the tables are; exit with 1 if they are not of the right revision."""
    from airflow_raif.hooks.store import find_store_url
    from airflow_raif.store.engine import parse_url, shown
    from airflow_raif.store.migrate import current_revision, head_revision

    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    address, _ = find_store_url()
    where = escape(shown(parse_url(address)))
    current, head = current_revision(address), head_revision()
    if current == head:
        rich_print(f"The store at {where} is at revision {head}.")
        return
    rich_print(f"The store at {where} is at revision {current}, not {head}; run `airflow raif db migrate`.")
    raise SystemExit(1)
