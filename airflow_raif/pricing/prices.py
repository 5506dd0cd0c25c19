"""What tokens cost: the user's own price table first, then ``genai-prices``, at batch price."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from airflow_raif.domain.errors import ConfigurationError
from airflow_raif.domain.usage import PICO, Cost, Usage

#: Usage -> cost of one entry.
Pricer = Callable[[Usage], Cost]
NO_PRICE = Cost()

#: Our provider names as genai-prices spells them.
_PROVIDER_IDS = {"gemini": "google", "openai": "openai", "anthropic": "anthropic"}
#: Batch discount documented by each provider, used where genai-prices has no batch price of the model.
_DISCOUNT = {"openai": Decimal("0.5"), "anthropic": Decimal("0.5"), "gemini": Decimal("0.5")}

#: Columns of a user's own price table, USD per million tokens at batch price. Cache prices default to input's.
_OWN_COLUMNS = ("input", "cached", "cache_write", "cache_write_1h", "output")


class PriceBook:
    """Prices by provider and model.

    :param own: the user's own table: ``{"provider:model": {"input": 0.1, "output": 0.4, ...}}``, USD per million
        tokens at batch price; ``standard_factor`` (default 2) tells how much dearer the synchronous API is.
    """

    def __init__(self, own: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._own = {name: _own_rates(name, row) for name, row in (own or {}).items()}
        self._pricers: dict[tuple[str, str], Pricer] = {}

    def pricer(self, provider: str, model: str) -> Pricer:
        """Return the function that prices one entry of a model; unknown models price to ``None``, never to zero."""
        key = (provider, model)
        if key not in self._pricers:
            own = self._own.get(f"{provider}:{model}") or self._own.get(model)
            self._pricers[key] = _linear(*own) if own else _known_pricer(provider, model)
        return self._pricers[key]


def _own_rates(name: str, row: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int], bool]:
    unknown = set(row) - set(_OWN_COLUMNS) - {"standard_factor"}
    if unknown or "input" not in row:
        raise ConfigurationError(
            f"price table, {name!r}: give 'input' and any of {_OWN_COLUMNS[1:]} in USD per million tokens at batch"
            f" price{f'; unknown: {sorted(unknown)}' if unknown else ''}"
        )
    for column, amount in row.items():
        if not _is_amount(amount):
            raise ConfigurationError(f"price table, {name!r}: {column} is {str(amount)!r}; give a number of 0 or more")
    table = {"output": 0} | dict.fromkeys(_OWN_COLUMNS[:-1], row["input"]) | dict(row)
    factor = Decimal(str(table.pop("standard_factor", 2)))
    batch = {column: int(Decimal(str(table[column])) * PICO / 10**6) for column in _OWN_COLUMNS}
    return batch, {column: int(rate * factor) for column, rate in batch.items()}, False


def _is_amount(value: Any) -> bool:
    try:
        amount = Decimal(str(value))
    except ArithmeticError:
        return False
    return amount.is_finite() and amount >= 0


def _linear(batch: dict[str, int], standard: dict[str, int], is_estimated: bool) -> Pricer:
    """Price by picodollars per token, as integers: exact, and a microsecond a row."""
    b_in, b_read, b_write, b_write_1h, b_out = (batch[column] for column in _OWN_COLUMNS)
    s_in, s_read, s_write, s_write_1h, s_out = (standard[column] for column in _OWN_COLUMNS)

    def price(usage: Usage) -> Cost:
        read, write, write_1h = usage.cached_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens
        plain, out = usage.input_tokens - read - write - write_1h, usage.output_tokens
        return Cost(
            plain * b_in + read * b_read + write * b_write + write_1h * b_write_1h + out * b_out,
            plain * s_in + read * s_read + write * s_write + write_1h * s_write_1h + out * s_out,
            is_estimated,
        )

    return price


def _known_pricer(provider: str, model: str) -> Pricer:
    """Build a pricer from genai-prices, which costs 0.15 ms a call, by asking for its rates once."""
    from genai_prices import calc_price
    from genai_prices.types import TieredPrices
    from genai_prices.types import Usage as PricedUsage

    provider_id = _PROVIDER_IDS.get(provider, provider)
    # As Gemini's own list names its models.
    model = model.removeprefix("models/")

    def ask(context: Mapping[str, str] | None, **tokens: int) -> Any:
        return calc_price(PricedUsage(**tokens), model, provider_id=provider_id, price_context=context)

    batch_context = {"processing": "batch"}
    try:
        batch_price, standard_price = ask(batch_context, input_tokens=1), ask(None, input_tokens=1)
    except LookupError:
        return lambda _usage: NO_PRICE
    # A model without batch prices silently prices at the standard ones.
    is_estimated = vars(batch_price.model_price) == vars(standard_price.model_price)
    factor = _DISCOUNT.get(provider, Decimal(1)) if is_estimated else Decimal(1)

    def amount(context: Mapping[str, str] | None, **tokens: int) -> int:
        return int(ask(context, **tokens).total_price * PICO * (factor if context else 1))

    def rates(context: Mapping[str, str] | None, size: int) -> dict[str, int]:
        """Return the rates of a request with so many input tokens."""
        plain = amount(context, input_tokens=size)
        probes: dict[str, dict[str, int]] = {
            "cached": {"cache_read_tokens": size},
            "cache_write": {"cache_write_tokens": size},
            "cache_write_1h": {"cache_write_tokens": size, "cache_write_1h_tokens": size},
        }
        found = {column: amount(context, input_tokens=size, **tokens) // size for column, tokens in probes.items()}
        output = amount(context, input_tokens=size, output_tokens=10**6) - plain
        return {"input": plain // size, **found, "output": output // 10**6}

    # Of some models only the standard prices have tiers. One is of all tokens of a request that has more input.
    values = (*vars(batch_price.model_price).values(), *vars(standard_price.model_price).values())
    starts = sorted({tier.start for value in values if isinstance(value, TieredPrices) for tier in value.tiers})
    sizes = [starts[0] or 1, *(start + 1 for start in starts)] if starts else [10**6]
    pricers = [_linear(rates(batch_context, size), rates(None, size), is_estimated) for size in sizes]
    return pricers[0] if len(pricers) == 1 else lambda usage: pricers[bisect_left(starts, usage.input_tokens)](usage)
