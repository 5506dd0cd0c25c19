"""Measure what waiting batches cost a triggerer: requests, CPU, memory, and how long its event loop is held.

A tick is one poll interval, in which every batch is asked about once. ``late_ms`` is by how much a turn of the event
loop came late at most, the machine's own noise included, which ``phases.idle`` shows; ``block_cpu_ms`` is the most CPU
that was spent in one turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, insert

from airflow_raif.store import migrate
from airflow_raif.store.engine import parse_url
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import part as part_table
from tests.benchmarks.poller_server import CREATED_AT, batch_id
from tests.benchmarks.rows import KEY
from tests.benchmarks.serving import serving

PATHS = {"openai": "/v1", "anthropic": "", "gemini": ""}
#: Types of the peers' connections.
TYPES = {"common.ai": "pydanticai", "openai": "openai"}


def measure_poller(
    *,
    batches: int = 1000,
    ticks: int = 5,
    provider: str = "openai",
    connections: int = 1,
    interval: float | None = None,
    runner: str = "plain",
    kind: str = "ours",
    idle: float = 5.0,
    store: str | None = None,
) -> dict[str, Any]:
    """Let a process wait for so many batches, and return its figures.

    :param interval: seconds between two polls of a batch.
    :param kind: whose triggers: ours, a peer's, or idle ones.
    :param runner: ``airflow``: each trigger runs inside Airflow's own runner, which has costs of its own.
    :param store: the address of an empty PostgreSQL database; default: an SQLite file.
    """
    interval = interval or max(5.0, batches / 500)
    with (
        tempfile.TemporaryDirectory(prefix="raif-bench-") as folder,
        serving("tests.benchmarks.poller_server", batches // connections) as url,
    ):
        address = store or f"sqlite:///{folder}/raif.db"
        plan = {
            "url": url, "provider": provider, "interval": interval, "ticks": ticks, "runner": runner,
            "kind": kind, "idle": idle, "waiting": fill(address, provider, batches, connections),
        }  # fmt: skip
        Path(folder, "plan.json").write_text(json.dumps(plan))
        environment = os.environ | {
            "AIRFLOW_HOME": folder, "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__RAIF__SQL_ALCHEMY_CONN": address,
            "AIRFLOW__RAIF__SPOOL_PATH": f"file://{folder}/spool", "NO_PROXY": "*",
        }  # fmt: skip
        environment |= connections_of(provider, url, connections, TYPES.get(kind))
        command = [sys.executable, "-m", "tests.benchmarks.poller_work", f"{folder}/plan.json"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"the measured process failed:\n{done.stderr[-4000:]}")
        figures = json.loads(done.stdout.splitlines()[-1])
    asked = {"provider": provider, "batches": batches, "connections": connections, "interval": interval}
    return asked | {"kind": kind, "runner": runner, "store": "postgresql" if store else "sqlite"} | figures


def connections_of(provider: str, url: str, count: int, kind: str | None = None) -> dict[str, str]:
    """Return the environment variables of connections to so many accounts."""
    found = {}
    for account in range(count):
        host = f"{url}/{provider}/{account}{PATHS[provider]}"
        connection = {"conn_type": kind or f"raif_{provider}", "password": KEY, "host": host}
        found[f"AIRFLOW_CONN_BENCH_{account}"] = json.dumps(connection)
    return found


def fill(address: str, provider: str, batches: int, connections: int) -> list[tuple[str, str]]:
    """Write batches that run at the provider into a new store; return their ids and connections."""
    migrate.upgrade(address)
    engine = create_engine(parse_url(address))
    of_batches, of_parts = [], []
    for key in range(1, batches + 1):
        number, account = divmod(key - 1, connections)
        created = datetime.fromtimestamp(CREATED_AT + number, UTC)
        of_batches.append(
            {"id": key, "batch_id": f"{key:032x}", "provider": provider, "conn_id": f"bench_{account}",
             "model": "some-model", "endpoint": "/v1/responses", "status": "in_progress", "spool_uri": "file:///spool",
             "metadata": {}, "created_at": created, "spooled_at": created, "submitted_at": created}
        )  # fmt: skip
        of_parts.append(
            {"id": key, "batch_key": key, "number": 0, "status": "in_progress", "raw_status": "in_progress",
             "provider_batch_id": batch_id(provider, account, number), "model": "some-model", "request_count": 50_000,
             "request_bytes": 100_000_000, "intent_at": created, "refs": {}, "submitted_at": created}
        )  # fmt: skip
    with engine.begin() as connection:
        connection.execute(insert(batch_table), of_batches)
        connection.execute(insert(part_table), of_parts)
    engine.dispose()
    return [(each["batch_id"], each["conn_id"]) for each in of_batches]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.poller", description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1000])
    parser.add_argument("--ticks", type=int, default=5)
    parser.add_argument("--provider", choices=sorted(PATHS), default="openai")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--interval", type=float)
    parser.add_argument("--runner", choices=("plain", "airflow"), default="plain")
    parser.add_argument("--kind", choices=("ours", "common.ai", "openai", "idle"), default="ours")
    parser.add_argument("--idle", type=float, default=5.0, help="seconds to look at the machine's own noise")
    parser.add_argument("--store", help="the address of an empty PostgreSQL database")
    options = vars(parser.parse_args())
    for batches in options.pop("batches"):
        print(json.dumps(measure_poller(batches=batches, **options)), flush=True)


if __name__ == "__main__":
    main()
