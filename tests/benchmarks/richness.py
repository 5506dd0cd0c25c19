"""What a row in the rich form costs beside the same row as text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from tests.benchmarks.figures import Book, Figure
from tests.benchmarks.rich_work import FORMS, MODELS

ROWS, QUICK_ROWS = 1000, 100
SECTION = "rich"
UNITS = {
    "write": "CPU µs to write a row",
    "read": "CPU µs to read an answer",
    "mib": "MiB above imports",
    "import_s": "CPU s, once",
    "import_mib": "MiB, once",
}


def measure_richness(*, is_quick: bool) -> Iterator[Figure]:
    """Write and read rows of each form for each provider, each in a process of its own."""
    count = QUICK_ROWS if is_quick else ROWS
    for provider in MODELS:
        for form in FORMS:
            command = [sys.executable, "-m", "tests.benchmarks.rich_work", provider, form, str(count)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            for key, unit in UNITS.items():
                yield Figure(f"{provider} {form}", unit, round(found[key], 3), None, None, SECTION, count, is_quick)


def richness_rows(book: Book) -> Iterator[tuple[str, str, str, *tuple[float | None, ...]]]:
    """Yield a line of the page's table for each provider and form."""
    found = {(each.name, each.unit): each.ours for each in book.of(SECTION)}
    for provider in MODELS:
        text = found.get((f"{provider} text", UNITS["write"])), found.get((f"{provider} text", UNITS["read"]))
        for form in FORMS:
            values = {key: found.get((f"{provider} {form}", unit)) for key, unit in UNITS.items()}
            ratios = (
                value / base if value and base else None
                for value, base in zip((values["write"], values["read"]), text, strict=True)
            )
            yield provider, form, *(values[key] for key in UNITS), *ratios
