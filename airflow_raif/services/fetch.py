"""Fetch: bring the results of ended parts into the spool, one outcome per entry, and account usage and cost."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter

from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.domain.batch import Batch, EntryOutcome, Part
from airflow_raif.domain.errors import (
    BatchNotFoundError,
    ConfigurationError,
    InvalidBatchError,
    MalformedResponseError,
    ProviderError,
    RejectedError,
)
from airflow_raif.domain.result import EntryResult
from airflow_raif.domain.rounds import is_worth_repeating
from airflow_raif.domain.status import REASON_WITHOUT_RESULT, EntryStatus, FailureReason
from airflow_raif.domain.usage import Cost
from airflow_raif.domain.wire_id import index_of, wire_prefix
from airflow_raif.services.codec import AnswerReader
from airflow_raif.services.download import download_results, is_unreadable
from airflow_raif.services.metrics import part_fetched
from airflow_raif.services.output import InvalidOutputError, answer_reader
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.retain import is_gone
from airflow_raif.services.runtime import Runtime
from airflow_raif.spool.files import results_file

log = logging.getLogger(__name__)

#: Outcomes written to the store in one transaction.
OUTCOME_CHUNK = 5000
_NO_COST = Cost()
_COMPLETED, _FAILED = EntryStatus.COMPLETED.value, EntryStatus.FAILED.value
_index_of_outcome = attrgetter("index")
_UNREAD = "malformed lines, kept in the spool"


def fetch_batch_results(runtime: Runtime, batch_id: str) -> Batch:
    """Fetch every terminal part that was not fetched; afterwards every entry of it is completed or failed.

    However a part ended, what finished in it was paid for and is fetched; an entry without a result fails with the
    reason that its part's status gives.

    :raises InvalidBatchError: a part has not ended.
    :raises ProviderError: the download failed; it is taken up again by the next call.
    """
    batch = runtime.store.get_batch(batch_id)
    if batch.results_fetched_at is not None:
        return batch
    if running := [part for part in batch.parts if not part.status.is_terminal]:
        error = InvalidBatchError(
            f"batch {batch_id} is {batch.status}: part {running[0].number} has not ended, poll it first"
        )
        # A round that another attempt opened meanwhile: who tries again waits for it.
        error.retryable = running[0].round > 0
        raise error
    return fetch_ended_parts(runtime, batch_id)


def fetch_ended_parts(runtime: Runtime, batch_id: str, numbers: Collection[int] | None = None) -> Batch:
    """Fetch every part that is terminal and was not fetched, whatever the others do.

    :param numbers: only these parts.
    :raises ProviderError: a download failed; what fails for one part only does not keep the others from being fetched.
    :raises ConfigurationError: what reads the answers is not here; they are in the spool.
    """
    batch = runtime.store.get_batch(batch_id)
    refused: ProviderError | None = None
    wanted = [part for part in batch.parts if numbers is None or part.number in numbers]
    wanted = [part for part in wanted if part.status.is_terminal and part.results_fetched_at is None]
    reader = _find_reader(runtime, batch) if wanted else None
    with closing(_downloads(runtime, batch, wanted)) as downloads:
        for part, download in downloads:
            try:
                download()
                if not isinstance(reader, ConfigurationError):
                    _read_part(runtime, batch, part, reader)
            except (RejectedError, BatchNotFoundError, MalformedResponseError) as error:
                refused = refused or error
    if isinstance(reader, ConfigurationError):
        raise reader
    batch = runtime.store.mark_fetched(batch, runtime.clock())
    numbers = {part.number for part in wanted if not part.is_shared}
    for part in batch.parts:
        if part.number in numbers and part.results_fetched_at is not None:
            part_fetched(runtime.metrics, batch, part)
    if refused is not None:
        raise refused
    return batch


def fetch_now(runtime: Runtime, batch_id: str) -> Batch:
    """Ask the provider about a batch, and fetch the results of every part that has ended, whatever the others do.

    :raises ProviderError: the provider cannot be asked; a later call goes on.
    """
    fetch_batch_status(runtime, batch_id)
    return fetch_ended_parts(runtime, batch_id)


def _find_reader(runtime: Runtime, batch: Batch) -> AnswerReader | ConfigurationError:
    """Return what reads the batch's answers, or why that is not here; what was paid is downloaded all the same."""
    try:
        return answer_reader(runtime, batch)
    except ConfigurationError as error:
        return error


def _downloads(
    runtime: Runtime, batch: Batch, parts: Sequence[Part]
) -> Generator[tuple[Part, Callable[[], None]], None, None]:
    """Yield each part with what brings its results into the spool, or waits until a thread has.

    While one part is read, the next ones are on their way: providers answer slowly, and a download costs little CPU.
    """
    if len(parts) < 2 or runtime.parallel_downloads < 2:
        yield from ((part, partial(_download, runtime, batch, part)) for part in parts)
        return
    with ThreadPoolExecutor(runtime.parallel_downloads, thread_name_prefix="raif-download") as pool:
        try:
            running = [(part, pool.submit(_download, runtime, batch, part)) for part in parts]
            yield from ((part, future.result) for part, future in running)
        finally:
            pool.shutdown(cancel_futures=True)


