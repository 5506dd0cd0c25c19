"""Create: spool the requests as the exact bytes to send, and write batch, parts and entries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import uuid4

import msgspec

from airflow_raif.domain.batch import Batch, Claim
from airflow_raif.domain.errors import InvalidBatchError, InvalidRequestError
from airflow_raif.domain.money import Budget
from airflow_raif.domain.request import RequestDefaults
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.sharing import Sharing
from airflow_raif.services.codec import save_recipe
from airflow_raif.services.fingerprint import Fingerprint, scope_of
from airflow_raif.services.output import make_parser
from airflow_raif.services.reading import Reader
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.spooler import OnPart, Spooler
from airflow_raif.store import AttemptLostError, BatchMissingError, NewBatch

log = logging.getLogger(__name__)


def create_batch(
    runtime: Runtime,
    rows: Iterable[Any],
    *,
    defaults: RequestDefaults,
    claim: Claim | None = None,
    metadata: Mapping[str, Any] | None = None,
    round_policy: RoundPolicy | None = None,
    sharing: Sharing | None = None,
    budget: Budget | None = None,
    known: Runtime | None = None,
    on_batch: Callable[[Batch], object] = lambda _: None,
    on_part: OnPart = lambda *_: None,
) -> Batch:
    """Spool every row and write the batch as ``pending``; nothing is sent.

    :param rows: prompts, mappings or :class:`EntryRequest`, read once from start to end.
    :param sharing: which rows take answers of others.
    :param budget: what it may cost.
    :param known: where answers of earlier batches are known, if not there.
    :param on_batch: told of the batch before the first row is read.
    :param on_part: told of each part once it is whole, but for the last of each model; it may submit it.
    :raises InvalidBatchError: the batch is empty, or a row cannot be sent; nothing of it is kept, unless parts of it
        were submitted: then it stays as it is, for an attempt that continues it.
    """
    adapter = runtime.adapter
    defaults = msgspec.structs.replace(defaults, endpoint=adapter.resolve_endpoint(defaults.endpoint))
    make_parser(defaults.output_schema)
    sharing = sharing or Sharing()
    if sharing.reuse_for is not None and runtime.codec is not None and runtime.codec.recipe() is not None:
        raise InvalidBatchError(
            "reuse takes answers that others checked, and an agent makes its own of each; leave reuse out"
        )
    encode = adapter.make_encoder(defaults)
    batch_id = uuid4().hex
    batch = runtime.store.create_batch(
        NewBatch(
            batch_id=batch_id,
            provider=adapter.name,
            conn_id=runtime.conn_id,
            model=defaults.model,
            endpoint=defaults.endpoint,
            claim=claim,
            spool_uri=runtime.folder(batch_id).uri,
            output_schema=defaults.output_schema,
            metadata=dict(metadata or {}),
            round_policy=round_policy or RoundPolicy(),
            budget=budget or Budget(),
            answer_scope=scope_of(adapter, defaults) if sharing.reuse_for is not None else None,
            created_at=runtime.clock(),
        )
    )
    on_batch(batch)
    reader = Reader(runtime, batch, encode, defaults.model, sharing, adapter.limits, known or runtime)
    return _spool(Spooler(reader, Fingerprint(defaults.output_schema), on_part), runtime.requests(rows, defaults))


def continue_batch(
    runtime: Runtime,
    batch: Batch,
    rows: Iterable[Any],
    *,
    defaults: RequestDefaults,
    sharing: Sharing | None = None,
    on_part: OnPart,
) -> Batch:
    """Read the input of a batch again that an earlier attempt did not read to its end, and go on after its parts.

    :param sharing: which rows after them take answers of others.
    :param on_part: also told of the parts that were there, once they are seen to be what the input still holds.
    :raises InputChangedError: the input does not begin with the requests of those parts.
    :raises AttemptLostError: another attempt goes on with it.
    """
    defaults = msgspec.structs.replace(defaults, endpoint=runtime.adapter.resolve_endpoint(defaults.endpoint))
    encode = runtime.adapter.make_encoder(defaults)
    batch = runtime.store.take_up_spooling(batch)
    log.info("Batch %s has %s parts; reading its input again to go on", batch.batch_id, len(batch.parts))
    reader = Reader(runtime, batch, encode, defaults.model, sharing or Sharing(), runtime.adapter.limits, runtime)
    return _spool(Spooler(reader, Fingerprint(defaults.output_schema), on_part), runtime.requests(rows, defaults))


def _spool(spooler: Spooler, rows: Iterable[Any]) -> Batch:
    runtime, batch = spooler.runtime, spooler.batch
    try:
        save_recipe(runtime.folder(batch.batch_id), runtime.codec)
        spooler.spool(rows)
    except AttemptLostError:
        raise
    except BaseException as error:
        _leave(runtime, batch, error)
        raise
    runtime.store.finish_spooling(
        batch, fingerprint=str(spooler.fingerprint), request_count=spooler.count, at=runtime.clock()
    )
    return runtime.store.get_batch(batch.batch_id)


def _leave(runtime: Runtime, batch: Batch, error: BaseException) -> None:
    """Leave nothing of a batch that cannot be made whole, unless something of it was submitted.

    :raises InvalidRequestError: instead of the row's error, with what was submitted before it.
    :raises AttemptLostError: another attempt took this one for dead, and discarded the batch.
    """
    if runtime.store.discard_batch(batch.batch_id):
        runtime.folder(batch.batch_id).delete()
        return
    try:
        parts = runtime.store.get_batch(batch.batch_id).parts
    except BatchMissingError:
        runtime.folder(batch.batch_id).delete()
        raise AttemptLostError(f"another attempt of the task discarded batch {batch.batch_id}; it goes on") from error
    sent = [part for part in parts if part.intent_at is not None]
    account = (
        f"{len(sent)} parts of batch {batch.batch_id} with {sum(part.request_count for part in sent):,} requests"
        " were submitted before; they go on, and a retry or a clear of the task goes on after them, if the rows"
        " before stay as they are"
    )
    log.warning("%s", account)
    if isinstance(error, InvalidRequestError):
        raise type(error)(f"{error}. {account}", row=error.row) from error
