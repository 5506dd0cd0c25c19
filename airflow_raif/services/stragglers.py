"""Stragglers: the last entries of a batch, sent one by one through the provider's synchronous API, at its price."""

from __future__ import annotations

import logging
from datetime import timedelta

import msgspec
import tenacity

from airflow_raif.adapters.http import MAX_ATTEMPTS, pause
from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.domain.batch import Batch, Part, PartState
from airflow_raif.domain.errors import AuthenticationError, ProviderError, TransientProviderError, UnavailableError
from airflow_raif.domain.result import EntryError
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.runtime import Runtime
from airflow_raif.spool.files import answer_file, requests_file, results_file

log = logging.getLogger(__name__)

#: How long a call may be on its way before its answer counts as lost.
LOST_AFTER = timedelta(minutes=15)
#: HTTP statuses of a provider that is away or overloaded, and of one that failed on this very call.
_AWAY, _FAULT = frozenset((503, 529)), 500
_LOST = EntryError(
    "the answer of the synchronous call was lost on its way; it may be paid and is not sent again", "lost"
)


def send_stragglers(runtime: Runtime, batch: Batch, part: Part) -> None:
    """Send every request of a synchronous part that was not sent, then write the part's results.

    A synchronous call cannot be looked up, so each is noted before it is made and never made again: an answer that is
    lost on its way fails its entry. Each answer is in the spool before the next request goes out. A part that is to
    stop sends no more: what it has is its results.

    :raises AuthenticationError: the key is not accepted; what was not sent is sent by the next attempt.
    :raises TransientProviderError: the provider is away; what was not sent is sent by the next attempt.
    :raises UnavailableError: another attempt is at work on the part, or was until a moment ago.
    """
    folder = runtime.folder(batch.batch_id)
    lines = [line for _, line in split_lines(folder.blocks(requests_file(part.number))())]
    for number, line in enumerate(lines):
        if folder.exists(answer_file(part.number, number)):
            continue
        runtime.check_going_on()
        if runtime.store.note_call(part, number, runtime.clock()):
            row = _call(runtime, batch, part, number, line)
            with folder.write(answer_file(part.number, number)) as file:
                file.write(row)
    part = runtime.store.get_batch(batch.batch_id).parts[part.number]
    unsent = range(part.synchronous_calls, len(lines))
    lost = [n for n in range(part.synchronous_calls) if not folder.exists(answer_file(part.number, n))]
    is_fresh = part.intent_at is not None and runtime.clock() - part.intent_at < LOST_AFTER
    if (lost and is_fresh) or (unsent and not part.is_cancel_requested):
        raise UnavailableError(
            f"{len(lost)} synchronous calls of batch {batch.batch_id} are on their way in another attempt; their"
            f" answers count as lost {LOST_AFTER.total_seconds() / 60:.0f} minutes after the last call",
            provider=batch.provider,
        )
    if lost:
        log.warning("Batch %s: the answers of %s synchronous calls were lost", batch.batch_id, len(lost))
    with folder.write(results_file(part.number), once=True) as file:
        for number, line in enumerate(lines):
            if number in lost:
                file.write(runtime.adapter.synchronous_row(line, None, _LOST) + b"\n")
            elif number not in unsent:
                file.writelines(folder.blocks(answer_file(part.number, number))())
    status = BatchStatus.CANCELED if unsent else BatchStatus.ENDED
    ended = PartState(provider_batch_id="", status=status, raw_status="synchronous")
    runtime.store.record_states({part.id: ended}, runtime.clock())


def _call(runtime: Runtime, batch: Batch, part: Part, number: int, line: bytes) -> bytes:
    """Make one call, again only if it is known not to have been answered; return the row that a batch would have."""
    adapter = runtime.adapter
    request = adapter.synchronous_request(line, batch.endpoint, part.model)
    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: _is_away(error) or _status_of(error) == _FAULT),
        stop=tenacity.stop_after_attempt(MAX_ATTEMPTS),
        wait=pause,
        reraise=True,
    )
    try:
        answer = again(runtime.transport.send, request, retry=False).content
        # A row is one line, however the provider indents its answers.
        return adapter.synchronous_row(line, msgspec.json.format(answer, indent=-1), None) + b"\n"
    except msgspec.MsgspecError as error:
        return adapter.synchronous_row(line, None, EntryError(f"the answer is no JSON: {error}")) + b"\n"
    except ProviderError as error:
        if isinstance(error, AuthenticationError) or _is_away(error):
            runtime.store.forget_call(part, number)
            raise
        return adapter.synchronous_row(line, None, EntryError(str(error), error.code, error.status)) + b"\n"


def _is_away(error: BaseException) -> bool:
    """Whether the provider would answer nobody now; a gateway's 502 or 504 may hide an answer that is paid."""
    if not isinstance(error, TransientProviderError):
        return False
    return not error.maybe_sent or error.status in _AWAY


def _status_of(error: BaseException) -> int | None:
    return error.status if isinstance(error, ProviderError) else None
