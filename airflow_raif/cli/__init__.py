"""``airflow raif``: commands for batches and for the store."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import Any

from airflow_raif.domain.status import BatchStatus


def get_commands() -> list[Any]:
    """Return the command group."""
    from airflow.cli.cli_config import GroupCommand

    return [
        GroupCommand(
            name="raif",
            help="LLM batches",
            subcommands=[
                GroupCommand(
                    name="batches",
                    help="Look at batches, and decide about them by hand",
                    subcommands=_batches(),
                ),
                GroupCommand(
                    name="db",
                    help="Manage the metadata tables of LLM batches",
                    subcommands=[
                        _action("db.migrate", "migrate", "Create or upgrade the tables"),
                        _action(
                            "db.check", "check", "Say where the tables are and whether they are of the right revision"
                        ),
                    ],
                ),
            ],
        )
    ]


def _batches() -> list[Any]:
    from airflow.cli.cli_config import ARG_YES, Arg

    output = Arg(("-o", "--output"), help="table (the default) or json", choices=("table", "json"), default="table")
    batch = Arg(("batch",), help="The batch's id, as 'list' shows it")
    part = Arg(("part",), help="The part's number, as 'show' shows it", type=int)
    provider_batch_id = Arg(("provider_batch_id",), help="The id at the provider")
    filters = (
        Arg(("--status",), help="Only batches of this status", choices=tuple(each.value for each in BatchStatus)),
        Arg(("--provider",), help="Only batches of this provider"),
        Arg(("--dag-id",), help="Only batches of this Dag"),
        Arg(("--limit",), help="At most so many (default: 25)", type=_positive, default=25),
    )
    return [
        _action("batches.list_batches", "list", "List batches, newest first", *filters, output),
        _action("batches.show", "show", "Show a batch and its parts", batch, output),
        _action(
            "batches.adopt",
            "adopt",
            "Take a batch of the provider as a part whose create lost its reply",
            batch, part, provider_batch_id, output,
        ),
        _action(
            "batches.resend",
            "resend",
            "Have a part sent again whose create lost its reply; paid twice if the provider has it",
            batch, part, ARG_YES, output,
        ),
        _action("batches.cancel", "cancel", "Ask the provider to stop a batch", batch, ARG_YES, output),
        _action(
            "batches.fetch",
            "fetch",
            "Ask for a batch's state, and fetch its results if it has ended",
            batch, output,
        ),
    ]  # fmt: skip


def _action(path: str, name: str, purpose: str, *args: Any) -> Any:
    from airflow.cli.cli_config import ActionCommand, lazy_load_command

    return ActionCommand(name=name, help=purpose, func=lazy_load_command(f"airflow_raif.cli.{path}"), args=args)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)
