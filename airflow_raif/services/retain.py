"""Retain: how long things are kept, at the provider and by us, and deleting what was kept long enough."""

from __future__ import annotations

import logging
from datetime import datetime

from airflow_raif.adapters.base import Adapter
from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.errors import (
    AuthenticationError,
    BatchNotFoundError,
    InvalidBatchError,
    ProviderError,
    RejectedError,
)
from airflow_raif.services.runtime import Runtime
from airflow_raif.spool.files import Folder
from airflow_raif.store import Store, WaitingPart

log = logging.getLogger(__name__)

#: How providers speak of what they do not have any more; Gemini forbids files that are not there.
_GONE_STATUSES = frozenset((403, 404, 410))


def results_vanish_at(adapter: Adapter | type[Adapter], part: Part | WaitingPart) -> datetime | None:
    """Return when the provider may delete a part's results; ``None``: nothing was sent, or no such end is known."""
    sent_at = part.intent_at or part.submitted_at
    if sent_at is None or adapter.results_kept is None:
        return None
    return sent_at + adapter.results_kept


def may_be_gone(runtime: Runtime, part: Part | WaitingPart) -> bool:
    """Whether a part is so old that the provider need not keep its results any more."""
    vanish_at = results_vanish_at(runtime.adapter, part)
    return vanish_at is not None and runtime.clock() > vanish_at


def is_gone(runtime: Runtime, part: Part | WaitingPart, error: ProviderError) -> bool:
    """Whether an error means that the provider does not keep a part any more.

    Before its time is up that is never so: a connection to another account knows none of our batches either.
    """
    return error.status in _GONE_STATUSES and may_be_gone(runtime, part)


def delete_provider_files(runtime: Runtime, batch_id: str) -> int:
    """Delete what was uploaded for a batch and what the provider wrote; return how many files that were.

    What is gone already is as good as deleted, and what the provider refuses to delete is left to it, with a warning.

    :raises InvalidBatchError: its results were not fetched and applied; until then nothing of it is deleted.
    :raises ProviderError: a file could not be deleted now; a later call goes on.
    """
    batch = runtime.store.get_batch(batch_id)
    if batch.results_fetched_at is None or batch.applied_at is None:
        raise InvalidBatchError(f"the results of batch {batch_id} were not fetched and applied; its files are kept")
    deleted = sum(_delete_file(runtime, batch, ref) for ref in _file_refs(runtime, batch))
    runtime.store.mark_files_deleted(batch_id, runtime.clock())
    return deleted


def _file_refs(runtime: Runtime, batch: Batch) -> list[str]:
    adapter, now = runtime.adapter, runtime.clock()
    refs = []
    for part in batch.parts:
        uploaded_at = part.intent_at or part.submitted_at or batch.created_at
        if adapter.uploads_kept is None or now < uploaded_at + adapter.uploads_kept:
            refs.append(part.input_ref)
        refs += [part.refs.get(name) for name in adapter.file_refs]
    return list(dict.fromkeys(filter(None, refs)))


def _delete_file(runtime: Runtime, batch: Batch, ref: str) -> bool:
    request = runtime.adapter.delete_file_request(ref)
    if request is None:
        return False
    try:
        runtime.transport.send(request)
    except BatchNotFoundError:
        return False
    except (RejectedError, AuthenticationError) as error:
        if isinstance(error, AuthenticationError) and error.status != 403:
            raise
        # Gemini makes result files with names that its own delete refuses: googleapis/python-genai#1759. It forbids
        # those that are not there.
        log.warning("Batch %s: %s stays until the provider deletes it: %s", batch.batch_id, ref, error)
        return False
    return True


def delete_spool(store: Store, spool: Folder, batch: Batch, now: datetime) -> bool:
    """Delete the spool of a fetched and applied batch; return whether there was something to delete.

    Afterwards the batch can be looked at, but neither applied to another place nor repeated in rounds. That is noted
    first, so that a task that takes the batch up at the same moment is told, or keeps it.
    """
    if batch.results_fetched_at is None or batch.applied_at is None:
        raise InvalidBatchError(
            f"the results of batch {batch.batch_id} were not fetched and applied; its spool is kept"
        )
    return store.mark_spool_deleted(batch, now) and spool.child(batch.batch_id).delete()


def discard_half_created(store: Store, spool: Folder, batch: Batch) -> bool:
    """Forget a batch whose creation stopped half-way, with its spool; return whether it was still there."""
    if not store.discard_batch(batch.batch_id):
        return False
    spool.child(batch.batch_id).delete()
    return True
