"""What pages take of a real API server on a PostgreSQL store that is full: many batches, and one of a million rows."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from airflow_raif.demo.components import free_port
from airflow_raif.store import migrate
from tests.benchmarks.figures import Figure
from tests.browser.serve import settings, token_of, wait_for
from tests.postgres import PostgresServer

BATCHES, ENTRIES, PARTS = 100_000, 1_000_000, 20
QUICK_BATCHES, QUICK_ENTRIES = 2000, 20_000
RUNS = 20
BIG = "b" * 32
_FILL = """
INSERT INTO raif_batch (batch_id, provider, conn_id, model, endpoint, status, dag_id, run_id, task_id, map_index,
    spool_uri, metadata, request_count, completed_count, failed_count, input_tokens, cached_tokens, output_tokens,
    batch_cost, standard_cost, created_at, spooled_at, submitted_at, ended_at, results_fetched_at, applied_at)
SELECT md5(n::text), (ARRAY['openai', 'anthropic', 'gemini'])[1 + n % 3], 'llm_' || n % 7, 'model-' || n % 11,
    '/v1/responses', CASE WHEN n > {batches} - 40 THEN 'in_progress' WHEN n % 50 = 0 THEN 'failed' ELSE 'ended' END,
    CASE WHEN n % 100 > 0 THEN 'dag_' || n % 300 END,
    CASE WHEN n % 100 > 0 THEN 'scheduled__' || (now() - n * interval '3 min') END,
    CASE WHEN n % 100 > 0 THEN 'ask' END, CASE WHEN n % 100 > 0 THEN n END, 'file:///spool/' || n, '{{}}',
    1000, CASE WHEN n > {batches} - 40 THEN 0 ELSE 990 END, CASE WHEN n > {batches} - 40 THEN 0 ELSE 10 END,
    100000, 20000, 50000, 5000000000 * (1 + n % 13), 10000000000 * (1 + n % 13),
    at, at, at, CASE WHEN n > {batches} - 40 THEN NULL ELSE at + interval '1 hour' END,
    CASE WHEN n > {batches} - 40 THEN NULL ELSE at + interval '2 hours' END,
    CASE WHEN n > {batches} - 40 THEN NULL ELSE at + interval '2 hours' END
FROM (SELECT n, now() - ({batches} - n) * interval '1 min' AS at FROM generate_series(1, {batches} - 1) n) AS numbers;
INSERT INTO raif_batch (batch_id, provider, conn_id, model, endpoint, status, dag_id, run_id, task_id, map_index,
    spool_uri, metadata, request_count, completed_count, failed_count, batch_cost, standard_cost, created_at,
    spooled_at, submitted_at, ended_at, results_fetched_at)
VALUES ('{big}', 'openai', 'llm_0', 'model-0', '/v1/responses', 'ended', 'dag_1', 'big', 'ask', -1, 'file:///spool/big',
    '{{}}', {entries}, {entries} * 0.9, {entries} * 0.1, 5000000000000, 10000000000000, now(), now(), now(), now(),
    now());
INSERT INTO raif_part (batch_key, number, status, provider_batch_id, model, request_count, request_bytes, refs, counts,
    completed_count, input_tokens, cached_tokens, output_tokens, batch_cost, standard_cost, submitted_at,
    progressed_at, ended_at, results_fetched_at)
SELECT id, 0, status, 'batch_' || batch_id, model, request_count, 1000000, '{{}}',
    '{{"total": 1000, "completed": 400, "failed": 3}}', completed_count, input_tokens, cached_tokens, output_tokens,
    batch_cost, standard_cost, submitted_at, submitted_at + interval '10 min', ended_at, results_fetched_at
FROM raif_batch WHERE batch_id <> '{big}';
INSERT INTO raif_part (batch_key, number, status, provider_batch_id, model, request_count, request_bytes, refs,
    completed_count, submitted_at, ended_at, results_fetched_at)
SELECT id, n, 'ended', 'batch_big_' || n, model, {entries} / {parts}, 1000000, '{{}}', 0.9 * {entries} / {parts},
    now(), now(), now() FROM raif_batch, generate_series(0, {parts} - 1) n WHERE batch_id = '{big}';
