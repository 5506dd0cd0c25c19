"""What the demo prints."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

Manifests = dict[str, tuple[dict[str, Any], float]]
ANSWERS = 5


def progress_table(states: dict[str, dict[str, str]], seconds: float) -> Table:
    """Show where each provider's run is."""
    table = Table(title=f"{seconds:.0f} s", title_justify="left")
    for column in ("provider", "run", "submit", "wait", "apply"):
        table.add_column(column)
    for provider, state in states.items():
        table.add_row(provider, *(state[column] for column in ("run", "submit", "wait", "apply")))
    return table


def result_table(manifests: Manifests, rows: int) -> Table:
    """Show the account of each provider's run."""
    table = Table(title="Rows, tokens, cost in US dollars, wall time", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("provider", "rows", "completed", "failed", "in", "cached", "out", "batch price", "list price", "s"):
        table.add_column(column, justify="left" if column in ("provider", "failed") else "right")
    for provider, (manifest, seconds) in manifests.items():
        if not manifest:
            table.add_row(provider, str(rows), "no result", *[""] * 6, f"{seconds:.0f}")
            continue
        counts, usage, cost = manifest["counts"], manifest["usage"], manifest["cost"]
        table.add_row(
            provider,
            f"{manifest['request_count']:,}",
            f"{counts['completed']:,}",
            ", ".join(f"{count} {reason}" for reason, count in counts["reasons"].items()) or "0",
            *(f"{usage[name]:,}" for name in ("input_tokens", "cached_tokens", "output_tokens")),
            _dollars(cost["batch"]),
            _dollars(cost["standard"]),
            f"{seconds:.0f}",
        )
    return table


def first_answers(manifests: Manifests) -> Table:
    """Show the first rows of each result file. Answers are hostile text: printed as they are, never as markup."""
    table = Table(title=f"The first {ANSWERS} answers")
    for column in ("provider", "custom_id", "output"):
        table.add_column(column, overflow="fold")
    for provider, (manifest, _) in manifests.items():
        if not manifest.get("result_uri"):
            continue
        with Path(str(manifest["result_uri"]).removeprefix("file://")).open(encoding="utf-8") as file:
            for line in islice(file, ANSWERS):
                row = json.loads(line)
                table.add_row(provider, Text(row["custom_id"]), Text(json.dumps(row["output"], ensure_ascii=False)))
    return table


def _dollars(amount: str | None) -> str:
    return "unknown" if amount is None else f"${Decimal(amount):.4f}"
