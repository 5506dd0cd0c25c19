"""What operators do with a batch that has ended: fetch, apply, deliver, judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_raif.destinations.handler import Handler
    from airflow_raif.domain.batch import Batch
    from airflow_raif.operators.batch import ApplyBatchResultsOperator, BatchInferenceOperator
    from airflow_raif.services.runtime import Runtime


def finish(
    runtime: Runtime, batch: Batch, context: Context, operator: ApplyBatchResultsOperator | BatchInferenceOperator
) -> dict[str, Any]:
    """Fetch, apply and judge; the manifest goes to XCom even when the outcome fails the task."""
    from airflow_raif.hooks.spool import result_folder
    from airflow_raif.services.apply import apply_results
    from airflow_raif.services.fetch import fetch_batch_results
    from airflow_raif.services.manifest import manifest_of
    from airflow_raif.services.outcome import check_outcome

    destination, handler, max_failed_fraction = operator.destination, operator.handler, operator.max_failed_fraction

    def deliver(read: Callable[[], Iterator[dict[str, Any]]]) -> None:
        if destination is not None:
            destination.write(read())
        if handler is not None:
            _handle(runtime, batch.batch_id, handler, read(), max_failed_fraction)

    fetch_batch_results(runtime, batch.batch_id)
    folder = result_folder(operator.output_path, batch.batch_id)
    is_delivered = destination is not None or handler is not None
    batch = apply_results(runtime, batch.batch_id, folder, deliver=deliver if is_delivered else None)
    manifest = manifest_of(runtime, batch)
    operator._show_manifest(context["ti"], manifest)
    check_outcome(runtime, batch, max_failed_fraction=max_failed_fraction)
    return manifest


def _handle(
    runtime: Runtime, batch_id: str, given: Handler, rows: Iterator[dict[str, Any]], max_failed_fraction: float
) -> None:
    from airflow_raif.destinations.handler import handle_results, load_handler
    from airflow_raif.domain.errors import BatchOutcomeError
    from airflow_raif.services.manifest import manifest_of
    from airflow_raif.services.outcome import check_outcome
    from airflow_raif.store import PartRows

    batch = runtime.store.get_batch(batch_id)
    if batch.applied_at is not None:
        # Its handler was through with it.
        return
    is_success = True
    try:
        check_outcome(runtime, batch, max_failed_fraction=max_failed_fraction)
    except BatchOutcomeError:
        is_success = False
    folder = runtime.folder(batch_id)

    def indexes_from(first_part: int) -> Iterator[int]:
        numbers = tuple(part.number for part in batch.parts if part.number >= first_part)
        for page in runtime.store.iter_entries(batch, PartRows(0, batch.request_count, numbers)):
            yield from (entry.index for entry in page)

    manifest = manifest_of(runtime, batch)
    handle_results(load_handler(given), rows, manifest, folder, indexes_from, is_success=is_success)
