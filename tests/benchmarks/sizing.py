"""How much a night takes, reckoned from the measured cost of a row."""

from __future__ import annotations

from tests.benchmarks.figures import Book

NIGHTS = (1_000_000, 5_000_000, 10_000_000, 50_000_000)
_MILLION = 1_000_000
_HEADS = (
    "rows a night", "CPU minutes to submit", "CPU minutes to fetch and apply", "spool GB", "result files GB",
    "metadata tables GB", "OpenAI parts", "workers for two hours of work",
)  # fmt: skip
#: The result files hold what the answers do; see the rows that are measured.
_RESULT_BYTES = 2000


def sizing(book: Book) -> str:
    """Return a table of what some numbers of rows need, reckoned from the largest number that was measured."""
    submitted, fetched = (book.of("scaling", "CPU s", work)[-1:] for work in ("submit-openai", "fetch-responses"))
    if not submitted or not fetched:
        return ""
    submit, fetch = (each.ours / each.size * _MILLION for each in (*submitted, *fetched))
    requests, results, tables = (
        book.one("scaling", each.name, unit, each.size).ours / each.size * _MILLION
        for each, unit in (
            (submitted[0], "MiB in the spool"), (fetched[0], "MiB in the spool"), (fetched[0], "MiB in the tables"),
        )
    )  # fmt: skip
    lines = ["| " + " | ".join(_HEADS) + " |", "|" + "---|" * len(_HEADS)]
    for rows in NIGHTS:
        times = rows / _MILLION
        minutes = (submit * times / 60, fetch * times / 60)
        cells = (
            f"{rows:,}", *(f"{each:.3g}" for each in minutes), f"{(requests + results) * times * 2**20 / 1e9:.3g}",
            f"{rows * _RESULT_BYTES / 1e9:.3g}", f"{tables * times * 2**20 / 1e9:.3g}", f"{-(-rows // 50_000):,}",
            f"{max(1, -(-sum(minutes) // 120)):.0f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
