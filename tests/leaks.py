"""Finding secrets wherever they may have gone: logs, tables, files, and errors with all that they carry along."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import sqlalchemy

#: Loggers that have a level of their own in some installations.
NOISY = ("", "httpx", "httpcore", "sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool", "psycopg", "airflow_raif")


def forms_of(secret: str) -> Iterator[str]:
    """The ways in which a server or a library repeats a secret."""
    yield from (secret, quote(secret), quote(secret, safe=""), quote_plus(secret))
    for around in (secret, f":{secret}", f"user:{secret}", f"api-key:{secret}", f"Bearer {secret}"):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(around.encode()).decode().rstrip("=")[:-1]


class Leaks:
    """Everything that was seen, to be searched for secrets at the end."""

    def __init__(self, *secrets: str) -> None:
        self._forms = {form: secret for secret in secrets for form in forms_of(secret)}
        self._seen: list[tuple[str, str]] = []

    def see(self, where: str, what: Any) -> None:
        """Note a value, by its text and its repr."""
        self._seen += [(where, str(what)), (where, repr(what))]

    def see_error(self, where: str, error: BaseException | None, depth: int = 0) -> None:
        """Note an error with its arguments and notes, our own with their attributes, and every error in its chain."""
        if error is None or depth > 20:
            return
        self.see(f"{where}: {type(error).__name__}", error)
        self.see(f"{where}: arguments of {type(error).__name__}", (error.args, getattr(error, "__notes__", ())))
        if type(error).__module__.startswith("airflow_raif"):
            self.see(f"{where}: attributes of {type(error).__name__}", vars(error))
        for chained in (error.__cause__, error.__context__):
            self.see_error(f"{where} <- {type(error).__name__}", chained, depth + 1)

    def see_logs(self, records: Iterable[logging.LogRecord]) -> None:
        """Note log lines, with the tracebacks in them."""
        formatter = logging.Formatter("%(name)s %(message)s")
        for record in records:
            self.see(f"log of {record.name}", formatter.format(record))
            if record.exc_info:
                self.see_error(f"log of {record.name}", record.exc_info[1])

    def see_tables(self, address: str) -> None:
        """Note every cell of every table."""
        engine = sqlalchemy.create_engine(address)
        tables = sqlalchemy.MetaData()
        tables.reflect(engine)
        with engine.connect() as connection:
            for table in tables.sorted_tables:
                for row in connection.execute(sqlalchemy.select(table)).mappings():
                    for name, value in row.items():
                        self.see(f"{table.name}.{name}", value)
        engine.dispose()

    def see_files(self, folder: Path) -> None:
        """Note names and contents of all files but databases."""
        for path in folder.rglob("*"):
            self.see("a file's name", path.relative_to(folder))
            if path.is_file() and ".db" not in path.name:
                self.see(f"file {path.name}", path.read_bytes().decode("utf-8", "replace"))

    def found(self) -> list[str]:
        """Return where secrets are, with what stands around them."""
        hits = {
            f"{where}: {text[max(at - 80, 0) : at + len(form) + 20]!r}"
            for where, text in self._seen
            for form in self._forms
            if (at := text.find(form)) >= 0
        }
        return sorted(hits)

    def saw(self, text: str) -> bool:
        """Whether a text was in anything that was seen."""
        return any(text in each for _, each in self._seen)


def log_everything(caplog: pytest.LogCaptureFixture) -> None:
    """Switch on the most that our code and the libraries below it log."""
    for name in NOISY:
        caplog.set_level(logging.DEBUG, logger=name)
