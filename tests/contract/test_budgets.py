"""Money before it is spent: what a batch will cost, and that one which may not cost that calls no provider."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from threading import Barrier

import pytest

from airflow_raif.domain.batch import Claim
from airflow_raif.domain.errors import BudgetExceededError, ConfigurationError
from airflow_raif.domain.money import Budget, picodollars
from airflow_raif.domain.sharing import Sharing
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.usage import usd
from airflow_raif.emulator.settings import Progress
from airflow_raif.pricing.prices import PriceBook
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.create import create_batch
from airflow_raif.services.dry_run import dry_run
from airflow_raif.services.estimate import estimate_batch
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.start import start_batch
from airflow_raif.services.submit import submit_batch
from tests.support import ANSWER, CLAIM, MODELS, PROVIDERS, defaults_of, rows, runtime_of

#: A dollar per million tokens, whichever way they go.
PRICES = PriceBook({name: {"input": 1, "output": 1} for name in MODELS.values()})
CENT = picodollars("0.01")


@pytest.fixture(params=PROVIDERS)
def provider(request):
    return request.param


@pytest.fixture
def open_runtime(provider, emulator, store, tmp_path):
    def opened(**settings):
        return runtime_of(provider, emulator.url, store, tmp_path, **settings)

    return opened


def priced(runtime):
    return dataclasses.replace(runtime, prices=PRICES)


def start(runtime, count=10, budget=None, task="task", run="run", **values):
    given = values.pop("given", rows(count))
    claim = Claim("dag", run, task, -1)
    return start_batch(
        runtime, lambda: iter(given), defaults=defaults_of(runtime.adapter.name), claim=claim, budget=budget, **values
    )


def finish(runtime, batch):
    while not (batch := advance_batch(runtime, batch.batch_id)).status.is_terminal:
        fetch_batch_status(runtime, batch.batch_id)
    return batch


def calls(emulator):
    return sum(emulator.state.requests.values())


def test_one_cent_stops_a_batch_of_two(provider, open_runtime, emulator, store):
    """Before any call of the provider, with what it would cost; a clear with a larger budget sends what was read."""
    # 10 requests of 2,000 tokens are two cents.
    short = Budget(CENT, expected_output_tokens=2000)
    with open_runtime() as opened:
        runtime = priced(opened)
        with pytest.raises(BudgetExceededError, match=r"about \$0\.02.*more than its max_cost of \$0\.0100") as told:
            start(runtime, budget=short)
        assert not told.value.retryable
        assert calls(emulator) == 0
        made = store.find_by_claim(CLAIM)
        assert made.status is BatchStatus.PENDING
        batch = start(runtime, budget=Budget(3 * CENT, expected_output_tokens=2000))
        assert batch.batch_id == made.batch_id
        assert batch.is_sent
        assert 2 * CENT < batch.estimated_cost < 3 * CENT


def test_another_input_in_place_of_one_that_was_not_sent(open_runtime, emulator, store):
    """Nothing was paid for the first, so nobody has to say that it may be replaced."""
    with open_runtime() as opened:
        runtime = priced(opened)
        short = Budget(CENT, expected_output_tokens=2000)
        with pytest.raises(BudgetExceededError):
            start(runtime, 10, short)
        old = store.find_by_claim(CLAIM)
        batch = start(runtime, 3, short)
        assert (batch.batch_id != old.batch_id, batch.request_count) == (True, 3)
        assert store.get_batch(old.batch_id).status is BatchStatus.CANCELED


def test_nothing_is_sent_before_all_is_read(open_runtime, emulator, provider):
    """Also of a batch of many parts, whose first ones would have been cheap enough."""
    with open_runtime(limits={"max_requests": 2}) as opened:
        with pytest.raises(BudgetExceededError):
            start(priced(opened), budget=Budget(CENT, expected_output_tokens=2000))
        assert calls(emulator) == 0
    with open_runtime(limits={"max_requests": 2}, max_cost_per_day=CENT) as opened:
        with pytest.raises(BudgetExceededError):
            start(priced(opened), budget=Budget(expected_output_tokens=2000), run="day")
        assert calls(emulator) == 0


def test_a_day_has_one_budget_for_all(open_runtime, emulator, store):
    """What a batch was expected to cost is taken until it is known what it did; the next day begins anew."""
    expected = Budget(expected_output_tokens=600)
    with open_runtime(max_cost_per_day=CENT) as opened:
        runtime = priced(opened)
        first = start(runtime, budget=expected, task="one")
        with pytest.raises(BudgetExceededError, match=r"\w+ may cost in a day .* others have \$0\.006") as told:
            start(runtime, budget=expected, task="two")
        assert told.value.retryable
        tomorrow = dataclasses.replace(runtime, clock=lambda: runtime.clock() + timedelta(days=1))
        assert start(tomorrow, budget=expected, task="tomorrow").is_sent
        finish(runtime, first)
        # It took much less than was expected.
        assert start(runtime, budget=expected, task="two").is_sent


def test_two_tasks_that_ask_at_the_same_time(open_runtime, emulator, store):
    """Only one of them gets what is left."""
    expected = Budget(expected_output_tokens=600)
    with open_runtime(max_cost_per_day=CENT) as opened:
        runtime, together = priced(opened), Barrier(4)

        def ask(number):
            given = rows(10)
            together.wait()
            try:
                return start(runtime, budget=expected, task=f"task {number}", given=given)
            except BudgetExceededError as error:
                return error

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(ask, range(4)))
    assert sum(isinstance(each, BudgetExceededError) for each in found) == 3
    assert sum(emulator.state.creates.values()) == 1


def test_a_canceled_batch_gives_back_what_it_did_not_take(emulator_of, provider, store, tmp_path):
    """Once it has stopped and is fetched."""
    emulator = emulator_of(progress=Progress.parse("polls:1000"))
    expected = Budget(expected_output_tokens=900)
    with runtime_of(provider, emulator.url, store, tmp_path, max_cost_per_day=CENT) as opened:
        runtime = priced(opened)
        batch = start(runtime, budget=expected, task="one")
        with pytest.raises(BudgetExceededError):
            start(runtime, budget=expected, task="two")
        cancel_batch(runtime, batch.batch_id)
        finish(runtime, batch)
        assert start(runtime, budget=expected, task="two").is_sent


def test_a_retry_is_not_counted_twice(open_runtime, emulator):
    """A task that asks again for what it has goes on."""
    with open_runtime(max_cost_per_day=CENT) as opened:
        runtime = priced(opened)
        batch = start(runtime, budget=Budget(expected_output_tokens=900))
        assert start(runtime, budget=Budget(expected_output_tokens=900)).batch_id == batch.batch_id
    assert sum(emulator.state.creates.values()) == 1


def test_a_model_without_a_price(open_runtime, emulator, provider):
    """What cannot be told cannot be promised; without a budget it is an unknown amount, never nothing."""
    with open_runtime() as runtime:
        given = [{"prompt": "x", "model": "nobody-knows-this"}]
        with pytest.raises(ConfigurationError, match="price of nobody-knows-this is not known; put it into"):
            start(runtime, given=given, budget=Budget(CENT))
        assert calls(emulator) == 0
        batch = create_batch(runtime, given, defaults=defaults_of(provider))
        assert estimate_batch(runtime, batch).cost.batch is None


def test_the_steps_of_a_hook_keep_to_it(open_runtime, emulator):
    """A batch that was created with a budget is not submitted beyond it, whoever does."""
    with open_runtime() as opened:
        runtime = priced(opened)
        budget = Budget(CENT, expected_output_tokens=2000)
        batch = create_batch(runtime, rows(10), defaults=defaults_of(runtime.adapter.name), budget=budget)
        with pytest.raises(BudgetExceededError):
            submit_batch(runtime, batch.batch_id)
        assert calls(emulator) == 0


def test_the_first_estimate_allows_what_max_tokens_does(open_runtime, provider):
    """Nothing is known of the answers yet: input by its bytes, output by its limit."""
    with open_runtime() as opened:
        runtime = priced(opened)
        batch = create_batch(
            runtime, rows(10), defaults=defaults_of(provider), claim=CLAIM, budget=Budget(max_tokens=500)
        )
        estimate = estimate_batch(runtime, batch)
        assert estimate.usage.output_tokens == 5000
        assert estimate.usage.input_tokens == pytest.approx(batch.parts[0].request_bytes / 4, abs=1)
        assert estimate.cost.batch == (estimate.usage.input_tokens + 5000) * 10**6
        assert estimate.source == "max_tokens"


def test_a_second_night_is_estimated_by_the_first(open_runtime, provider):
    """Within a fifth of what it takes in the end, at the provider's own prices, with shorter and longer rows."""
    with open_runtime() as runtime:
        shared = {"defaults": defaults_of(provider, output_schema=ANSWER), "budget": Budget(picodollars(5), None, 500)}

        def night(number, given):
            claim = Claim("dag", f"night {number}", "task", -1)
            return start_batch(runtime, lambda: given, claim=claim, **shared)

        finish(runtime, night(1, rows(400)))
        longer = [{**row, "prompt": row["prompt"] * (1 + n % 9)} for n, row in enumerate(rows(600))]
        second = finish(runtime, night(2, longer))
        assert second.estimated_cost == pytest.approx(second.cost.batch, rel=0.2)


