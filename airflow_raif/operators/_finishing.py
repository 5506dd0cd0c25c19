"""What operators do with a batch that has ended: fetch, apply, deliver, judge."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_raif.operators._assets import tell_assets

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_raif.destinations.handler import BatchHandler
    from airflow_raif.domain.batch import Batch
    from airflow_raif.operators.batch import ApplyBatchResultsOperator, BatchInferenceOperator
    from airflow_raif.services.results import Results
    from airflow_raif.services.runtime import Runtime
    from airflow_raif.services.share import Share

    ResultsOperator: TypeAlias = ApplyBatchResultsOperator | BatchInferenceOperator

log = logging.getLogger(__name__)


def fraction_of(value: float) -> float:
    """Return which part of a batch's rows may fail.

    :raises ValueError: it is no fraction; of 5 for five percent nothing would ever be too much.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"max_failed_fraction is {value!r}; give a fraction from 0 to 1, such as 0.05")
    return value


def finish(runtime: Runtime, batch: Batch, context: Context, operator: ResultsOperator) -> dict[str, Any]:
    """Fetch, apply and judge; the manifest goes to XCom even when the outcome fails the task."""
    from airflow_raif.hooks.spool import result_folder
    from airflow_raif.services.apply import apply_results
    from airflow_raif.services.fetch import fetch_batch_results
    from airflow_raif.services.manifest import manifest_of
    from airflow_raif.services.outcome import check_outcome

    delivery = _Delivery(runtime, operator)
    fetch_batch_results(runtime, batch.batch_id)
    folder = result_folder(operator.output_path, batch.batch_id)
    batch = apply_results(runtime, batch.batch_id, folder, deliver=delivery.of_batch if delivery.is_wanted else None)
    manifest = manifest_of(runtime, batch) | delivery.shown
    _tell(context, operator, manifest)
    check_outcome(runtime, batch, max_failed_fraction=operator.max_failed_fraction)
    return manifest


def finish_part(
    runtime: Runtime, share: Share, context: Context, operator: ApplyBatchResultsOperator
) -> dict[str, Any]:
    """Do as :func:`finish` for the rows of one part, which are fetched."""
    from airflow_raif.hooks.spool import result_folder
    from airflow_raif.services.apply import apply_part
    from airflow_raif.services.manifest import part_manifest_of
    from airflow_raif.services.outcome import check_outcome

    delivery = _Delivery(runtime, operator, share)
    batch_id = share.batch.batch_id
    share = apply_part(
        runtime,
        batch_id,
        share.part.number,
        result_folder(operator.output_path, batch_id),
        delivery.of_part if delivery.is_wanted else None,
        delivery.end if delivery.handler is not None else None,
    )
    manifest = part_manifest_of(runtime, share) | delivery.shown
    _tell(context, operator, manifest)
    check_outcome(runtime, share.batch, max_failed_fraction=operator.max_failed_fraction, share=share)
    return manifest


def _tell(context: Context, operator: ResultsOperator, manifest: dict[str, Any]) -> None:
    operator._show_manifest(context["ti"], manifest)
    tell_assets(operator, context, manifest)
    _log(manifest)


def _log(manifest: dict[str, Any]) -> None:
    """Say in the task's log what became of the rows."""
    from airflow_raif.services.manifest import in_words

    what = f"part {manifest['part']} of batch" if "part" in manifest else "batch"
    known = {"answered by earlier batches": manifest.get("reused"), "the same as others": manifest.get("duplicates")}
    spared = "".join(f"; {count:,} rows were {how}" for how, count in known.items() if count)
    log.info(
        "Results of %s %s (%s): %s%s. They are at %s",
        what, manifest["batch_id"], manifest["status"], in_words(manifest), spared, manifest["result_uri"],
    )  # fmt: skip


@dataclass
class _Delivery:
    """Takes results to an operator's destination and handler."""

    runtime: Runtime
    operator: ResultsOperator
    #: Set where the rows of one part alone are taken.
    share: Share | None = None
    #: What the manifest says of it.
    shown: dict[str, Any] = field(default_factory=dict)
    handler: BatchHandler | None = None

    def __post_init__(self) -> None:
        if self.operator.handler is not None:
            from airflow_raif.destinations.handler import load_handler

            self.handler = load_handler(self.operator.handler)

    @property
    def is_wanted(self) -> bool:
        """Whether there is somebody to take them to."""
        return self.operator.destination is not None or self.handler is not None

    def of_batch(self, results: Results) -> None:
        """Take all results, and with them the batch to its end."""
        self.of_part(results)
        batch = self.runtime.store.get_batch(results.batch.batch_id)
        if self.handler is not None and batch.applied_at is None:
            self.end(batch)

    def of_part(self, results: Results) -> None:
        """Take results; a handler that was through with them before is not brought them again."""
        from airflow_raif.destinations.handler import handle_results

        if self.operator.destination is not None:
            address = self.operator.destination.write(results)
            if isinstance(address, str):
                self.shown["destination_uri"] = address
        batch, share = results.batch, self.share
        if self.handler is None or self._is_through(batch):
            return

        def ids_from(first_part: int) -> Iterator[str]:
            return self.runtime.store.iter_ids_since(batch, first_part, share.rows if share else None)

        count = share.part.request_count if share else batch.request_count
        number = share.part.number if share else None
        handle_results(self.handler, results, count, self.runtime.folder(batch.batch_id), ids_from, number)

    def end(self, batch: Batch) -> None:
        """Tell the handler of a batch whose results are all through."""
        from airflow_raif.destinations.handler import end_batch
        from airflow_raif.domain.errors import BatchOutcomeError
        from airflow_raif.services.manifest import manifest_of
        from airflow_raif.services.outcome import check_outcome

        if self.handler is None:
            return
        is_success = True
        try:
            check_outcome(self.runtime, batch, max_failed_fraction=self.operator.max_failed_fraction)
        except BatchOutcomeError:
            is_success = False
        end_batch(self.handler, manifest_of(self.runtime, batch), is_success=is_success)

    def _is_through(self, batch: Batch) -> bool:
        number = self.share.part.number if self.share else None
        part = next((part for part in batch.parts if part.number == number), None)
        return batch.applied_at is not None or (part is not None and part.applied_at is not None)
