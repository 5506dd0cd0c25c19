"""Our side: the services as operators call them, with the embedded store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import airflow_raif.operators.batch  # noqa: F401 - what a task process imports, so that it counts in a cold start
from airflow_raif.domain.batch import Part, PartState
from airflow_raif.domain.request import RequestDefaults
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.submit import submit_batch
from airflow_raif.spool.files import requests_file
from airflow_raif.store import Store
from tests.benchmarks.rows import DIALECTS, KEY, SCHEMA, SYSTEM, result_lines, rows
from tests.support import folder, runtime_of


@contextlib.contextmanager
def _open(dialect: str, home: Path, url: str, store_url: str | None) -> Iterator[Runtime]:
    store = Store.open(store_url or f"sqlite:///{home}/raif.db", embedded=store_url is None)
    with runtime_of(DIALECTS[dialect][0], url, store, home, api_key=KEY) as runtime:
        yield runtime
    store.close()


def _defaults(dialect: str) -> RequestDefaults:
    _, model, endpoint = DIALECTS[dialect]
    schema = SCHEMA if dialect == "structured" else None
    return RequestDefaults(model=model, endpoint=endpoint, system=SYSTEM, max_tokens=1024, output_schema=schema)


def migrate(home: Path) -> None:
    """Make the tables, which is done once for all batches."""
    Store.open(f"sqlite:///{home}/raif.db", embedded=True).close()


def prepare(
    dialect: str, home: Path, served: Path, count: int, *, shuffled: bool = False, store_url: str | None = None
) -> None:
    """Make a submitted, ended batch and the files of its results; not measured."""
    with _open(dialect, home, "http://127.0.0.1:9", store_url) as runtime:
        batch = create_batch(runtime, rows(count), defaults=_defaults(dialect))
        prefix = batch.batch_id[:16]
        first = 0
        for part in batch.parts:
            name = f"{prefix}-{part.number}"
            _end(runtime, part, name)
            with (served / name).open("wb") as file:
                file.writelines(result_lines(dialect, prefix, first, part.request_count, shuffled=shuffled))
            first += part.request_count
            # Fetching does not need it, and copying it takes time.
            Path(runtime.folder(batch.batch_id).path, requests_file(part.number)).unlink()
        (home / "batch_id").write_text(batch.batch_id)


def _end(runtime: Runtime, part: Part, name: str) -> None:
    store, at = runtime.store, runtime.clock()
    store.record_intent(part.id, at)
    state = PartState(provider_batch_id=name, status=BatchStatus.SUBMITTED, raw_status="validating")
    store.record_submitted(part.id, state, at)
    refs = {"output_file_id": name, "responses_file": f"files/{name}"}
    ended = PartState(provider_batch_id=name, status=BatchStatus.ENDED, raw_status="completed", refs=refs)
    store.record_states({part.id: ended}, at)


def fetch(dialect: str, home: Path, url: str, store_url: str | None = None) -> int:
    """Stream, account each entry in the store, and write the result rows in input order."""
    with _open(dialect, home, url, store_url) as runtime:
        batch_id = (home / "batch_id").read_text()
        fetch_batch_results(runtime, batch_id)
        batch = apply_results(runtime, batch_id, folder(home / "out"))
        return runtime.store.count_entries(batch).completed


def submit(dialect: str, home: Path, url: str, count: int, store_url: str | None = None) -> int:
    """Create and submit: check, spool, store, upload."""
    with _open(dialect, home, url, store_url) as runtime:
        batch = create_batch(runtime, rows(count), defaults=_defaults(dialect))
        return submit_batch(runtime, batch.batch_id).request_count
