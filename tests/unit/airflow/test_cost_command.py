"""``airflow raif cost``: tables for people, exact sums for scripts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from airflow_raif.domain.batch import Claim
from airflow_raif.hooks.runtime import open_batch_runtime, open_runtime
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_now
from airflow_raif.services.submit import submit_batch
from tests.support import MODELS, defaults_of, rows


@pytest.fixture
def spent(emulator, providers, raif_store):
    """Live a batch to its end; return it."""
    providers(emulator)

    def live(provider="openai", dag="nightly", model=None, given=None):
        claim = Claim(dag, f"run {provider} {model}", "ask") if dag else None
        with open_runtime(f"{provider}_default", MODELS[provider]) as runtime:
            defaults = defaults_of(provider, **({"model": model} if model else {}))
            batch = create_batch(runtime, given or rows(2), defaults=defaults, claim=claim)
        with open_batch_runtime(batch.batch_id) as (runtime, _):
            submit_batch(runtime, batch.batch_id)
            return fetch_now(runtime, batch.batch_id)

    return live


def test_by_provider_for_scripts(spent, raif_command):
    """Every figure that there is, money as exact text, and a total that is the sum."""
    batches = {provider: spent(provider) for provider in ("openai", "anthropic")}
    done = raif_command("cost", "--by", "provider", "-o", "json")
    assert done.code == 0
    shape = json.loads(done.out)
    assert [row["provider"] for row in shape["rows"]] == ["anthropic", "openai"]
    assert shape["by"] == ["provider"]
    for row in shape["rows"]:
        batch = batches[row["provider"]]
        assert Decimal(row["cost"]) * 10**12 == batch.cost.batch
        assert Decimal(row["standard_cost"]) * 10**12 == batch.cost.standard
        assert row["usage"]["input_tokens"] == batch.usage.input_tokens
        assert (row["batch_count"], row["request_count"], row["unpriced_count"]) == (1, 2, 0)
    assert Decimal(shape["total"]["cost"]) == sum(Decimal(row["cost"]) for row in shape["rows"])
    assert set(shape["total"]) == set(shape["rows"][0]) - {"provider"}


def test_a_table_by_day_for_people(spent, raif_command):
    """With what was saved, and a total."""
    spent()
    done = raif_command("cost")
    assert f"{datetime.now(UTC):%Y-%m-%d}" in done.out
    assert "total" in done.out
    assert "50%" in done.out
    assert "are not in it" not in done.out


def test_what_has_no_price_is_told(spent, raif_command):
    """It is not zero."""
    spent(model="of-our-own")
    done = raif_command("cost", "--by", "model")
    assert "of-our-own" in done.out
    assert "2 requests of models without a known price are not in it; [raif] price_table" in done.out
    assert json.loads(raif_command("cost", "-o", "json").out)["total"]["cost"] is None


def test_rows_that_are_the_same_as_others_are_of_no_model(spent, raif_command):
    """They are named as what they are, and cost nothing."""
    spent(given=[{"prompt": "a"}, {"prompt": "a"}, {"prompt": "b"}])
    done = raif_command("cost", "--by", "model")
    assert "(answers of other rows)" in done.out
    assert "(no Dag)" not in done.out
    found = json.loads(raif_command("cost", "--by", "model", "-o", "json").out)["rows"]
    assert [(row["model"], row["request_count"]) for row in found] == [("", 1), (MODELS["openai"], 2)]


def test_filters_and_several_groups(spent, raif_command):
    """Dag, provider and model narrow it; groups are combined in their order."""
    spent("openai")
    spent("anthropic", dag="hourly")
    spent("gemini", dag=None)

    def found(*words):
        return [list(row.values())[:2] for row in json.loads(raif_command("cost", "-o", "json", *words).out)["rows"]]

    by = ("--by", "dag", "--by", "provider")
    assert sorted(found(*by), key=str) == [["hourly", "anthropic"], ["nightly", "openai"], [None, "gemini"]]
    assert found(*by, "--dag-id", "hourly") == [["hourly", "anthropic"]]
    assert found(*by, "--provider", "google") == [[None, "gemini"]]
    assert found(*by, "--model", MODELS["openai"]) == [["nightly", "openai"]]
    assert found(*by, "--until", "1h") == []
    assert json.loads(raif_command("cost", "-o", "json", "--until", "1h").out)["total"] is None
    assert "(no Dag)" in raif_command("cost", "--by", "dag").out


def test_times_are_dates_or_how_long_ago(raif_home, raif_store, raif_command):
    """UTC unless said otherwise; the month before by default."""
    shape = json.loads(raif_command("cost", "-o", "json", "--until", "2026-03-31T02:00:00+02:00").out)
    assert (shape["since"], shape["until"]) == ("2026-03-01T02:00:00+02:00", "2026-03-31T02:00:00+02:00")
    shape = json.loads(raif_command("cost", "-o", "json", "--since", "2026-03-01").out)
    assert (shape["since"], shape["until"]) == ("2026-03-01T00:00:00+00:00", None)
    ago = datetime.fromisoformat(json.loads(raif_command("cost", "-o", "json", "--since", "2w").out)["since"])
    assert abs(datetime.now(UTC) - timedelta(weeks=2) - ago) < timedelta(minutes=1)
    refused = raif_command("cost", "--since", "2026-03-02", "--until", "2026-03-01")
    assert refused.code == 1
    assert "--until 2026-03-01 00:00 is not after --since 2026-03-02 00:00." in refused.err


@pytest.mark.parametrize(
    "words",
    [["--by", "week"], ["--since", "soon"], ["--since", "0d"], ["--since", "2026-13-01"]],
)
def test_wrong_usage_ends_with_2(raif_home, raif_command, words):
    assert raif_command("cost", *words).code == 2
