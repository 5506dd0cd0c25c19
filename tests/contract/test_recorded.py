"""Each adapter against recorded real traffic, through the replay server, where that is beside this checkout."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

import pytest

from airflow_raif.domain.request import RequestDefaults
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.submit import submit_batch
from tests.support import folder, read_rows, runtime_of

QUESTIONS = ["What is 2 + 2?", "Name the largest planet in our solar system. One word."]


@pytest.fixture
def replay(oracle_dir, tmp_path):
    """Serve a recorded life of a batch; yields its address."""
    running = []

    def start(name):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        cassette = oracle_dir / "recorded" / f"{name}.json"
        process = subprocess.Popen(
            [sys.executable, str(oracle_dir / "replay_server.py"), str(port), str(cassette), "--skip-polls", "2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        running.append(process)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return f"http://127.0.0.1:{port}"
        raise AssertionError("the replay server did not start")

    yield start
    for process in running:
        process.kill()
        process.wait()


def recorded(oracle_dir, name):
    interactions = json.loads((oracle_dir / "recorded" / f"{name}.json").read_text())["interactions"]
    return [each for each in interactions if "BerriAI" not in each["url"]]


def live(runtime, given, defaults, tmp_path):
    batch = create_batch(runtime, given, defaults=defaults)
    submit_batch(runtime, batch.batch_id)
    for _ in range(100):
        if fetch_batch_status(runtime, batch.batch_id).is_terminal:
            break
    fetch_batch_results(runtime, batch.batch_id)
    batch = apply_results(runtime, batch.batch_id, folder(tmp_path / "out"))
    return batch, read_rows(batch.result_uri)


@pytest.mark.parametrize(
    ("provider", "name", "defaults"),
    [
        ("openai", "openai_gpt-5-nano_answers", RequestDefaults(model="gpt-5-nano")),
        ("anthropic", "anthropic_claude-haiku-4-5_answers", RequestDefaults(model="claude-haiku-4-5", max_tokens=64)),
        ("anthropic", "anthropic_claude-haiku-4-5_reload", RequestDefaults(model="claude-haiku-4-5", max_tokens=64)),
        ("gemini", "gemini_gemini-2_5-flash_answers", RequestDefaults(model="gemini-2.5-flash")),
    ],
)
def test_answers(provider, name, defaults, replay, oracle_dir, store, tmp_path):
    """The recorded answers arrive, with the recorded tokens."""
    count = 1 if name.endswith("reload") else 2
    with runtime_of(provider, replay(name), store, tmp_path) as runtime:
        batch, found = live(runtime, QUESTIONS[:count], defaults, tmp_path)
    assert batch.status is BatchStatus.ENDED
    assert [row["status"] for row in found] == ["completed"] * count
    text = "".join(str(each["response_body"]) for each in recorded(oracle_dir, name))
    for row in found:
        assert row["output"]
        assert json.dumps(row["output"])[1:-1] in text
        assert row["model"] in text
        assert row["usage"]["input_tokens"] > 0
        assert row["usage"]["output_tokens"] > 0
        assert row["cost"]["batch"] > 0
    if not name.endswith("reload"):
        assert "4" in found[0]["output"]
        assert "Jupiter" in found[1]["output"]


def test_embeddings(replay, oracle_dir, store, tmp_path):
    """The recorded vectors arrive whole."""
    name = "openai_text-embedding-3-small"
    sent = next(each for each in recorded(oracle_dir, name) if each["url"].endswith("/files"))
    count = sent["request_body"].count('"custom_id"')
    defaults = RequestDefaults(model="text-embedding-3-small", endpoint="/v1/embeddings")
    with runtime_of("openai", replay(name), store, tmp_path) as runtime:
        _, found = live(runtime, [f"text {n}" for n in range(count)], defaults, tmp_path)
    assert [row["status"] for row in found] == ["completed"] * count
    assert all(isinstance(value, float) for row in found for value in row["output"])


def test_cancel(replay, store, tmp_path):
    """A real cancellation is transitional: canceling is no terminal status."""
    with runtime_of("anthropic", replay("anthropic_claude-haiku-4-5_cancel"), store, tmp_path) as runtime:
        defaults = RequestDefaults(model="claude-haiku-4-5", max_tokens=64)
        batch = create_batch(runtime, QUESTIONS[:1], defaults=defaults)
        submit_batch(runtime, batch.batch_id)
        adapter, transport = runtime.adapter, runtime.transport
        part = store.get_batch(batch.batch_id).parts[0]
        state = adapter.parse_part(transport.send(adapter.cancel_request(part.provider_batch_id)).content)
    assert (state.status, state.raw_status) == (BatchStatus.IN_PROGRESS, "canceling")