def _download(runtime: Runtime, batch: Batch, part: Part) -> None:
    """Bring a part's results into the spool, unless they are there."""
    folder, name = runtime.folder(batch.batch_id), results_file(part.number)
    if folder.exists(name):
        return
    with folder.write(name, once=True) as file:
        if part.provider_batch_id is None:
            return
        try:
            download_results(runtime, batch, part, file)
        except ProviderError as error:
            if not is_gone(runtime, part, error):
                raise
            log.warning("Part %s of batch %s was fetched too late: %s", part.number, batch.batch_id, error)


def _read_part(runtime: Runtime, batch: Batch, part: Part, answers: AnswerReader | None) -> None:
    """Account for the results of a part that are in the spool."""
    blocks = runtime.folder(batch.batch_id).blocks(results_file(part.number))
    reader = _PartReader(runtime, batch, part, answers)
    for offset, line in split_lines(blocks()):
        reader.read(offset, line)
    reader.flush()
    reason = REASON_WITHOUT_RESULT[part.status]
    message = part.error or f"the provider gave no result for this entry; its part was {part.raw_status}"
    is_repeatable = is_worth_repeating(reason, part.error_code)
    if reader.oddities[_UNREAD] and is_repeatable:
        # Any of them may be its answer, or the end of results that were cut off: sent again, it may be paid twice.
        message += f"; it is not sent again, since {reader.oddities[_UNREAD]} lines of the results cannot be read"
        is_repeatable = False
    missing = runtime.store.fail_without_result(batch, part, reason.value, message, is_repeatable=is_repeatable)
    if batch.has_shared_rows:
        runtime.store.hand_on_outcomes(batch, part)
    if batch.answer_scope is not None:
        runtime.store.keep_answers(batch, batch.answer_scope, part, runtime.clock())
    runtime.store.mark_part_fetched(batch, part, runtime.clock())
    if missing:
        runtime.on_rows(missing)
        log.warning("Part %s of batch %s: %s entries %s", part.number, batch.batch_id, missing, reason.value)
    for what, count in reader.oddities.items():
        log.warning("Part %s of batch %s: %s %s", part.number, batch.batch_id, count, what)


@dataclass
class _PartReader:
    """Turns raw lines into outcomes and writes them in chunks."""

    runtime: Runtime
    batch: Batch
    part: Part
    answers: AnswerReader | None
    oddities: Counter[str] = field(default_factory=Counter)
    _outcomes: list[EntryOutcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._prefix = wire_prefix(self.batch.batch_id)
        self._read_row = self.runtime.adapter.apply_batch_result
        self._price = self.runtime.prices.pricer(self.batch.provider, self.part.model)

    def read(self, offset: int, line: bytes) -> None:
        try:
            result = self._read_row(line)
        except MalformedResponseError:
            self.oddities[_UNREAD] += 1
            return
        if result.error is not None and is_unreadable(result):
            self.oddities[_UNREAD] += 1
        index = index_of(result.wire_id, self._prefix)
        if index is None:
            self.oddities["results with an id that is not of this batch"] += 1
            return
        self._outcomes.append(self._outcome(index, offset, line, result))
        if len(self._outcomes) >= OUTCOME_CHUNK:
            self.flush()

    def flush(self) -> None:
        if self._outcomes:
            # In the table's own order the database touches each of its pages once.
            self._outcomes.sort(key=_index_of_outcome)
            self.runtime.on_rows(len(self._outcomes))
            changed = self.runtime.store.record_outcomes(self.batch, self._outcomes)
            if changed < len(self._outcomes):
                self.oddities["results of entries that had one already, or are not in this part"] += (
                    len(self._outcomes) - changed
                )
            self._outcomes = []

    def _outcome(self, index: int, offset: int, line: bytes, result: EntryResult) -> EntryOutcome:
        reason, usage, length = result.reason, result.usage, len(line)
        error = result.error.message if result.error is not None else result.refusal
        if self.answers is not None and reason is None and result.status is EntryStatus.COMPLETED:
            try:
                self.answers.output(line, result)
            except InvalidOutputError as invalid:
                reason, error = FailureReason.INVALID_OUTPUT, str(invalid)
        cost = self._price(usage) if usage is not None else _NO_COST
        if self.part.is_synchronous:
            cost = Cost(cost.standard, cost.standard, cost.is_estimated)
        if reason is None and result.status is EntryStatus.COMPLETED:
            return EntryOutcome(index, _COMPLETED, None, self.part.number, offset, length, usage, cost, error)
        said = (result.error.code, result.error.status) if result.error is not None else ()
        return EntryOutcome(
            index, _FAILED, reason and reason.value, self.part.number, offset, length, usage, cost, error,
            is_worth_repeating(reason, *said),
        )  # fmt: skip
