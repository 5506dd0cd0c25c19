"""How time and memory grow with rows: our side alone, from ten thousand rows to a million in 20 parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.benchmarks.figures import Figure
from tests.benchmarks.pipelines import measure

SIZES = {
    "fetch-responses": (10_000, 50_000, 100_000, 1_000_000),
    "submit-openai": (10_000, 50_000, 100_000, 500_000, 1_000_000),
}
UNITS = {
    "cpu": "CPU s", "wall": "wall s", "mib": "MiB above imports", "peak_mib": "MiB of the process",
    "store_mib": "MiB in the tables", "spool_mib": "MiB in the spool",
}  # fmt: skip


def measure_scaling(sizes: dict[str, Sequence[int]]) -> Iterator[Figure]:
    """Measure each work at each size, once."""
    for work, counts in sizes.items():
        for count in counts:
            found = measure(work, count, 1, sides=("ours",))["ours"]
            for key, unit in UNITS.items():
                yield Figure(work, unit, round(found[key], 4), None, None, "scaling", count)
