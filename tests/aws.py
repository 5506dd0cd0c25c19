"""Amazon's services on loopback: buckets and secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import msgspec
from airflow.secrets import BaseSecretsBackend
from botocore.exceptions import ClientError
from moto.s3.models import s3_backends
from moto.secretsmanager.models import secretsmanager_backends
from moto.server import ThreadedMotoServer

BUCKET = "raif"


class Aws:
    """One bucket, and Secrets Manager, of one account."""

    def __init__(self, url: str, key: str = "any", secret: str = "any") -> None:
        self.url = url
        account = {
            "endpoint_url": url, "region_name": "us-east-1", "aws_access_key_id": key, "aws_secret_access_key": secret,
        }  # fmt: skip
        self._s3 = boto3.client("s3", **account)
        self._secrets = boto3.client("secretsmanager", **account)
        self._s3.create_bucket(Bucket=BUCKET)
        self._login = (key, secret)

    @property
    def connection(self) -> dict[str, str]:
        """The Airflow connection to it."""
        extra = {"endpoint_url": self.url, "region_name": "us-east-1"}
        login, password = self._login
        return {"conn_type": "aws", "login": login, "password": password, "extra": json.dumps(extra)}

    def put(self, name: str, content: str) -> None:
        """Put a file into the bucket."""
        self._s3.put_object(Bucket=BUCKET, Key=name, Body=content.encode())

    def get(self, name: str) -> bytes:
        """Read a file of the bucket."""
        return bytes(self._s3.get_object(Bucket=BUCKET, Key=name)["Body"].read())

    def names(self) -> list[str]:
        """Return what lies in the bucket."""
        return [each["Key"] for each in self._s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    def clear(self) -> None:
        """Empty the bucket."""
        for name in self.names():
            self._s3.delete_object(Bucket=BUCKET, Key=name)

    def rows(self, uri: str) -> list[dict[str, Any]]:
        """Read a result file."""
        return [msgspec.json.decode(line) for line in self.get(uri.partition(f"{BUCKET}/")[2]).splitlines()]

    def keep_connection(self, conn_id: str, **fields: Any) -> None:
        """Put a connection into Secrets Manager."""
        self._secrets.create_secret(Name=f"airflow/connections/{conn_id}", SecretString=json.dumps(fields))


@contextmanager
def aws_server(key: str = "any", secret: str = "any") -> Iterator[Aws]:
    """Run the services, which hold nothing at first: what another server of this process was given is forgotten."""
    for each in (s3_backends, secretsmanager_backends):
        each.reset()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield Aws(f"http://{host}:{port}", key, secret)
    finally:
        server.stop()


class DenyingBackend(BaseSecretsBackend):
    """Secrets Manager as it answers whoever's policy names other secrets only; the emulation has no policies."""

    def get_connection(self, conn_id: str, team_name: str | None = None) -> None:
        error = {"Code": "AccessDeniedException", "Message": f"not authorized to read {conn_id}"}
        raise ClientError({"Error": error}, "GetSecretValue")