def test_what_is_not_sent_is_not_estimated(open_runtime, provider):
    """Rows that are the same, and rows whose answers are there."""
    with open_runtime() as opened:
        runtime = priced(opened)
        reuse = Sharing(reuse_for=timedelta(days=1))
        finish(runtime, start(runtime, 4, run="first", sharing=reuse))
        given = [*rows(5), {**rows(5)[4], "custom_id": "double"}]
        found = dry_run(runtime, given, defaults=defaults_of(provider), claim=CLAIM, sharing=reuse)
        assert (found.estimate.requests, found.reused, found.duplicates) == (1, 4, 1)


def test_a_dry_run_leaves_nothing(open_runtime, emulator, store, tmp_path, provider):
    """It tells rows, parts, tokens, money and the first requests, calls nobody and keeps nothing."""
    with open_runtime(limits={"max_requests": 4}) as opened:
        runtime = priced(opened)
        found = dry_run(
            runtime, rows(10), defaults=defaults_of(provider), claim=CLAIM, budget=Budget(expected_output_tokens=100)
        )
    told = found.as_dict()
    assert calls(emulator) == 0
    assert store.find_by_claim(CLAIM) is None
    assert not (tmp_path / "spool").exists() or not any((tmp_path / "spool").iterdir())
    assert (told["rows"], told["requests"]) == (10, 10)
    assert [part["request_count"] for part in told["parts"]] == [4, 4, 2]
    assert told["usage"]["output_tokens"] == 1000
    tokens = told["usage"]["input_tokens"] + 1000
    assert Decimal(told["cost"]["batch"]) == usd(tokens * 10**6)
    assert len(found.first_requests) == 3
    assert "Sum up number 2" in found.lines()[-1]
    assert "Sum up" not in str(told)
    text = "\n".join(found.lines())
    assert "10 rows: 10 requests in 3 parts" in text
    assert "as expected_output_tokens says" in text


