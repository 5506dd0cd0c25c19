"""``airflow raif``: commands for the store."""

from __future__ import annotations

from typing import Any


def get_commands() -> list[Any]:
    """Return the command group."""
    from airflow.cli.cli_config import ActionCommand, GroupCommand, lazy_load_command

    return [
        GroupCommand(
            name="raif",
            help="LLM batches",
            subcommands=[
                GroupCommand(
                    name="db",
                    help="Manage the metadata tables of LLM batches",
                    subcommands=[
                        ActionCommand(
                            name="migrate",
                            help="Create or upgrade the tables",
                            func=lazy_load_command("airflow_raif.cli.db.migrate"),
                            args=(),
                        ),
                        ActionCommand(
                            name="check",
                            help="Say where the tables are and whether they are of the right revision",
                            func=lazy_load_command("airflow_raif.cli.db.check"),
                            args=(),
                        ),
                    ],
                )
            ],
        )
    ]
