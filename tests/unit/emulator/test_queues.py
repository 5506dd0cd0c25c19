"""The emulated queue quotas: full to the last token and request, by model where the provider counts so."""

from __future__ import annotations

import contextlib
import json

import httpx
import pytest

from airflow_raif.emulator.compose import input_tokens
from airflow_raif.emulator.settings import Progress


@pytest.fixture
def call(emulator_of):
    """Call an emulator whose batches end at the third look."""

    with contextlib.ExitStack() as stack:

        def start(key, **settings):
            emulator = emulator_of(progress=Progress.parse("polls:3"), **settings)
            client = stack.enter_context(httpx.Client(base_url=emulator.url, headers={key: "good"}))
            return lambda method, path, **content: client.request(method, path, **content)

        yield start


def openai_batch(call, model="gpt-5-nano", count=1):
    body = json.dumps({"model": model, "input": "hello"})
    lines = "".join(
        f'{{"custom_id":"{n}","method":"POST","url":"/v1/responses","body":{body}}}\n' for n in range(count)
    )
    file = call("POST", "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", lines)}).json()["id"]
    create = {"input_file_id": file, "endpoint": "/v1/responses", "completion_window": "24h"}
    return call("POST", "/v1/batches", json=create).json()["id"], input_tokens(len(body)) * count


def test_openai_counts_the_tokens_of_each_model(call):
    """A batch that would fill the queue too far fails after its create, with the limit in the message."""
    _, tokens = openai_batch(call("authorization"))
    limited = call("authorization", openai_max_enqueued_tokens=2 * tokens)
    ids = [openai_batch(limited)[0] for _ in range(3)]
    other, _ = openai_batch(limited, "gpt-5-mini", 2)
    found = [limited("GET", f"/v1/batches/{each}").json() for each in (*ids, other)]
    assert [each["status"] for each in found] == ["in_progress", "in_progress", "failed", "in_progress"]
    (error,) = found[2]["errors"]["data"]
    assert error["code"] == "token_limit_exceeded"
    assert error["message"] == (
        f"Enqueued token limit reached for gpt-5-nano in organization org-emulated. Limit: {2 * tokens:,} enqueued"
        " tokens. Please try again once some in_progress batches have been completed."
    )
    for _ in range(2):
        limited("GET", f"/v1/batches/{ids[0]}")
    again, _ = openai_batch(limited)
    assert limited("GET", f"/v1/batches/{again}").json()["status"] == "in_progress"


def test_anthropic_counts_requests_of_all_models(call):
    """A create beyond them is a 429."""
    limited = call("x-api-key", anthropic_max_queued_requests=3)

    def create(count, model):
        params = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
        requests = [{"custom_id": str(n), "params": params} for n in range(count)]
        return limited("POST", "/v1/messages/batches", json={"requests": requests})

    first = create(2, "claude-haiku-4-5")
    refused = create(2, "claude-sonnet-4-5")
    assert (first.status_code, refused.status_code) == (200, 429)
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert create(1, "claude-sonnet-4-5").status_code == 200
    for _ in range(3):
        limited("GET", f"/v1/messages/batches/{first.json()['id']}")
    assert create(2, "claude-sonnet-4-5").status_code == 200


def test_gemini_counts_the_tokens_of_each_model(call):
    """A create beyond them is a 429 RESOURCE_EXHAUSTED."""
    entry = {"request": {"contents": [{"parts": [{"text": "x"}]}]}, "metadata": {"key": "a"}}

    def create(limited, model="gemini-2.5-flash"):
        batch = {"batch": {"inputConfig": {"requests": {"requests": [entry]}}}}
        return limited("POST", f"/v1beta/models/{model}:batchGenerateContent", json=batch)

    limited = call("x-goog-api-key", gemini_max_enqueued_tokens=60)
    found = [create(limited) for _ in range(3)]
    assert [each.status_code for each in found] == [200, 200, 429]
    assert found[2].json()["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert create(limited, "gemini-2.5-pro").status_code == 200
    for _ in range(3):
        limited("GET", f"/v1beta/{found[0].json()['name']}")
    assert create(limited).status_code == 200
