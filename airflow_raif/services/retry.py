"""Retry: a person has failed rows of a batch that is over go out again; what it will cost is told before."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable

import msgspec

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import BudgetExceededError, ConfigurationError, InvalidBatchError
from airflow_raif.domain.money import dollars
from airflow_raif.domain.queue import tokens_of
from airflow_raif.domain.rounds import Selection
from airflow_raif.domain.status import EntryStatus, FailureReason
from airflow_raif.domain.usage import Cost, Usage
from airflow_raif.services.rounds import repeat_entries
from airflow_raif.services.runtime import Runtime
from airflow_raif.spool.files import requests_file
from airflow_raif.store import EntryTally

log = logging.getLogger(__name__)


class RetryPlan(msgspec.Struct, frozen=True):
    """What would go out again, and what that will cost about."""

    entry_count: int
    #: How many of them failed for which reason.
    counts: dict[str, int]
    #: At the mean cost of the rows of their model that were billed; unknown where no price is.
    cost: Cost
    #: False: no row was answered yet, so that the cost is that of the requests alone.
    covers_answers: bool


def plan_retry(
    runtime: Runtime,
    batch_id: str,
    reasons: Collection[str] | None = None,
    *,
    truncated_max_tokens: int | None = None,
    max_cost: int | None = None,
) -> RetryPlan:
    """Return what :func:`retry_failed` would send, and about what it costs; nothing is changed.

    :raises InvalidBatchError: as there, and so are the others.
    """
    batch = runtime.store.get_batch(batch_id)
    wanted = _wanted(batch, reasons, truncated_max_tokens)
    _check(batch, wanted)
    tallies = runtime.store.tally_entries(batch)
    failed = [each for each in tallies if each.status == EntryStatus.FAILED and each.reason in wanted.reasons]
    if not failed:
        raise InvalidBatchError(_nothing_to_retry(batch, tallies, wanted))
    folder = runtime.folder(batch_id)
    for number in sorted({each.part_number for each in failed}):
        if not folder.exists(requests_file(number)):
            raise InvalidBatchError(
                f"the requests of part {number} are not in the spool at {folder.uri} any more; put"
                f" {requests_file(number)} back to retry rows of it"
            )
    counts: Counter[str] = Counter()
    for each in failed:
        counts[str(each.reason)] += each.count
    plan = RetryPlan(counts.total(), dict(counts), *_estimate(runtime, batch, tallies, failed))
    _check_cost(batch, plan, batch.budget.max_cost if max_cost is None else max_cost)
    return plan


def retry_failed(
    runtime: Runtime,
    batch_id: str,
    reasons: Collection[str] | None = None,
    *,
    truncated_max_tokens: int | None = None,
    max_cost: int | None = None,
) -> Batch:
    """Make a new round of a batch's failed rows, whatever its policy and its rounds so far.

    Nothing is sent here: the new parts are pending, and the batch's task sends them, waits and applies all results anew
    once it is cleared. Answers that were paid for stay until better ones come.

    :param reasons: only rows that failed for one of these; default: every failed row, those that were cut off only
        with a higher limit.
    :param truncated_max_tokens: the limit with which rows that were cut off go out; default: the batch's policy's.
    :param max_cost: what the batch may cost from now on, in picodollars, with what it cost so far; default: as before.
    :return: the batch, which runs again.
    :raises InvalidBatchError: it is not over and fetched, its task goes on with another batch, its spool was deleted,
        or no row of it failed for these reasons.
    :raises BudgetExceededError: with the retry it would cost more than it may.
    :raises ConfigurationError: what it may cost is limited, and what the retry will cost cannot be told.
    """
    plan = plan_retry(runtime, batch_id, reasons, truncated_max_tokens=truncated_max_tokens, max_cost=max_cost)
    batch = runtime.store.get_batch(batch_id)
    count = repeat_entries(runtime, batch, _wanted(batch, reasons, truncated_max_tokens))
    if count == 0:
        raise InvalidBatchError(
            f"none of the {plan.entry_count} failed rows of batch {batch_id} went out again: another process took the"
            " batch up at the same time, or rows that were cut off have as high a limit already; look at it again"
        )
    log.info("Batch %s: %s failed rows go out again, as told", batch_id, count)
    if max_cost is not None:
        return runtime.store.set_budget(batch, msgspec.structs.replace(batch.budget, max_cost=max_cost))
    return runtime.store.get_batch(batch_id)


def _wanted(batch: Batch, reasons: Collection[str] | None, truncated_max_tokens: int | None) -> Selection:
    limit = truncated_max_tokens or batch.round_policy.truncated_max_tokens
    if reasons is None:
        found = [reason.value for reason in FailureReason if reason is not FailureReason.TRUNCATED or limit is not None]
        return Selection(found, truncated_max_tokens=limit)
    known = {reason.value for reason in FailureReason}
    if unknown := sorted(set(reasons) - known):
        raise InvalidBatchError(f"rows do not fail as {unknown[0]!r}; the reasons are {', '.join(sorted(known))}")
    if FailureReason.TRUNCATED in reasons and limit is None:
        raise InvalidBatchError("rows that were cut off would be cut off again; give a higher limit of output tokens")
    return Selection(sorted(set(reasons)), truncated_max_tokens=limit)


def _check(batch: Batch, wanted: Selection) -> None:
    name = f"batch {batch.batch_id}"
    if not batch.status.is_terminal:
        raise InvalidBatchError(f"{name} is {batch.status}; its failed rows can be retried once it has ended")
    if batch.results_fetched_at is None:
        raise InvalidBatchError(f"{name} is {batch.status} and its results were not fetched; fetch them first")
    if batch.spool_deleted_at is not None:
        raise InvalidBatchError(
            f"the spool of {name} was deleted on {batch.spool_deleted_at:%Y-%m-%d}, and its requests with it; trigger a"
            " new run"
        )
    if batch.claim_released_at is not None:
        raise InvalidBatchError(f"the task of {name} has given it up and goes on with a new one; retry rows of that")
    if batch.is_cut_short:
        raise InvalidBatchError(
            f"{name} was canceled before its input was read to the end; clear its task to start a new one"
        )
    if batch.was_canceled and FailureReason.CANCELED not in wanted.reasons:
        raise InvalidBatchError(
            f"{name} was canceled, so its rows go out together with those that were canceled; add that reason"
        )


def _check_cost(batch: Batch, plan: RetryPlan, max_cost: int | None) -> None:
    """See to it that a batch does not cost more than it may by being retried."""
    if max_cost is None:
        return
    paid, cost = batch.cost.batch or 0, plan.cost.batch
    if cost is None:
        raise ConfigurationError(
            f"batch {batch.batch_id} has a budget, but not every price of its failed rows is known; put it into [raif]"
            " price_table"
        )
    if paid + cost > max_cost:
        alone = "" if plan.covers_answers else " for the requests alone"
        raise BudgetExceededError(
            f"batch {batch.batch_id} cost {dollars(paid)} so far, and its {plan.entry_count:,} failed rows would cost"
            f" about {dollars(cost)} more{alone}; that is more than its max_cost of {dollars(max_cost)} together, and"
            " nothing is sent. Say what it may cost in all with 'airflow raif batches retry"
            f" {batch.batch_id} --max-cost', or retry fewer rows with --reason"
        )


def _nothing_to_retry(batch: Batch, tallies: Iterable[EntryTally], wanted: Selection) -> str:
    failed: Counter[str] = Counter()
    for each in tallies:
        if each.status == EntryStatus.FAILED:
            failed[str(each.reason)] += each.count
    if not failed:
        return f"no row of batch {batch.batch_id} failed"
    found = ", ".join(f"{count} {reason}" for reason, count in sorted(failed.items()))
    hint = ""
    if set(failed) == {FailureReason.TRUNCATED.value} and wanted.truncated_max_tokens is None:
        hint = "; give a higher limit of output tokens to have those go out again that were cut off"
    return f"no row of batch {batch.batch_id} failed for a reason that is to be retried, only {found}{hint}"


def _estimate(
    runtime: Runtime, batch: Batch, tallies: Iterable[EntryTally], failed: Iterable[EntryTally]
) -> tuple[Cost, bool]:
    """Return about what entries cost if they are sent again, and whether that covers their answers."""
    models = {part.number: part.model for part in batch.parts}
    billed: dict[str, list[EntryTally]] = {}
    for each in tallies:
        # Also what was billed and failed, as an answer that was cut off.
        if each.priced_count and each.part_number in models:
            billed.setdefault(models[each.part_number], []).append(each)
    total, standard, covers_answers = 0, 0, True
    for each in failed:
        model = models[each.part_number]
        if model in billed:
            count = sum(every.priced_count for every in billed[model])
            total += sum(every.batch_cost for every in billed[model]) * each.count // count
            standard += sum(every.standard_cost for every in billed[model]) * each.count // count
            continue
        covers_answers = False
        row = Usage(input_tokens=tokens_of(each.request_bytes // each.count))
        price = runtime.prices.pricer(batch.provider, model)(row)
        if price.batch is None or price.standard is None:
            return Cost(is_estimated=True), False
        total += price.batch * each.count
        standard += price.standard * each.count
    return Cost(total, standard, is_estimated=True), covers_answers
