"""Airflow on Celery: workers that share no disk, as on hosts of their own, and an object store that they do share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import msgspec
from moto.server import ThreadedMotoServer

from tests.e2e.cluster import Cluster
from tests.postgres import PostgresServer
from tests.redis import RedisServer

BUCKET = "raif"
WORKERS = ("worker-1", "worker-2")


class ObjectStore:
    """One bucket on an S3 server on loopback."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="any", aws_secret_access_key="any"
        )
        self._client.create_bucket(Bucket=BUCKET)

    @property
    def connection(self) -> dict[str, str]:
        """The Airflow connection to it."""
        extra = {"endpoint_url": self.url, "region_name": "us-east-1"}
        return {"conn_type": "aws", "login": "any", "password": "any", "extra": json.dumps(extra)}

    def names(self) -> list[str]:
        """Return what lies in the bucket."""
        return [each["Key"] for each in self._client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    def rows(self, uri: str) -> list[dict[str, Any]]:
        """Read a result file."""
        body = self._client.get_object(Bucket=BUCKET, Key=uri.partition(f"{BUCKET}/")[2])["Body"].read()
        return [msgspec.json.decode(line) for line in body.splitlines()]


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run an S3 server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield ObjectStore(f"http://{host}:{port}")
    finally:
        server.stop()


class CeleryCluster(Cluster):
    """Two workers that take one task at a time, each with an AIRFLOW_HOME of its own."""

    def __init__(self, home: Path, dags: Path, postgres: PostgresServer, redis: RedisServer) -> None:
        super().__init__(home, dags, postgres)
        settings = {
            "CORE__EXECUTOR": "CeleryExecutor",
            "CORE__FERNET_KEY": "bm90LWEtc2VjcmV0LW9ubHktZm9yLWxvb3BiYWNrISE=",
            "CELERY__BROKER_URL": redis.address(0),
            "CELERY__RESULT_BACKEND": redis.address(1),
            "CELERY__WORKER_CONCURRENCY": "1",
            "RAIF__SPOOL_PATH": f"s3://{BUCKET}/spool",
            "RAIF__RESULT_PATH": f"s3://{BUCKET}/results",
            "RAIF__SPOOL_CONN_ID": "aws_default",
        }
        self.env |= {f"AIRFLOW__{key}": value for key, value in settings.items()}
        # Celery warns of workers that run as root.
        self.env["C_FORCE_ROOT"] = "true"

    def start(self) -> None:
        """Start every component and the workers."""
        super().start()
        for name in WORKERS:
            command = f"celery worker --skip-serve-logs --celery-hostname {name}@localhost"
            self.start_component(command, name, {"AIRFLOW_HOME": str(self.home / name)})

    def add_object_store(self, store: ObjectStore) -> None:
        """Tell where spool and results are."""
        self.call("POST", "/connections", {"connection_id": "aws_default", **store.connection})

    def logs(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str]:
        """Return what a task's instances logged, by worker and map index."""
        found = {}
        for worker in WORKERS:
            folder = self.home / worker / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
            for path in folder.rglob("*.log"):
                found[f"{worker} {path.parent.name}"] = path.read_text()
        return found
