"""What the official SDKs are answered is valid by the providers' own documents."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter

import msgspec
import pytest

from airflow_raif.emulator.faults import Faults, RowFault
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import EmulatorSettings, Progress
from tests.contract.emulator.clients import anthropic_client, gemini_client, gemini_raw, lines, openai_client, rows_of

MESSAGES = [{"role": "user", "content": "Name a color"}]
SCHEMA = {
    "type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"], "additionalProperties": False,
}  # fmt: skip
ROWS = [RowFault(kind=kind, rows=[n]) for n, kind in enumerate(("errored", "overloaded", "truncated", "refused"))]
#: Whole lives: faultless, with wrong rows, cut short, failed.
LIVES = [
    Faults(),
    Faults(rows=ROWS),
    Faults(rows=[RowFault(kind="errored", fraction=1)]),
    Faults(expire_after=0.5),
    Faults(cancel_after=0.5),
    Faults(failed_batches=1),
    Faults(token_limit_exceeded=1),
]


def drive_openai(emulator):
    bodies = {
        "/v1/chat/completions": {"messages": MESSAGES},
        "/v1/responses": {"input": "Name a color"},
        "/v1/embeddings": {"input": "a color", "model": "text-embedding-3-small", "dimensions": 8},
    }
    with openai_client(emulator.url) as client:
        for endpoint, body in bodies.items():
            for life in LIVES:
                emulator.state.faults = msgspec.convert(msgspec.to_builtins(life), Faults)
                rows = (
                    {"custom_id": f"{n}", "method": "POST", "url": endpoint, "body": {"model": "gpt-5-nano", **body}}
                    for n in range(6)
                )
                file = client.files.create(file=("in.jsonl", lines(*rows)), purpose="batch")
                batch = client.batches.create(
                    input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"a": "b"}
                )
                for _ in range(4):
                    batch = client.batches.retrieve(batch.id)
                for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                    assert client.files.retrieve(file_id).bytes == len(client.files.content(file_id).read())
                client.files.delete(file.id)
        emulator.state.faults = Faults()
        assert len(list(client.batches.list(limit=5))) == 21
        file = client.files.create(file=("in.jsonl", b"{"), purpose="batch")
        for _ in range(2):
            batch = client.batches.create(input_file_id=file.id, endpoint="/v1/responses", completion_window="24h")
            client.batches.cancel(batch.id)


def drive_anthropic(emulator):
    params = {"model": "claude-haiku-4-5", "max_tokens": 300, "messages": MESSAGES}
    tool = {"tools": [{"name": "f", "input_schema": SCHEMA}], "tool_choice": {"type": "tool", "name": "f"}}
    with anthropic_client(emulator.url) as client:
        for life in LIVES:
            emulator.state.faults = msgspec.convert(msgspec.to_builtins(life), Faults)
            requests = [{"custom_id": f"{n}", "params": {**params, **(tool if n == 5 else {})}} for n in range(6)]
            batch = client.messages.batches.create(requests=requests)
            for _ in range(4):
                batch = client.messages.batches.retrieve(batch.id)
            assert len(list(client.messages.batches.results(batch.id))) == 6
        assert len(list(client.messages.batches.list(limit=3))) == len(LIVES)
        canceled = client.messages.batches.create(requests=requests)
        client.messages.batches.cancel(canceled.id)
        client.messages.batches.retrieve(canceled.id)
        client.messages.batches.delete(batch.id)


def drive_gemini(emulator):
    client = gemini_client(emulator.url, version="v1beta")
    config = {"response_mime_type": "application/json", "response_json_schema": SCHEMA}
    with gemini_raw(emulator.url) as raw:
        for life in LIVES[:-1]:
            emulator.state.faults = msgspec.convert(msgspec.to_builtins(life), Faults)
            inline = [{"contents": "Name a color", "metadata": {"key": f"{n}"}, "config": config} for n in range(6)]
            job = client.batches.create(model="gemini-2.5-flash", src=inline, config={"display_name": "d"})
            # The SDK leaves counts and errors out of what it returns, so the replies are also asked for plainly.
            for _ in range(3):
                client.batches.get(name=job.name)
            assert raw.get(f"/v1beta/{job.name}").json()["done"] is True
        emulator.state.faults = Faults()
        job = client.batches.create(model="gemini-2.5-flash", src=inline)
        client.batches.cancel(name=job.name)
        raw.get(f"/v1beta/{job.name}")
        assert len(list(client.batches.list(config={"page_size": 2}))) == len(LIVES)


@pytest.mark.parametrize("drive", [drive_openai, drive_anthropic, drive_gemini])
def test_the_sdks_are_answered_by_the_book(drive, oracle_dir, tmp_path):
    """Whole lives with faults, driven by the official SDK, hold no violation of the official schemas."""
    record = tmp_path / "traffic.json"
    with EmulatorServer(EmulatorSettings(progress=Progress("polls", 3), record=record)) as emulator:
        drive(emulator)
    assert len(msgspec.json.decode(record.read_bytes())) > 30
    done = subprocess.run(
        [sys.executable, str(oracle_dir / "schema_oracle.py"), str(record), "--unknown"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no violations" in done.stdout


def test_the_bodies_of_openai_rows_are_replies_of_their_endpoints(oracle_dir, tmp_path):
    """What a row holds is what the endpoint itself would answer by OpenAI's document."""
    spec = importlib.util.spec_from_file_location("schema_oracle", oracle_dir / "schema_oracle.py")
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    record = tmp_path / "traffic.json"
    with EmulatorServer(EmulatorSettings(progress=Progress("polls", 3), record=record)) as emulator:
        drive_openai(emulator)
    names = {
        "chat.completion": "CreateChatCompletionResponse", "response": "Response", "list": "CreateEmbeddingResponse",
    }  # fmt: skip
    found = []
    for _, path, _, text in msgspec.json.decode(record.read_bytes()):
        if path.endswith("/content"):
            bodies = [(row["response"] or {}).get("body", {}) for row in rows_of(text.encode())]
            found += [body for body in bodies if "object" in body]
    assert {body["object"] for body in found} == names.keys()
    for body in found:
        assert oracle.check("openai", names[body["object"]], body, Counter()) == []