@pytest.mark.parametrize("amount", ["0", "-1", "a lot", "nan"])
def test_amounts_that_are_none(amount):
    """Are refused with the value."""
    with pytest.raises(ValueError, match=amount):
        picodollars(amount)


def test_a_long_system_prompt_is_paid_once_and_then_a_tenth(emulator, store, tmp_path):
    """Anthropic reads what is marked from its cache; without the mark each request pays for all of it."""
    system = "Answer like a librarian of the old school. " * 120
    with runtime_of("anthropic", emulator.url, store, tmp_path) as runtime:

        def cost(**values):
            defaults = defaults_of("anthropic", system=system, **values)
            claim = Claim("dag", f"run {values}", "task", -1)
            return finish(runtime, start_batch(runtime, lambda: rows(40), defaults=defaults, claim=claim))

        marked, plain = cost(), cost(cache_system=False)
        assert marked.usage.cache_write_1h_tokens > 1024
        assert marked.usage.cached_tokens == 39 * marked.usage.cache_write_1h_tokens
        assert plain.usage.cached_tokens == 0
        assert marked.cost.batch < 0.3 * plain.cost.batch


def test_a_short_system_prompt_is_not_marked(emulator, store, tmp_path):
    """Nor is one that only a row has; the user may say otherwise."""
    with runtime_of("anthropic", emulator.url, store, tmp_path) as runtime:

        def line(row, **values):
            batch = create_batch(runtime, [row], defaults=defaults_of("anthropic", **values))
            return b"".join(runtime.folder(batch.batch_id).blocks("part-00000.requests.jsonl")())

        mark = b'"cache_control":{"type":"ephemeral","ttl":"1h"}'
        assert mark not in line({"prompt": "x"}, system="Be brief.")
        assert mark not in line({"prompt": "x", "system": "Be brief. " * 900})
        assert mark in line({"prompt": "x"}, system="Be brief. " * 900)
        assert mark in line({"prompt": "x"}, system="Be brief.", cache_system=True)


def test_a_long_request_is_shown_in_part(open_runtime, provider):
    """A log is no place for a book."""
    with open_runtime() as opened:
        found = dry_run(priced(opened), [{"prompt": "word " * 1000}], defaults=defaults_of(provider))
    assert len(found.lines()[-1]) < 2100
    assert found.lines()[-1].endswith(" characters)")
