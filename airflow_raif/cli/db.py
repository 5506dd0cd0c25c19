"""``airflow raif db``: the metadata tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_raif.cli.command import acting_command, command
from airflow_raif.cli.shown import counted, fail, progress, write_json, write_line

if TYPE_CHECKING:
    from airflow_raif.services.clean import CleanReport
    from airflow_raif.store import OldCounts


@command
def migrate(_args: Any) -> None:
    """Create or upgrade the tables."""
    from airflow_raif.hooks.db_manager import migrate_store

    write_line(f"The store is at revision {migrate_store()}.")


@command
def check(args: Any) -> None:
    """Say where the tables are; exit with 1 if they are not of the right revision."""
    from airflow_raif.hooks.store import find_store_url
    from airflow_raif.store.engine import parse_url, shown
    from airflow_raif.store.migrate import current_revision, head_revision

    address, _ = find_store_url()
    where = shown(parse_url(address))
    current, head = current_revision(address), head_revision()
    if args.output == "json":
        write_json({"address": where, "revision": current, "needed_revision": head, "is_ready": current == head})
    if current != head:
        fail(f"The store at {where} is at revision {current}, not {head}; run `airflow raif db migrate`.")
    if args.output != "json":
        write_line(f"The store at {where} is at revision {head}.")


@acting_command
def clean(args: Any) -> None:
    """Delete batches that were kept long enough; without --yes only say how many."""
    from airflow_raif.hooks.spool import folder_of_results, spool_folder
    from airflow_raif.hooks.store import find_store
    from airflow_raif.services.clean import clean_batches
    from airflow_raif.store import OldBatches

    store = find_store()
    old = OldBatches(before=datetime.now(UTC) - args.older_than, unapplied=args.unapplied)
    counts, report = store.count_old(old), None
    if args.yes and counts.batch_count:
        results = folder_of_results() if args.results else None
        with progress("Deleting batches", counts.batch_count) as on_batch:
            report = clean_batches(store, old, spool_folder(), results, on_batch=lambda: on_batch(1))
    _tell_cleaned(args, counts, report)


def _tell_cleaned(args: Any, counts: OldCounts, report: CleanReport | None) -> None:
    deleted, requests = (report.batch_count, report.request_count) if report else (0, 0)
    failures = report.failures if report else []
    if args.output == "json":
        write_json(
            {
                "older_than_seconds": int(args.older_than.total_seconds()),
                "is_dry_run": not args.yes,
                "found": {"batch_count": counts.batch_count, "request_count": counts.request_count},
                "deleted": {"batch_count": deleted, "request_count": requests},
                "kept_unapplied_count": counts.kept_count,
                "failures": failures,
            }
        )
    elif args.yes:
        write_line(f"Deleted: {counted(deleted, 'batch')} of {counted(requests, 'request')}.")
    else:
        what = "their spools, result files and rows" if args.results else "their spools and rows"
        found = f"{counted(counts.batch_count, 'batch')} of {counted(counts.request_count, 'request')}"
        write_line(
            f"Would be deleted: {found}, with {what}; say --yes to do it. A task of one of them that is cleared later"
            " starts a new batch, and pays for it."
        )
    if counts.kept_count and args.output != "json":
        kept = counted(counts.kept_count, "batch")
        write_line(f"Kept: {kept} as old, of which not all results were fetched and applied.")
    if failures:
        fail(f"Could not be deleted: {counted(len(failures), 'batch')}; the first: {failures[0]}")
