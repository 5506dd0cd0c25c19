"""``airflow raif``: commands for batches and what they cost, for the store, and for the set-up. Imports are light."""

from __future__ import annotations

from typing import Any

from airflow_raif.cli.arguments import age, moment, money, positive
from airflow_raif.domain.status import BatchStatus, FailureReason


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
                    subcommands=[*_looks(), *_acts(), *_settles()],
                ),
                GroupCommand(name="db", help="Manage the metadata tables of LLM batches", subcommands=_db()),
                _cost(),
                _doctor(),
                _emulator(),
            ],
        )
    ]


def _looks() -> list[Any]:
    from airflow.cli.cli_config import Arg

    filters = (
        Arg(("--status",), help="Only batches of this status", choices=tuple(each.value for each in BatchStatus)),
        Arg(("--provider",), help="Only batches of this provider"),
        Arg(("--dag-id",), help="Only batches of this Dag"),
        Arg(("--limit",), help="At most so many (default: 25)", type=positive, default=25),
    )
    return [
        _action("batches.list_batches", "list", "List batches, newest first", *filters, _output()),
        _action("batches.show", "show", "Show a batch and its parts", _batch(), _output()),
    ]


def _acts() -> list[Any]:
    from airflow.cli.cli_config import ARG_YES, Arg

    batch, output = _batch(), _output()
    retry = (
        Arg(
            ("--reason",),
            help="Only rows that failed for this; may be given several times (default: all failed rows)",
            action="append",
            choices=tuple(each.value for each in FailureReason),
        ),
        Arg(("--max-tokens",), help="The limit with which rows go out that were cut off", type=positive),
        Arg(("--max-cost",), help="What the batch may cost in all from now on, in US dollars", type=money),
        Arg(("--dry-run",), help="Only say what would go out and what it costs", action="store_true"),
    )
    return [
        _action("actions.cancel", "cancel", "Ask the provider to stop a batch", batch, ARG_YES, output),
        _action(
            "actions.fetch",
            "fetch",
            "Ask for a batch's state, and fetch its results if it has ended",
            batch, output,
        ),
        _action(
            "actions.retry",
            "retry",
            "Have failed rows of a batch go out again; its task, which is cleared, sends them",
            batch, *retry, ARG_YES, output,
        ),
        _action(
            "actions.resume",
            "resume",
            "Do what a batch that got stuck needs; its task is cleared for the rest, if it is over",
            batch, output,
        ),
        _action(
            "actions.expire",
            "expire",
            "Give a batch up: what runs is canceled, what it finished is fetched",
            batch, ARG_YES, output,
        ),
    ]  # fmt: skip


def _settles() -> list[Any]:
    from airflow.cli.cli_config import ARG_YES, Arg

    batch, output = _batch(), _output()
    part = Arg(("part",), help="The part's number, as 'show' shows it", type=int)
    provider_batch_id = Arg(("provider_batch_id",), help="The id at the provider")
    return [
        _action(
            "actions.adopt",
            "adopt",
            "Take a batch of the provider as a part whose create lost its reply",
            batch, part, provider_batch_id, output,
        ),
        _action(
            "actions.resend",
            "resend",
            "Have a part sent again whose create lost its reply; paid twice if the provider has it",
            batch, part, ARG_YES, output,
        ),
    ]  # fmt: skip


def _db() -> list[Any]:
    from airflow.cli.cli_config import Arg

    clean = (
        Arg(("--older-than",), help="Since they were applied, such as 90d, 12h or 2w", type=age, required=True),
        Arg(("--unapplied",), help="Also batches whose fetched results were never applied", action="store_true"),
        Arg(("--results",), help="Also the result files in [raif] result_path", action="store_true"),
        Arg(("-y", "--yes"), help="Delete them; otherwise only say how many", action="store_true"),
    )
    return [
        _action("db.migrate", "migrate", "Create or upgrade the tables"),
        _action("db.check", "check", "Say where the tables are and whether they are of the right revision", _output()),
        _action("db.clean", "clean", "Delete old batches with their spools", *clean, _output()),
    ]


def _cost() -> Any:
    from airflow.cli.cli_config import Arg

    return _action(
        "cost.cost",
        "cost",
        "Add up what batches cost, and what they would have cost at list price",
        Arg(
            ("--by",),
            help="day (the default), dag, model, provider or connection; may be given several times",
            action="append",
            choices=("day", "dag", "model", "provider", "connection"),
        ),
        Arg(("--since",), help="Batches created from here on: 2026-11-30, or 7d (default: 30d)", type=moment),
        Arg(("--until",), help="Batches created before this", type=moment),
        Arg(("--dag-id",), help="Only batches of this Dag"),
        Arg(("--provider",), help="Only batches of this provider"),
        Arg(("--model",), help="Only requests of this model"),
        _output(),
    )


def _doctor() -> Any:
    from airflow.cli.cli_config import Arg

    return _action(
        "doctor.doctor",
        "doctor",
        "Check versions, store, spool, connections and triggerer, and say what to do",
        Arg(("--conn-id",), help="Check this connection alone; may be given several times", action="append"),
        _output(),
    )


def _emulator() -> Any:
    from airflow.cli.cli_config import Arg

    from airflow_raif.emulator.options import OPTIONS

    return _action(
        "emulator.emulator",
        "emulator",
        "Serve the providers' Batch APIs on loopback, for tests",
        *(Arg((name,), **values) for name, values in OPTIONS.items()),
    )


def _batch() -> Any:
    from airflow.cli.cli_config import Arg

    return Arg(("batch",), help="The batch's id, as 'list' shows it")


def _output() -> Any:
    from airflow.cli.cli_config import Arg

    return Arg(("-o", "--output"), help="table (the default) or json", choices=("table", "json"), default="table")


def _action(path: str, name: str, purpose: str, *args: Any) -> Any:
    from airflow.cli.cli_config import ActionCommand, lazy_load_command

    return ActionCommand(name=name, help=purpose, func=lazy_load_command(f"airflow_raif.cli.{path}"), args=args)
