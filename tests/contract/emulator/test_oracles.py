"""The emulator's replies and our adapters' requests, held against the providers' official schemas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from airflow_raif.domain.request import RequestDefaults
from airflow_raif.emulator.faults import RowFault
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import EmulatorSettings, Progress
from airflow_raif.services.apply import apply_results
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.submit import submit_batch
from airflow_raif.spool.files import requests_file
from tests.support import ANSWER, PROVIDERS, defaults_of, folder, rows, runtime_of

EMBEDDINGS = {
    "openai": RequestDefaults(model="text-embedding-3-small", endpoint="/v1/embeddings"),
    "gemini": RequestDefaults(model="gemini-embedding-001", endpoint="asyncBatchEmbedContent"),
}


def check(oracle_dir, name, *arguments):
    done = subprocess.run(
        [sys.executable, str(oracle_dir / name), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def live(runtime, given, tmp_path, defaults, *, cancels=False):
    batch = create_batch(runtime, given, defaults=defaults)
    submit_batch(runtime, batch.batch_id)
    runtime.transport.send(runtime.adapter.list_request())
    if cancels:
        cancel_batch(runtime, batch.batch_id)
    while not fetch_batch_status(runtime, batch.batch_id).is_terminal:
        pass
    fetch_batch_results(runtime, batch.batch_id)
    apply_results(runtime, batch.batch_id, folder(tmp_path / batch.batch_id))
    runtime.transport.send(runtime.adapter.check_request())
    return batch


def test_replies_follow_the_official_schemas(oracle_dir, store, tmp_path):
    """Every reply of whole lives on three providers, faults included, is valid by the providers' own documents."""
    record = tmp_path / "traffic.json"
    settings = EmulatorSettings(progress=Progress.parse("polls:4"), record=record)
    with EmulatorServer(settings) as emulator:
        for provider in PROVIDERS:
            with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
                live(runtime, rows(6), tmp_path, defaults_of(provider, output_schema=ANSWER))
                live(runtime, rows(2), tmp_path, defaults_of(provider), cancels=True)
                if provider in EMBEDDINGS:
                    live(runtime, ["a", "b"], tmp_path, EMBEDDINGS[provider])
                emulator.state.faults.rows = [
                    RowFault(kind=kind, rows=[n])
                    for n, kind in enumerate(("errored", "overloaded", "expired", "canceled", "truncated", "refused"))
                ]
                live(runtime, rows(8), tmp_path, defaults_of(provider))
                emulator.state.faults.rows = []
                emulator.state.faults.expire_after = 0.5
                live(runtime, rows(4), tmp_path, defaults_of(provider))
                emulator.state.faults.expire_after = None
        with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
            live(runtime, rows(2), tmp_path, defaults_of("openai", endpoint="/v1/chat/completions"))
    traffic = msgspec.json.decode(record.read_bytes())
    assert len(traffic) > 60
    assert "no violations" in check(oracle_dir, "schema_oracle.py", str(record))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("schema", [None, ANSWER])
def test_requests_follow_the_official_schemas(provider, schema, oracle_dir, emulator, store, tmp_path):
    """What we send is what the providers' documents ask for."""
    given = [
        *rows(2),
        {"custom_id": "m", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"},
                                        {"role": "user", "content": "go on"}], "temperature": 0.5},
        {"custom_id": "s", "prompt": "x", "system": "Be brief", "max_tokens": 77},
    ]  # fmt: skip
    endpoints = {"openai": ("/v1/responses", "/v1/chat/completions")}.get(provider, ("",))
    for endpoint in endpoints:
        with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
            batch = create_batch(
                runtime, given, defaults=defaults_of(provider, output_schema=schema, endpoint=endpoint, system="S")
            )
            spooled = runtime.folder(batch.batch_id).uri_of(requests_file(0)).removeprefix("file://")
            sent = tmp_path / f"{provider}{len(endpoint)}.jsonl"
            # The checker splits lines at U+2028 too, which is legal inside a JSON string.
            content = Path(spooled).read_bytes().replace("\u2028".encode(), b" ")
        lines = [msgspec.json.decode(line) for line in content.split(b"\n")[:-1]]
        if provider == "openai":
            sent.write_bytes(content)
        elif provider == "anthropic":
            sent = sent.with_suffix(".json")
            sent.write_bytes(msgspec.json.encode({"requests": lines}))
        else:
            sent = sent.with_suffix(".json")
            requests = [{"request": line["request"], "metadata": {"key": line["key"]}} for line in lines]
            body = {"batch": {"displayName": "x", "inputConfig": {"requests": {"requests": requests}}}}
            sent.write_bytes(msgspec.json.encode(body))
        check(oracle_dir, "request_oracle.py", str(sent))
