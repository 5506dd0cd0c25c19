"""What commands write: tables for people, JSON for scripts, and questions. All of it may hold hostile text."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

#: Columns of a table that goes into a file or a pipe.
WIDTH = 200


def clean(value: object) -> str:
    """Return a value as one line that moves no cursor, sets no colour and turns no direction."""
    text = "" if value is None else " ".join(str(value).split())
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural where it is one."""
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number} {noun}{ending}"


def write_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: Collection[str] = (),
    ids: Collection[str] = (),
) -> None:
    """Write rows under a head.

    :param numbers: the columns of numbers, which stand one under the other.
    :param ids: the columns whose values stay in one line where others are folded, since they are copied.
    """
    table = Table()
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", no_wrap=name in ids)
    for row in rows:
        # Text, unlike str, is not read as markup.
        table.add_row(*(Text(clean(value), overflow="fold") for value in row))
    _console().print(table)


def write_fields(fields: Mapping[str, object]) -> None:
    """Write names and values, one a line."""
    table = Table.grid(padding=(0, 2))
    for name, value in fields.items():
        if value is not None:
            table.add_row(Text(name), Text(clean(value), overflow="fold"))
    _console().print(table)


def write_json(value: Any) -> None:
    """Write a value for a script."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def write_line(sentence: str) -> None:
    """Write a sentence."""
    sys.stdout.write(clean(sentence) + "\n")


def fail(sentence: str) -> NoReturn:
    """Say why nothing was done, and end with 1."""
    sys.stderr.write(clean(sentence) + "\n")
    raise SystemExit(1)


def ask(question: str) -> None:
    """Go on if the answer is yes, otherwise end with 1."""
    sys.stderr.write(clean(question) + " [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        fail("Nothing was done." if answer else "Nothing was done: nobody answered; say --yes to be asked nothing.")


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """Show how far long work is, where a person looks at it; yields what is told of each piece that is done."""
    console = Console(stderr=True)
    if not console.is_terminal or total == 0:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH)
