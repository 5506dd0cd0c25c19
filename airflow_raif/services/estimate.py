"""Estimate: what a batch will probably cost, before anything of it is sent; and whether it may."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice

from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.errors import BudgetExceededError, ConfigurationError
from airflow_raif.domain.money import Budget, Estimate, dollars, expected_usage
from airflow_raif.domain.usage import Cost, Usage
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.tokens import tokens_per_byte
from airflow_raif.spool.files import Folder, requests_file

log = logging.getLogger(__name__)

#: Requests of a model that a tokenizer looks at.
SAMPLE = 200


def is_limited(runtime: Runtime, budget: Budget) -> bool:
    """Whether a batch may cost only so much, so that nothing of it is sent before all of it was read."""
    return budget.max_cost is not None or runtime.adapter.settings.max_cost_per_day is not None


def estimate_batch(runtime: Runtime, batch: Batch, spool: Folder | None = None) -> Estimate:
    """Estimate what the requests of a spooled batch will take; rows that take answers of others take nothing.

    Only their bytes and number are looked at, and some of them where there is a tokenizer. Rounds are not in it, since
    few of what they repeat was billed.

    :param spool: the batch's folder, if not where the runtime has it.
    """
    folder = spool or runtime.folder(batch.batch_id)
    parts: defaultdict[str, list[Part]] = defaultdict(list)
    for part in batch.parts:
        if not part.is_shared and part.round == 0 and part.request_count:
            parts[part.model].append(part)
    total = Estimate()
    has_output = "embed" not in batch.endpoint.lower()
    for model, of_model in parts.items():
        requests, size = sum(part.request_count for part in of_model), sum(part.request_bytes for part in of_model)
        history = runtime.store.cost_history(batch, batch.claim, model) if batch.claim is not None else None
        ratio = tokens_per_byte(batch.provider, model, _sample(folder, of_model[0])) if history is None else None
        usage, source = expected_usage(
            requests, size, history, batch.budget, tokens_per_byte=ratio, has_output=has_output
        )
        cost = _price(runtime, batch.provider, model, usage, requests)
        total += Estimate(requests=requests, request_bytes=size, usage=usage, cost=cost, source=source)
    return total


def _sample(folder: Folder, part: Part) -> Iterator[bytes]:
    lines = split_lines(folder.blocks(requests_file(part.number))())
    return (line for _, line in islice(lines, SAMPLE))


def _price(runtime: Runtime, provider: str, model: str, usage: Usage, requests: int) -> Cost:
    """Price so many requests; where a price depends on the size of a prompt, that of the mean one counts."""
    price = runtime.prices.pricer(provider, model)
    shares = [divmod(getattr(usage, name), requests) for name in Usage.__struct_fields__]
    each, rest = price(Usage(*(share for share, _ in shares))), price(Usage(*(left for _, left in shares)))
    if each.batch is None or each.standard is None or rest.batch is None or rest.standard is None:
        return Cost()
    return Cost(each.batch * requests + rest.batch, each.standard * requests + rest.standard, each.is_estimated)


def reserve_cost(runtime: Runtime, batch: Batch) -> Batch:
    """See to it that a batch may cost what it will probably cost, and reserve that, before anything of it is sent.

    A batch of which something was sent, or for which no budget is set, may go on.

    :raises BudgetExceededError: it may not.
    :raises ConfigurationError: what it will cost cannot be told.
    """
    max_cost, day_limit = batch.budget.max_cost, runtime.adapter.settings.max_cost_per_day
    if batch.is_sent or not is_limited(runtime, batch.budget):
        return batch
    estimate = estimate_batch(runtime, batch)
    cost = estimate.cost.batch
    if cost is None:
        models = ", ".join(sorted({part.model for part in batch.parts if not part.is_shared}))
        raise ConfigurationError(
            f"batch {batch.batch_id} has a budget, but a price of {models} is not known; put it into [raif] price_table"
        )
    said = f"batch {batch.batch_id} would cost about {account_of(estimate)}"
    if max_cost is not None and cost > max_cost:
        raise BudgetExceededError(
            f"{said}; that is more than its max_cost of {dollars(max_cost)}, and nothing was sent. Raise max_cost,"
            " or give expected_output_tokens if answers are shorter than that, and clear the task"
        )
    taken = runtime.store.reserve_cost(batch, cost, day_limit, runtime.clock())
    if taken is not None:
        raise BudgetExceededError(
            f"{said}; of the {dollars(day_limit)} that connection {batch.conn_id} may cost in a day (UTC), others have"
            f" {dollars(taken)}, and nothing was sent. A retry tries again, which helps when they cost less in the end,"
            " or tomorrow; or raise the connection's max_cost_per_day",
            is_of_day=True,
        )
    log.info("Batch %s will cost about %s, which is reserved", batch.batch_id, account_of(estimate))
    return runtime.store.get_batch(batch.batch_id)


def account_of(estimate: Estimate) -> str:
    """Return an estimate as people read it."""
    sources = {
        "given": "as expected_output_tokens says",
        "earlier batches": "as in the task's last batch",
        "max_tokens": "as many as max_tokens allows",
        "nothing": "a guess",
    }
    return (
        f"{dollars(estimate.cost.batch)} ({estimate.requests:,} requests, {estimate.usage.input_tokens:,} input tokens,"
        f" {estimate.usage.output_tokens:,} output tokens, {sources[estimate.source]})"
    )
