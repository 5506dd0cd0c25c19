"""What every command does around its work: it sees Airflow's connections, and ends with a code and a sentence."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from airflow_raif.cli.shown import fail
from airflow_raif.domain.errors import RaifError

Command = Callable[[Any], None]


def command(run: Command) -> Command:
    """Let a command see the connections of Airflow's database, and end with 1 and a sentence at our own errors."""

    @wraps(run)
    def with_errors(args: Any) -> None:
        # It tells of its plugins as it is imported, and Airflow before 3.3 writes that where the answer goes.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
        try:
            run(args)
        except RaifError as error:
            fail(str(error))

    return with_errors


def acting_command(run: Command) -> Command:
    """As :func:`command`, and Airflow's audit log tells of it, as of Airflow's own commands."""
    inner = command(run)

    @wraps(run)
    def audited(args: Any) -> None:
        from airflow.utils.cli import action_cli

        inner.__name__ = f"raif_{run.__name__}"
        action_cli(inner, check_db=False)(args)

    return audited
