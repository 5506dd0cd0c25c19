"""A price table of the user's own, in the configuration or in a file."""

from __future__ import annotations

from decimal import Decimal

import pytest

from airflow_raif.domain.errors import ConfigurationError
from airflow_raif.domain.usage import Usage, usd
from airflow_raif.hooks.batch import OpenAIBatchHook
from airflow_raif.hooks.prices import price_book
from tests.support import read_rows

TABLE = '{"openai:gpt-5-nano": {"input": 0.01, "output": "0.1"}}'
USAGE = Usage(input_tokens=1_000_000, output_tokens=100_000)


def test_a_batch_is_priced_by_the_users_table(emulator, providers, raif_home, monkeypatch):
    """The result rows and the batch carry the negotiated price."""
    providers(emulator)
    monkeypatch.setenv("AIRFLOW__RAIF__PRICE_TABLE", '{"openai:gpt-5-nano": {"input": 1000000, "output": 0}}')
    hook = OpenAIBatchHook()
    batch = hook.create_batch(["How are you?"], model="gpt-5-nano")
    hook.submit_batch(batch.batch_id)
    hook.fetch_batch_status(batch.batch_id)
    batch = hook.fetch_batch_results(batch.batch_id)
    (row,) = read_rows(hook.apply_batch_results(batch.batch_id))
    assert row["cost"] == {"batch": row["usage"]["input_tokens"], "standard": 2 * row["usage"]["input_tokens"]}
    assert usd(batch.cost.batch) == row["usage"]["input_tokens"]


def test_a_table_in_a_file(monkeypatch, tmp_path):
    """Named by its address."""
    (tmp_path / "prices.json").write_text(TABLE)
    monkeypatch.setenv("AIRFLOW__RAIF__PRICE_TABLE", f"file://{tmp_path}/prices.json")
    assert usd(price_book().pricer("openai", "gpt-5-nano")(USAGE).batch) == Decimal("0.02")


@pytest.mark.parametrize(
    "table", ["{broken", '{"openai:m": 3}', "file:///there/is/no/such/file.json", '{"openai:m": {"input": "free"}}']
)
def test_a_wrong_table_is_told(monkeypatch, table):
    """Before anything is paid at a price nobody meant."""
    monkeypatch.setenv("AIRFLOW__RAIF__PRICE_TABLE", table)
    with pytest.raises(ConfigurationError, match=r"\[raif\] price_table cannot be read.*give a JSON object"):
        price_book()