INSERT INTO raif_entry (batch_key, idx, custom_id, status, reason, error, part_number, request_offset, request_length,
    result_part, result_offset, result_length, input_tokens, output_tokens, batch_cost, standard_cost)
SELECT id, n, 'row-' || n, CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'completed' END,
    CASE WHEN n % 20 = 0 THEN 'errored' WHEN n % 10 = 0 THEN 'truncated' END,
    CASE WHEN n % 10 = 0 THEN 'The provider said no, for the reason number ' || n % 70 END,
    n * {parts} / {entries}, 0, 500, n * {parts} / {entries}, 0, 900, 100, 50, 5000000, 10000000
FROM raif_batch, generate_series(0, {entries} - 1) n WHERE batch_id = '{big}';
ANALYZE;
"""
PAGES = {
    "list": "/raif/",
    "list, sorted by cost": "/raif/?sort=cost",
    "list, searched": "/raif/?q=dag_29",
    "list, of one Dag": "/raif/?dag_id=dag_17",
    "list, failed": "/raif/?status=failed",
    "batch": f"/raif/batches/{BIG}",
    "batch, failed rows": f"/raif/batches/{BIG}?status=failed&start=500000",
    "batch, one custom_id": f"/raif/batches/{BIG}?custom_id=row-999999",
    "cost": "/raif/cost",
    "cost of all": "/raif/cost?since=2020-01-01",
    "API, list": "/raif/api/batches",
}


def fill(address: str, batches: int, entries: int) -> None:
    """Fill a fresh database."""
    import psycopg

    migrate.upgrade(address)
    statements = _FILL.format(batches=batches, entries=entries, parts=PARTS, big=BIG)
    with psycopg.connect(address, autocommit=True) as connection:
        for statement in statements.split(";\n"):
            connection.execute(statement)
        # What autovacuum does to tables that were written long ago.
        connection.execute("VACUUM")


@contextmanager
def _served(address: str, home: Path) -> Iterator[tuple[str, psutil.Process]]:
    port = free_port()
    env = settings(home, port, {}) | {"AIRFLOW__RAIF__SQL_ALCHEMY_CONN": address}
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    with (home / "log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "airflow", "api-server"], env=env, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, server, home / "log")
        yield url, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait(30)


def _memory(process: psutil.Process) -> float:
    """Return MiB of a process and its children; what they share counts in each."""
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 2**20


def measure_pages(*, is_quick: bool) -> Iterator[Figure]:
    """Ask for each page twenty times; then see what the API server has grown by, our application's code included."""
    batches, entries = (QUICK_BATCHES, QUICK_ENTRIES) if is_quick else (BATCHES, ENTRIES)
    with tempfile.TemporaryDirectory(prefix="raif-pages-") as folder:
        home, database = Path(folder), Path(folder) / "postgres"
        database.mkdir()
        postgres = PostgresServer(database)
        postgres.start()
        try:
            address = postgres.create_database()
            fill(address, batches, entries)
            with _served(address, home) as (url, process):
                yield from _measure(url, process, batches, is_quick=is_quick)
        finally:
            postgres.stop()


def _measure(url: str, process: psutil.Process, batches: int, *, is_quick: bool) -> Iterator[Figure]:
    def figure(name: str, unit: str, value: float) -> Figure:
        return Figure(name, unit, round(value, 1), None, None, "pages", batches, is_quick)

    headers: Mapping[str, str] = {"Authorization": f"Bearer {token_of(url, 'admin')}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        for _ in range(RUNS):
            client.get("/api/v2/dags").raise_for_status()
        before = _memory(process)
        for name, path in PAGES.items():
            seconds = [client.get(path).raise_for_status().elapsed.total_seconds() for _ in range(RUNS + 1)]
            # The first one opens the store and fills caches; it is told of the first page only.
            if name == "list":
                yield figure("the first page of all", "ms", 1000 * seconds[0])
            yield figure(name, "ms, median of 20", 1000 * statistics.median(seconds[1:]))
        yield figure("the API server grows by", "MiB", _memory(process) - before)
