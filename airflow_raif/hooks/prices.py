"""The user's own price table, from the configuration."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

from airflow.sdk import ObjectStoragePath, conf

from airflow_raif.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_raif.pricing.prices import PriceBook


def price_book() -> PriceBook:
    """Return the prices: those of ``[raif] price_table`` first, then the known ones.

    :raises ConfigurationError: the table cannot be read, or is none.
    """
    return _book(conf.get("raif", "price_table", fallback="").strip())


@cache
def _book(table: str) -> PriceBook:
    import msgspec

    from airflow_raif.pricing.prices import PriceBook

    if not table:
        return PriceBook()
    try:
        text = table.encode() if table.startswith("{") else ObjectStoragePath(table).read_bytes()
        own = msgspec.json.decode(text, type=dict[str, dict[str, Decimal]])
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"[raif] price_table cannot be read: {error}; give a JSON object such as"
            ' {"openai:my-model": {"input": 0.05, "output": 0.2}}, or the address of a file with one'
        ) from error
    return PriceBook(own)
