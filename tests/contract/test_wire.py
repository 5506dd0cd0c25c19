"""What our adapters send and what the official SDKs send for the same logical batch, field by field."""

from __future__ import annotations

import email
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from airflow_raif.domain.request import RequestDefaults
from airflow_raif.services.create import create_batch
from airflow_raif.services.submit import submit_batch
from airflow_raif.spool.files import requests_file
from tests.support import ANSWER, folder, runtime_of

REPLIES = {
    "/v1/files": {"id": "file-1", "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch",
                  "status": "processed"},
    "/v1/batches": {"id": "batch_1", "object": "batch", "endpoint": "/v1/responses", "input_file_id": "file-1",
                    "completion_window": "24h", "status": "validating", "created_at": 1},
    "/v1/messages/batches": {"id": "msgbatch_1", "type": "message_batch", "processing_status": "in_progress",
                             "request_counts": {"processing": 1, "succeeded": 0, "errored": 0, "canceled": 0,
                                                "expired": 0},
                             "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z",
                             "ended_at": None, "archived_at": None, "cancel_initiated_at": None, "results_url": None},
}  # fmt: skip
GEMINI = {"name": "batches/1", "metadata": {"state": "BATCH_STATE_PENDING", "name": "batches/1"}}


@pytest.fixture
def wire():
    """A server that keeps what it is sent: (method, path, content type, body)."""
    sent = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            path = self.path.partition("?")[0]
            sent.append((self.command, path, self.headers["content-type"], body))
            reply = json.dumps(REPLIES.get(path, GEMINI)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    server.server_close()
    thread.join()


def take(sent):
    taken = list(sent)
    sent.clear()
    return taken


def ours(provider, url, store, tmp_path, defaults, prompts):
    with runtime_of(provider, url, store, tmp_path) as runtime:
        batch = create_batch(runtime, prompts, defaults=defaults)
        spooled = folder(tmp_path / "spool" / batch.batch_id).blocks(requests_file(0))
        submit_batch(runtime, batch.batch_id)
        return [json.loads(line) for line in b"".join(spooled()).split(b"\n")[:-1]]


def parts_of(content_type, body):
    """Read a multipart body: name -> (file name, content)."""
    message = email.message_from_bytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + body)
    return {
        part.get_param("name", header="content-disposition"): (part.get_filename(), part.get_payload(decode=True))
        for part in message.get_payload()
    }


def test_openai(wire, store, tmp_path):
    """Upload and create are those of the SDK; our create has a tag in its metadata besides."""
    openai = pytest.importorskip("openai", reason="OpenAI's SDK is not installed")
    url, sent = wire
    lines = ours("openai", url, store, tmp_path, RequestDefaults(model="gpt-5-nano", output_schema=ANSWER), ["hello"])
    (my_upload, my_create) = take(sent)
    client = openai.OpenAI(api_key="good-key", base_url=f"{url}/v1", max_retries=0)
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    client.batches.create(input_file_id=file.id, endpoint="/v1/responses", completion_window="24h")
    output = {"format": {"type": "json_schema", "name": "answer", "strict": True, "schema": ANSWER}}
    client.responses.create(model="gpt-5-nano", input=[{"role": "user", "content": "hello"}], text=output)
    (sdk_upload, sdk_create, sdk_call) = take(sent)
    assert my_upload[:2] == sdk_upload[:2]
    mine, theirs = parts_of(*my_upload[2:]), parts_of(*sdk_upload[2:])
    assert mine.keys() == theirs.keys()
    assert mine["purpose"] == theirs["purpose"]
    as_json = [[json.loads(line) for line in each["file"][1].split(b"\n") if line] for each in (mine, theirs)]
    assert as_json[0] == as_json[1]
    assert my_create[:3] == sdk_create[:3]
    created = json.loads(my_create[3])
    assert created.pop("metadata").keys() >= {"raif"}
    assert created == json.loads(sdk_create[3])
    called = json.loads(sdk_call[3])
    body = lines[0]["body"]
    assert {name: body[name] for name in called if name != "input"} == {k: v for k, v in called.items() if k != "input"}
    assert body["input"] in ("hello", called["input"])
    assert lines[0]["url"] == sdk_call[1]


def test_anthropic(wire, store, tmp_path):
    """The streamed create is byte for byte the JSON of the SDK's."""
    anthropic = pytest.importorskip("anthropic", reason="Anthropic's SDK is not installed")
    url, sent = wire
    defaults = RequestDefaults(model="claude-haiku-4-5", max_tokens=9, system="Be brief", temperature=0.5)
    lines = ours("anthropic", url, store, tmp_path, defaults, ["hello", "there", "ü\u2028"])
    (mine,) = take(sent)
    requests = [
        {
            "custom_id": line["custom_id"],
            "params": {
                "model": "claude-haiku-4-5",
                "max_tokens": 9,
                "system": "Be brief",
                "temperature": 0.5,
                "messages": [{"role": "user", "content": prompt}],
            },
        }
        for line, prompt in zip(lines, ["hello", "there", "ü\u2028"], strict=True)
    ]
    client = anthropic.Anthropic(api_key="good-key", base_url=url, max_retries=0)
    client.messages.batches.create(requests=requests)
    (theirs,) = take(sent)
    assert mine[:3] == theirs[:3]
    assert json.loads(mine[3]) == json.loads(theirs[3])


def test_gemini(wire, store, tmp_path):
    """An inline create has the SDK's shape; the version in the path is the SDK generation's own."""
    genai = pytest.importorskip("google.genai", reason="Google's SDK is not installed")
    url, sent = wire
    defaults = RequestDefaults(model="gemini-2.5-flash", max_tokens=9, system="Be brief", temperature=0.5)
    lines = ours("gemini", url, store, tmp_path, defaults, ["hello"])
    (mine,) = take(sent)
    client = genai.Client(api_key="good-key", http_options={"base_url": url, "api_version": "v1beta"})
    source = {
        "contents": [{"role": "user", "parts": [{"text": "hello"}]}],
        "metadata": {"key": lines[0]["key"]},
        "config": {"max_output_tokens": 9, "temperature": 0.5, "system_instruction": "Be brief"},
    }
    tag = json.loads(mine[3])["batch"]["displayName"]
    client.batches.create(model="gemini-2.5-flash", src=[source], config={"display_name": tag})
    (theirs,) = take(sent)
    assert mine[:3] == theirs[:3]
    sdk = json.loads(theirs[3])
    # The SDK names the role of a system instruction, which the API neither needs nor reads.
    for each in sdk["batch"]["inputConfig"]["requests"]["requests"]:
        each["request"].get("systemInstruction", {}).pop("role", None)
    assert json.loads(mine[3]) == sdk
