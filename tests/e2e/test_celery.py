"""Real Airflow on more than one machine: Celery workers without a common disk share the work on one batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_raif.demo.components import processes_of
from tests.aws import Aws, aws_server
from tests.e2e.celery_cluster import WORKERS, CeleryCluster
from tests.e2e.cluster import Provider, eventually
from tests.redis import RedisServer

pytestmark = [pytest.mark.e2e, pytest.mark.postgres, pytest.mark.slow]
BY_PARTS = "by_parts"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    provider = Provider("openai", "openai_default", part_rows=10)
    with provider.server:
        yield provider


@pytest.fixture(scope="module")
def s3() -> Iterator[Aws]:
    with aws_server() as store:
        yield store


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def cluster(postgres, redis, s3, provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryCluster]:
    """Every component; our tables are there, but nobody told yet where."""
    cluster = CeleryCluster(tmp_path_factory.mktemp("airflow"), Path(__file__).parent / "dags", postgres, redis)
    try:
        cluster.migrate()
        cluster.start()
        cluster.wait_until_healthy()
        cluster.add_provider_connections([provider])
        cluster.add_object_store(s3)
        cluster.wait_for_dag(BY_PARTS)
        yield cluster
    finally:
        cluster.stop()
    assert processes_of(cluster.home) == []


def test_the_embedded_store_is_refused(cluster, provider):
    """A file on one worker is no store for the other: nothing is sent, and the task's log says what to set."""
    cluster.trigger(BY_PARTS, "refused", provider)
    assert cluster.end_of(BY_PARTS, "refused") == "failed"
    (log,) = cluster.logs(BY_PARTS, "refused", "submit").values()
    assert "a file by default, which CeleryExecutor cannot share between hosts; set [raif] sql_alchemy_conn" in log
    assert "raif_state" in log
    assert provider.creates == 0
    assert not list(cluster.home.rglob("raif.db"))


def test_mapped_apply_on_both_workers(cluster, provider, s3):
    """While one worker is held at the first part's results, the other goes on; every row comes back, each paid once."""
    cluster.add_store_connection()
    cluster.trigger(BY_PARTS, "shared", provider)
    cluster.until("deferred", BY_PARTS, "shared", "wait")
    assert provider.creates == 5
    with provider.holding("files.content", "before"):
        provider.finish()
        eventually(lambda: provider.calls("files.content") >= 3, "two parts beside the one that is held")
    assert cluster.end_of(BY_PARTS, "shared") == "success"
    workers = {name.split()[0] for name in cluster.logs(BY_PARTS, "shared", "apply")}
    assert workers == set(WORKERS)
    manifests = [cluster.manifest(BY_PARTS, "shared", "apply", index) for index in range(5)]
    assert [each["part"] for each in manifests] == list(range(5))
    found = [row for each in manifests for row in s3.rows(each["result_uri"])]
    assert [(row["custom_id"], row["status"]) for row in found] == [(f"row {n}", "completed") for n in range(50)]
    assert provider.creates == 5
    assert provider.calls("files.content") == 5
    batch_id = manifests[0]["batch_id"]
    results = [name for name in s3.names() if name.startswith("results/")]
    assert results == [f"results/{batch_id}/results-{n:012d}.jsonl" for n in range(0, 50, 10)]
    assert not list(cluster.home.rglob("raif_spool"))
