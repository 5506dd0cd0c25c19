"""Batches of every kind, made by the real services on emulated providers, and a long past in the store's own words.

Runs in a process that sees ``AIRFLOW_CONN_*`` and the store of the Airflow that shows them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from airflow_raif.domain.batch import Batch, Claim
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.emulator.faults import Faults, RowFault
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import EmulatorSettings, Progress
from airflow_raif.hooks.runtime import open_runtime
from airflow_raif.hooks.spool import result_folder
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.apply import apply_results
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.create import create_batch
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.submit import submit_batch
from tests.support import MODELS, base_url, defaults_of

DAGS = ("nightly_reviews", "product_tags", "tickets")
RUN = "manual__2026-11-30T01:00:00+00:00"
HOSTILE = "<script>alert('raif')</script><img src=x onerror=alert(1)> \u202etxt.exe\u2066 \x1b[31m javascript:alert(1)"
#: Every answer has that text in it.
HOSTILE_ANSWER = {
    "type": "object",
    "properties": {"said": {"type": "string", "enum": [HOSTILE]}},
    "required": ["said"],
    "additionalProperties": False,
}
_PROMPTS = ("Great shoes, slow delivery.", "The box came open, twice.", "Would buy again: soft, warm, cheap.")


@contextmanager
def emulators() -> Iterator[dict[str, EmulatorServer]]:
    """Start providers: one that ends batches at the first look, one that takes hours, one that does a third at
    each look, one that fails rows."""
    faults = Faults(
        rows=[
            RowFault(kind="errored", fraction=0.06),
            RowFault(kind="truncated", fraction=0.02),
            RowFault(kind="refused", fraction=0.01),
        ]
    )
    settings = {
        "default": EmulatorSettings(),
        "slow": EmulatorSettings(progress=Progress.parse("seconds:5400")),
        "steps": EmulatorSettings(progress=Progress.parse("polls:3")),
        "faulty": EmulatorSettings(faults=faults),
    }
    found = {name: EmulatorServer(each) for name, each in settings.items()}
    for each in found.values():
        each.start()
    try:
        yield found
    finally:
        for each in found.values():
            each.stop()


def connections(servers: dict[str, EmulatorServer], **limits: int) -> dict[str, dict[str, Any]]:
    """Return the connections to them, such as ``openai_slow``."""
    return {
        f"{provider}_{name}": {
            "conn_type": f"raif_{provider}",
            "password": "good-key",
            "host": base_url(provider, server.url),
            "extra": limits,
        }
        for name, server in servers.items()
        for provider in MODELS
    }


def rows(count: int) -> list[dict[str, Any]]:
    return [{"custom_id": f"review-{n:05d}", "prompt": f"{_PROMPTS[n % 3]} ({n})", "shelf": n} for n in range(count)]


def seed(count: int = 600) -> dict[str, Batch]:
    """Make a batch of each kind and return them by its name; the smallest parts that have something to show."""
    made = {
        "applied": _applied("anthropic_default", rows(count), Claim("nightly_reviews", RUN, "ask")),
        "partial": _applied("openai_faulty", rows(count), Claim("product_tags", RUN, "ask")),
        "mapped": _applied("gemini_default", rows(60), Claim("tickets", RUN, "ask", 2)),
        "by_hand": _applied("openai_default", rows(40), None),
        "hostile": _applied(
            "openai_default",
            hostile_rows(),
            Claim("tickets", "hostile <b>run</b>", HOSTILE),
            output_schema=HOSTILE_ANSWER,
        ),
        "running": _running("openai_steps", rows(count), Claim("nightly_reviews", "running", "ask")),
        "started": _running("gemini_slow", rows(count), Claim("tickets", "running", "ask"), minutes=1),
        "canceled": _canceled("anthropic_slow", rows(90), Claim("product_tags", "canceled", "ask")),
    }
    with _open("openai_slow") as runtime:
        made["pending"] = create_batch(
            runtime, rows(20), defaults=defaults_of("openai"), claim=Claim("product_tags", "pending", "ask")
        )
    return made


def more() -> dict[str, Batch]:
    """Make batches that are acted on, and one of a model that is unknown and hostile, which its error repeats."""
    unknown = f"no-such-{HOSTILE}"
    return {
        "unknown": _applied("openai_default", rows(2), Claim("tickets", "unknown model", "ask"), model=unknown),
        "to_retry": _applied("openai_faulty", rows(50), Claim("tickets", RUN, "ask")),
        "to_cancel": _running("anthropic_slow", rows(30), Claim("product_tags", "running", "ask")),
    }


def hostile_rows() -> list[dict[str, Any]]:
    return [{"custom_id": HOSTILE, "prompt": HOSTILE}, {"custom_id": "plain", "prompt": "Say hello"}]


@contextmanager
def _open(conn_id: str) -> Iterator[Runtime]:
    provider = conn_id.partition("_")[0]
    with open_runtime(conn_id, MODELS[provider]) as runtime:
        yield runtime


def _submitted(runtime: Runtime, requests: list[dict[str, Any]], claim: Claim | None, **values: Any) -> Batch:
    defaults = defaults_of(runtime.adapter.name, **values)
    batch = create_batch(runtime, requests, defaults=defaults, claim=claim, round_policy=RoundPolicy(max_rounds=1))
    return submit_batch(runtime, batch.batch_id)


def _applied(conn_id: str, requests: list[dict[str, Any]], claim: Claim | None, **values: Any) -> Batch:
    with _open(conn_id) as runtime:
        batch = _submitted(runtime, requests, claim, **values)
        while batch.results_fetched_at is None:
            fetch_batch_status(runtime, batch.batch_id)
            batch = advance_batch(runtime, batch.batch_id)
        return apply_results(runtime, batch.batch_id, result_folder(None, batch.batch_id))


def _running(conn_id: str, requests: list[dict[str, Any]], claim: Claim, minutes: float = 40) -> Batch:
    """Make a batch that was submitted some minutes ago."""
    with _open(conn_id) as runtime:
        earlier = dataclasses.replace(runtime, clock=lambda: runtime.clock() - timedelta(minutes=minutes))
        batch = _submitted(earlier, requests, claim)
        fetch_batch_status(runtime, batch.batch_id)
        return runtime.store.get_batch(batch.batch_id)


def _canceled(conn_id: str, requests: list[dict[str, Any]], claim: Claim) -> Batch:
    with _open(conn_id) as runtime:
        batch = _submitted(runtime, requests, claim)
        cancel_batch(runtime, batch.batch_id)
        fetch_batch_status(runtime, batch.batch_id)
        return advance_batch(runtime, batch.batch_id, may_repeat=False)
