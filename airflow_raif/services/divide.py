"""Divide: smaller parts take the place of one that is larger than the provider's queue takes."""

from __future__ import annotations

import logging
from dataclasses import replace

from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.domain.batch import Batch, Part
from airflow_raif.services.part_files import Drafts, PartFiles, row_of
from airflow_raif.services.runtime import Runtime
from airflow_raif.spool.files import requests_file
from airflow_raif.store import NewPart

log = logging.getLogger(__name__)


def divide_parts(runtime: Runtime, batch: Batch) -> Batch:
    """Divide every part of a whole batch that its provider will not queue as it is; return the batch."""
    while True:
        part = next(filter(is_to_be_divided, batch.parts), None)
        if part is None:
            return batch
        _divide(runtime, batch, part)
        batch = runtime.store.get_batch(batch.batch_id)


def is_to_be_divided(part: Part) -> bool:
    """Whether a part cannot be sent as it is."""
    return part.is_unsent and part.piece_bytes is not None


def _divide(runtime: Runtime, batch: Batch, part: Part) -> None:
    """Write the requests, as the bytes they are, into parts of the same round, and put the entries there."""
    assert part.piece_bytes is not None  # noqa: S101 - the caller looked
    folder, new = runtime.folder(batch.batch_id), list[NewPart]()
    limits = replace(runtime.adapter.limits, max_requests=-(-part.request_count // 2), max_bytes=part.piece_bytes)
    with Drafts(folder) as drafts:
        files = PartFiles(
            folder, limits, new.append, next_number=len(batch.parts), round=part.round, suffix=drafts.suffix
        )
        with files:
            for _, line in split_lines(folder.blocks(requests_file(part.number))()):
                place = files.add(part.model, line)
                if (index := row_of(line)) is not None:
                    drafts.add(index, *place, len(line))
        if not runtime.store.divide_part(batch, part, new, drafts.publish(new), runtime.clock()):
            drafts.remove(new)
            return
    log.info(
        "Part %s of batch %s is larger than %s queues: its %s requests go out in %s parts",
        part.number, batch.batch_id, batch.provider, part.request_count, len(new),
    )  # fmt: skip
