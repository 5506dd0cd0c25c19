"""docs/benchmarks.md, written from the figures, so that none is typed by hand."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

from tests.benchmarks.bars import bars, eighth
from tests.benchmarks.chart import draw
from tests.benchmarks.figures import Book, Figure
from tests.benchmarks.richness import richness_rows
from tests.benchmarks.scaling import UNITS
from tests.benchmarks.sizing import sizing

PACKAGES = (
    "apache-airflow", "apache-airflow-providers-common-ai", "apache-airflow-providers-openai", "openai", "anthropic",
    "pydantic-ai-slim", "httpx", "msgspec", "sqlalchemy",
)  # fmt: skip
NAMES = {
    "fetch-openai": "fetch, OpenAI `/v1/chat/completions`",
    "fetch-structured": "the same, answers checked by a schema",
    "fetch-responses": "fetch, OpenAI `/v1/responses`",
    "fetch-anthropic": "fetch, Anthropic",
    "fetch-gemini": "fetch, Gemini file mode",
    "submit-openai": "submit, OpenAI",
    "submit-anthropic": "submit, Anthropic",
}
_TEMPLATE = Path(__file__).with_name("page.md")


def write(figures: Sequence[Figure], folder: Path) -> None:
    """Write the page and its picture."""
    book = Book(figures)
    draw(book, folder / "benchmarks.svg")
    text = _TEMPLATE.read_text()
    pieces = {
        "machine": machine(),
        "warm": _sides(_in_order(book.of("warm", "CPU s")), memory=book.of("warm", "MiB above imports")),
        "cold": _sides(book.of("cold", "CPU s"), memory=book.of("cold", "MiB of the process")),
        "recorded": _table(
            ("CPU s", "ours", "common-ai", "floor that records", "common-ai / ours", "common-ai / that floor"), (
            (NAMES[each.name], *map(number, (each.ours, each.peer, each.floor, each.gain, most_gain(each))))
            for each in _in_order(book.of("recorded", "CPU s"))
        )),
        "eighth": eighth(book),
        "imports": _table(("what", "unit", "ours", "common-ai", "Airflow itself"), (
            (each.name, each.unit, *map(number, (each.ours, each.peer, each.floor))) for each in book.of("imports")
        )),
        "beside": _table(("batches", "beside", "what", "ours", "peer"), (
            (f"{each.size:,}", each.name.removeprefix("beside "), each.unit, number(each.ours), number(each.peer))
            for each in book.of("waiting") if each.peer is not None
        )),
        "waiting": _table(("batches", "where", "what", "ours", "an idle trigger"), (
            (f"{each.size:,}", each.name, each.unit, number(each.ours), number(each.floor))
            for each in book.of("waiting") if each.peer is None
        )),
        "triggerer": _table(("batches", "what", "measured"), (
            (f"{each.size:,}", each.unit, number(each.ours)) for each in book.of("triggerer")
        )),
        "rich": _table(("provider", "row", "write, CPU µs", "read, CPU µs", "MiB", "once: CPU s", "once: MiB",
                        "write / text", "read / text"), (
            (provider, form, *map(number, values)) for provider, form, *values in richness_rows(book)
        )),
        "scaling": _scaling(book),
        "bars": _table(("bar", "measured", "holds"), bars(book)),
        "sizing": sizing(book),
    }  # fmt: skip
    for name, piece in pieces.items():
        text = text.replace(f"{{{{{name}}}}}", piece)
    (folder / "benchmarks.md").write_text(text)


def machine() -> str:
    """Tell where the figures were measured, and with which versions."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {models[0] if models else platform.machine()}, {os.cpu_count()}"
        f" cores, {memory:.0f} GiB, {system}, SQLite {sqlite3.sqlite_version}; {versions}."
        f" Load average when this was written: {os.getloadavg()[1]:.1f}; what else runs makes CPU times longer, for all"
        " sides of a run alike."
    )


def number(value: float | None) -> str:
    """Write a figure with the digits that mean something."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def most_gain(figure: Figure) -> float | None:
    """Tell how many times more than the floor the peer takes."""
    return figure.peer / figure.floor if figure.peer and figure.floor else None


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _in_order(figures: Sequence[Figure]) -> list[Figure]:
    return sorted(figures, key=lambda each: list(NAMES).index(each.name))


def _sides(figures: Sequence[Figure], memory: Sequence[Figure]) -> str:
    of_memory = {each.name: each for each in memory}
    heads = (
        "CPU s",
        "ours",
        "common-ai",
        "floor",
        "common-ai / ours",
        "ours / floor",
        "MiB: ours",
        "common-ai",
        "floor",
    )
    rows = []
    for each in figures:
        mib = of_memory[each.name]
        values = (each.ours, each.peer, each.floor, each.gain, each.above_floor, mib.ours, mib.peer, mib.floor)
        rows.append((NAMES[each.name], *map(number, values)))
    return _table(heads, rows)


def _scaling(book: Book) -> str:
    rows = []
    for work in ("fetch-responses", "submit-openai"):
        for each in book.of("scaling", "CPU s", work):
            wall, mib, process, store, spool = (
                book.one("scaling", work, UNITS[key], each.size)
                for key in ("wall", "mib", "peak_mib", "store_mib", "spool_mib")
            )
            cost = each.ours / each.size * 1e6
            values = (each.ours, cost, wall.ours, mib.ours, process.ours, store.ours, spool.ours)
            rows.append((NAMES[work], f"{each.size:,}", *map(number, values)))
    heads = (
        "work",
        "rows",
        "CPU s",
        "CPU µs a row",
        "wall s",
        "MiB above imports",
        "process MiB",
        "tables MiB",
        "spool MiB",
    )
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
