"""What waiting costs a triggerer: ours beside the triggers of two of Airflow's own providers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.benchmarks.figures import Figure
from tests.benchmarks.poller import measure_poller

UNITS = {
    "requests_per_tick": "requests a tick", "cpu_ms_per_batch_tick": "CPU ms per batch and tick",
    "cpu_ms_per_start": "CPU ms to begin to wait, per batch", "block_cpu_ms": "CPU ms the loop was held at most",
    "kb_per_batch": "KB per waiting batch", "process_mib": "MiB of the process",
}  # fmt: skip
#: The peers make a client, and a thread or a stop of the event loop, for each batch.
_BESIDE_PEERS = 300


def measure_waiting(*, is_quick: bool) -> Iterator[Figure]:
    """Measure a few batches beside the peers, and many with ours."""
    count, ticks, idle = (50, 1, 1.0) if is_quick else (_BESIDE_PEERS, 3, 5.0)
    common: dict[str, Any] = {"batches": count, "ticks": ticks, "idle": idle, "interval": 5.0 if is_quick else 15.0}
    ours = measure_poller(**common)
    for kind in ("common.ai",) if is_quick else ("common.ai", "openai"):
        peer = measure_poller(kind=kind, **common)
        for key, unit in UNITS.items():
            yield Figure(f"beside {kind}", unit, ours[key], peer[key], None, "waiting", count, is_quick)
    if is_quick:
        return
    for name, options in (
        ("one connection", {"batches": 1000}),
        ("one connection", {"batches": 10_000}),
        ("20 connections", {"batches": 10_000, "connections": 20}),
    ):
        found = measure_poller(**options)
        for key, unit in UNITS.items():
            yield Figure(name, unit, found[key], None, None, "waiting", options["batches"], is_quick)
    found, idle_ones = (measure_poller(batches=1000, runner="airflow", kind=kind) for kind in ("ours", "idle"))
    for key in ("kb_per_batch", "cpu_ms_per_batch_tick"):
        # Beside the floor: a trigger that does nothing.
        yield Figure(
            "in Airflow's own runner", UNITS[key], found[key], None, idle_ones[key], "waiting", 1000, is_quick
        )  # fmt: skip
