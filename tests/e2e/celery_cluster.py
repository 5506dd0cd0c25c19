"""Airflow on Celery: workers that share no disk, as on hosts of their own, and an object store that they do share."""

from __future__ import annotations

from pathlib import Path

from tests.aws import BUCKET, Aws
from tests.e2e.cluster import Cluster
from tests.postgres import PostgresServer
from tests.redis import RedisServer

WORKERS = ("worker-1", "worker-2")


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

    def add_object_store(self, store: Aws) -> None:
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
