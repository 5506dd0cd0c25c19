"""Tokens to money."""

import time
from decimal import Decimal

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices import calc_price

from airflow_raif.domain.errors import ConfigurationError
from airflow_raif.domain.usage import Usage, usd
from airflow_raif.pricing.prices import PriceBook

USAGE = Usage(input_tokens=1_000_000, cached_tokens=400_000, output_tokens=100_000)


@pytest.mark.parametrize(
    ("provider", "model", "batch", "standard"),
    [
        ("openai", "gpt-5-nano", "0.036", "0.072"),
        ("anthropic", "claude-haiku-4-5", "0.57", "1.14"),
        ("gemini", "gemini-2.5-flash", "0.227", "0.442"),
    ],
)
def test_batch_price_with_cached_tokens(provider, model, batch, standard):
    """Cached tokens and the batch discount are priced as the provider does."""
    cost = PriceBook().pricer(provider, model)(USAGE)
    assert (usd(cost.batch), usd(cost.standard)) == (Decimal(batch), Decimal(standard))
    assert not cost.is_estimated


def test_long_prompts_cost_their_tier():
    """Where the rate depends on the prompt's size, each row is priced by its own size."""
    price = PriceBook().pricer("gemini", "gemini-2.5-pro")
    short, long = price(Usage(input_tokens=100_000)), price(Usage(input_tokens=300_000))
    assert long.batch > 3 * short.batch


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "gpt-5.6-sol"), ("openai", "gpt-5.5-pro"), ("google", "gemini-2.5-pro"),
     ("anthropic", "claude-sonnet-4-5"), ("anthropic", "claude-haiku-4-5")],
)  # fmt: skip
def test_prices_are_those_of_the_list(provider, model):
    """For any mix of tokens, and on both sides of where a prompt becomes a long one."""
    price = PriceBook().pricer({"google": "gemini"}.get(provider, provider), model)
    for size in (0, 1, 1000, 200_000, 200_001, 272_000, 272_001, 2_000_000):
        usage = Usage(size, size // 5, size // 7, size // 3 + 11, 0, size // 9)
        tokens = ListedUsage(
            input_tokens=size, cache_read_tokens=size // 5, cache_write_tokens=size // 7 + size // 9,
            cache_write_1h_tokens=size // 9, output_tokens=size // 3 + 11,
        )  # fmt: skip
        batch = calc_price(tokens, model, provider_id=provider, price_context={"processing": "batch"})
        standard = calc_price(tokens, model, provider_id=provider)
        found = price(usage)
        assert (usd(found.batch), usd(found.standard)) == (batch.total_price, standard.total_price)


def test_a_price_by_size_costs_no_time():
    """Millions of rows are priced one by one, and each has a usage of its own."""
    price = PriceBook().pricer("openai", "gpt-5.6-sol")
    start = time.perf_counter()
    for number in range(20_000):
        price(Usage(1000 + number, 10, 0, number))
    assert time.perf_counter() - start < 2


def test_only_the_standard_price_may_have_tiers():
    """What a batch saved is told by the price of a prompt of that size, not by that of the longest."""
    cost = PriceBook().pricer("openai", "gpt-5.5-pro")(Usage(input_tokens=1000))
    assert cost.standard == 2 * cost.batch


def test_cache_writes_cost_more_with_openai():
    """From gpt-5.6 on; before that they are input as any other."""
    cost = PriceBook().pricer("openai", "gpt-5.6-sol")(Usage(input_tokens=100_000, cache_write_tokens=100_000))
    assert (usd(cost.batch), usd(cost.standard)) == (Decimal("0.25"), Decimal("0.5"))


def test_one_hour_cache_writes_cost_more():
    """Anthropic's two cache lifetimes have two prices."""
    price = PriceBook().pricer("anthropic", "claude-haiku-4-5")
    million = 1_000_000
    assert usd(price(Usage(input_tokens=million, cache_write_tokens=million)).batch) == Decimal("0.625")
    assert usd(price(Usage(input_tokens=million, cache_write_1h_tokens=million)).batch) == Decimal(1)


def test_without_a_batch_price_the_figure_is_an_estimate():
    """Half the standard price, and marked."""
    cost = PriceBook().pricer("openai", "text-embedding-3-small")(Usage(input_tokens=1_000_000))
    assert (usd(cost.batch), usd(cost.standard), cost.is_estimated) == (Decimal("0.01"), Decimal("0.02"), True)


def test_a_model_is_known_by_the_name_that_its_provider_lists():
    """Gemini's list has ``models/`` before each."""
    book = PriceBook()
    listed, plain = book.pricer("gemini", "models/gemini-2.5-flash"), book.pricer("gemini", "gemini-2.5-flash")
    assert listed(USAGE) == plain(USAGE)


def test_an_unknown_model_has_no_price():
    """Null, never zero."""
    cost = PriceBook().pricer("openai", "my-own-model")(USAGE)
    assert cost.batch is None
    assert cost.standard is None


def test_the_users_own_table_comes_first():
    """A negotiated price replaces the public one; cache prices default to input's."""
    book = PriceBook({"openai:gpt-5-nano": {"input": "0.01", "output": "0.1"}})
    cost = book.pricer("openai", "gpt-5-nano")(USAGE)
    assert usd(cost.batch) == Decimal("0.02")
    assert usd(cost.standard) == Decimal("0.04")


@pytest.mark.parametrize("row", [{}, {"output": 1}, {"input": 1, "outptu": 2}])
def test_a_wrong_price_row_is_named(row):
    """A typo in the table is an error, not a free lunch."""
    with pytest.raises(ConfigurationError, match="'openai:m': give 'input'"):
        PriceBook({"openai:m": row})


@pytest.mark.parametrize("amount", ["NaN", Decimal("Infinity"), -1, "cheap", None])
def test_a_price_that_is_none_is_named(amount):
    """A budget would hold nothing back at such prices."""
    with pytest.raises(ConfigurationError, match="'openai:m': output is .*; give a number of 0 or more"):
        PriceBook({"openai:m": {"input": 1, "output": amount}})
