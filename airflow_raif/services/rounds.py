"""Rounds: the entries that failed in a way worth repeating go out again, and only those."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing

import msgspec

from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.request import EntryRequest
from airflow_raif.domain.rounds import Selection
from airflow_raif.domain.status import BatchStatus, FailureReason
from airflow_raif.services.part_files import Drafts, PartFiles
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.share import Share
from airflow_raif.spool.files import OpenFiles, requests_file
from airflow_raif.store import NewPart, PartRows, Repeat

log = logging.getLogger(__name__)

#: Parts whose requests are open at one time; those that are repeated come in the order of the input.
MAX_OPEN_PARTS = 4


def has_round_left(runtime: Runtime, batch: Batch, share: Share | None = None) -> bool:
    """Whether a fetched batch, or a share of it, has entries that its policy still sends again."""
    stragglers, is_over = _what_is_left(batch, share)
    if is_over and not stragglers:
        return False
    rows = share.rows if share else None
    return next(runtime.store.iter_repeatable(batch, batch.round_policy.wanted(), rows, size=1), None) is not None


def may_have_round_left(runtime: Runtime, batch: Batch) -> bool:
    """Whether some share of a fetched batch may have entries that its policy still sends again."""
    stragglers, max_rounds = batch.round_policy.synchronous_stragglers, batch.round_policy.max_rounds
    numbers = [
        each.number for each in batch.parts if not each.is_synchronous and (stragglers or each.round < max_rounds)
    ]
    if not (batch.failed_count and numbers):
        return False
    rows = PartRows(0, batch.request_count, part_numbers=tuple(numbers))
    return next(runtime.store.iter_repeatable(batch, batch.round_policy.wanted(), rows, size=1), None) is not None


def open_round(runtime: Runtime, batch: Batch, share: Share | None = None) -> bool:
    """Make new parts of a fetched batch's entries that are worth repeating, if its policy and rounds allow it.

    So few as the policy says go through the synchronous API, as the last round.

    :param share: only of its entries.
    :return: whether a round is open now; False also if another process opened it first, or added other parts.
    """
    stragglers, is_over = _what_is_left(batch, share)
    if is_over and not stragglers:
        return False

    def arrange(new: list[NewPart]) -> list[NewPart]:
        if sum(part.request_count for part in new) <= stragglers:
            return [msgspec.structs.replace(part, is_synchronous=True) for part in new]
        return [] if is_over else new

    return repeat_entries(runtime, batch, batch.round_policy.wanted(), share, arrange=arrange) > 0


def repeat_entries(
    runtime: Runtime,
    batch: Batch,
    wanted: Selection,
    share: Share | None = None,
    *,
    arrange: Callable[[list[NewPart]], list[NewPart]] = lambda new: new,
) -> int:
    """Make new parts of failed entries of a fetched batch, which runs again with that; return how many entries.

    The requests go out again as the bytes that were sent; only one that was cut off gets a higher limit. Nothing is
    sent here: the parts are pending.

    :param share: only of its entries.
    :param arrange: decides what becomes of the new parts; it returns none to leave the batch as it is.
    :return: 0 also if another process opened a round first, or added other parts.
    """
    round_number = _rounds(share.parts if share else batch.parts) + 1
    written: list[NewPart] = []
    folder = runtime.folder(batch.batch_id)
    with Drafts(folder) as drafts:
        files = PartFiles(
            folder,
            runtime.adapter.limits,
            written.append,
            next_number=len(batch.parts),
            round=round_number,
            suffix=drafts.suffix,
        )
        with files:
            _write(runtime, batch, wanted, share.rows if share else None, files, drafts)
        new = arrange(written) if written else []
        part = share.part if share else None
        if not new or not runtime.store.open_round(batch, new, drafts.publish(new), part):
            drafts.remove(written)
            return 0
    count = sum(part.request_count for part in new)
    how = "one by one, at the price of the synchronous API" if new[0].is_synchronous else "again"
    log.info("Round %s of batch %s: %s entries go out %s", round_number, batch.batch_id, count, how)
    return count


def _what_is_left(batch: Batch, share: Share | None) -> tuple[int, bool]:
    """Return how many entries may go through the synchronous API, and whether all rounds of batch jobs are used."""
    parts = share.parts if share else batch.parts
    is_last = any(part.is_synchronous for part in parts) or any(p.status is BatchStatus.CANCELED for p in batch.parts)
    if is_last or batch.is_cut_short or batch.spool_deleted_at is not None:
        return 0, True
    return batch.round_policy.synchronous_stragglers, _rounds(parts) >= batch.round_policy.max_rounds


def _rounds(parts: Sequence[Part]) -> int:
    return max((part.round for part in parts), default=0)


def _write(
    runtime: Runtime, batch: Batch, wanted: Selection, rows: PartRows | None, files: PartFiles, drafts: Drafts
) -> None:
    folder, adapter = runtime.folder(batch.batch_id), runtime.adapter
    models = {part.number: part.model for part in batch.parts}
    with closing(OpenFiles(MAX_OPEN_PARTS, lambda file: file)) as sources:
        for entry in runtime.store.iter_repeatable(batch, wanted, rows):
            source = sources.get(folder, requests_file(entry.part_number))
            source.seek(entry.offset)
            line: bytes | None = source.read(entry.length)
            if (limit := _higher_limit(wanted, entry)) is not None:
                line = adapter.with_max_tokens(line or b"", batch.endpoint, limit)
            if line is not None:
                place = files.add(models[entry.part_number], line, _embedding_inputs(runtime, line))
                drafts.add(entry.index, *place, len(line))
            runtime.on_rows(1)


def _higher_limit(wanted: Selection, entry: Repeat) -> int | None:
    return wanted.truncated_max_tokens if entry.reason == FailureReason.TRUNCATED else None


def _embedding_inputs(runtime: Runtime, line: bytes) -> int:
    if runtime.adapter.limits.max_embedding_inputs is None:
        return 1
    body = msgspec.json.decode(line).get("body")
    return runtime.adapter.count_embedding_inputs(EntryRequest(body=body))
