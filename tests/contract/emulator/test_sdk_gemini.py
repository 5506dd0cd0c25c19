"""Google's official SDK, and plain REST where it drops what the service says, drive the emulator."""

from __future__ import annotations

import json

import httpx
import pytest

from airflow_raif.emulator.settings import Progress

genai = pytest.importorskip("google.genai", reason="Google's SDK is not installed")
from google.genai import errors, types  # noqa: E402

MODEL = "gemini-2.5-flash"
REQUEST = {"contents": [{"role": "user", "parts": [{"text": "Say hello."}]}]}
HEADERS = {"x-goog-api-key": "good-key"}


@pytest.fixture(params=["v1beta", "v1"])
def version(request):
    return request.param


def client_of(emulator, version="v1beta", key="good-key"):
    return genai.Client(api_key=key, http_options={"base_url": emulator.url, "api_version": version})


def call(emulator, method, path, version="v1beta", **options):
    return httpx.request(method, f"{emulator.url}/{version}/{path}", headers=HEADERS, **options)


def create_inline(emulator, *requests, **batch):
    rows = [{"request": each, "metadata": {"key": f"row-{n}"}} for n, each in enumerate(requests)]
    body = {"batch": {"displayName": "t", "inputConfig": {"requests": {"requests": rows}}, **batch}}
    return call(emulator, "POST", f"models/{MODEL}:batchGenerateContent", json=body)


def test_inline_batch_through_the_sdk(emulator_of, version):
    """Create, poll to the end, read inline responses, list, delete."""
    emulator = emulator_of(progress=Progress.parse("polls:3"))
    client = client_of(emulator, version)
    inline = [types.InlinedRequest(contents="Say hello.", metadata={"key": f"row-{n}"}) for n in range(3)]
    job = client.batches.create(model=MODEL, src=inline, config={"display_name": "mine"})
    assert job.display_name == "mine"
    while not job.done:
        job = client.batches.get(name=job.name)
    assert job.state == types.JobState.JOB_STATE_SUCCEEDED
    raw = call(emulator, "GET", job.name, version).json()
    assert len(raw["response"]["inlinedResponses"]["inlinedResponses"]) == 3
    assert job.name in [each.name for each in client.batches.list()]
    client.batches.delete(name=job.name)
    with pytest.raises(errors.ClientError):
        client.batches.get(name=job.name)


def test_file_batch_through_the_sdk(emulator, tmp_path, version):
    """Resumable upload, batch over the file, download of the responses."""
    client = client_of(emulator, version)
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"key": f"k{n}", "request": REQUEST}) + "\n" for n in range(5)))
    file = client.files.upload(file=str(path), config={"display_name": "in", "mime_type": "application/jsonl"})
    assert file.size_bytes == path.stat().st_size
    assert client.files.get(name=file.name).name == file.name
    job = client.batches.create(model=MODEL, src=file.name)
    job = client.batches.get(name=job.name)
    content = client.files.download(file=job.dest.file_name)
    rows = [json.loads(line) for line in content.decode().split("\n") if line]
    assert [row["key"] for row in rows] == [f"k{n}" for n in range(5)]
    types.Candidate.model_validate(rows[0]["response"]["candidates"][0])
    client.files.delete(name=file.name)
    with pytest.raises(errors.ClientError):
        client.files.get(name=file.name)


def test_large_files_come_in_chunks(emulator, tmp_path):
    """20 MB are three chunks of the SDK."""
    client = client_of(emulator)
    path = tmp_path / "big.jsonl"
    path.write_bytes(b"x" * (20 << 20))
    file = client.files.upload(file=str(path), config={"mime_type": "application/jsonl"})
    assert emulator.state.files["gemini"][file.name].path.read_bytes() == path.read_bytes()


def test_counts_are_strings_and_zeros_are_absent(emulator_of):
    """int64 travels as text; done is absent until the end; results are in both places."""
    emulator = emulator_of(progress=Progress.parse("polls:2"))
    made = create_inline(emulator, REQUEST, REQUEST).json()
    assert made["metadata"]["state"] == "BATCH_STATE_PENDING"
    assert made["metadata"]["batchStats"] == {"requestCount": "2", "pendingRequestCount": "2"}
    running = call(emulator, "GET", made["name"]).json()
    assert running["metadata"]["state"] == "BATCH_STATE_RUNNING"
    assert "done" not in running
    done = call(emulator, "GET", made["name"]).json()
    assert done["done"] is True
    assert done["metadata"]["batchStats"] == {"requestCount": "2", "successfulRequestCount": "2"}
    assert done["metadata"]["output"]["inlinedResponses"] == done["response"]["inlinedResponses"]
    usage = done["response"]["inlinedResponses"]["inlinedResponses"][0]["response"]["usageMetadata"]
    assert usage["serviceTier"] == "standard"
    total = usage["promptTokenCount"] + usage["candidatesTokenCount"] + usage["thoughtsTokenCount"]
    assert usage["totalTokenCount"] == total
    listed = call(emulator, "GET", "batches").json()["operations"][0]
    assert "output" not in listed["metadata"]
    assert "response" not in listed


def test_structured_output_and_tools(emulator):
    """Both spellings of a schema are followed, and a forced function is called."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    google = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}, "required": ["n"]}
    json_mode = {"responseMimeType": "application/json"}
    made = create_inline(
        emulator,
        {**REQUEST, "generationConfig": {**json_mode, "responseJsonSchema": schema}},
        {**REQUEST, "generationConfig": {**json_mode, "responseSchema": google}},
        {
            **REQUEST,
            "tools": [{"functionDeclarations": [{"name": "f", "parameters": google}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        },
    ).json()
    rows = call(emulator, "GET", made["name"]).json()["response"]["inlinedResponses"]["inlinedResponses"]
    parts = [row["response"]["candidates"][0]["content"]["parts"][0] for row in rows]
    assert set(json.loads(parts[0]["text"])) == set(json.loads(parts[1]["text"])) == {"n"}
    assert (parts[2]["functionCall"]["name"], set(parts[2]["functionCall"]["args"])) == ("f", {"n"})


def test_embeddings_of_both_modes(emulator, tmp_path):
    """asyncBatchEmbedContent, inline and by file, with the SDK's snake case."""
    content = {"content": {"parts": [{"text": "hi"}]}, "outputDimensionality": 8}
    rows = [{"request": content, "metadata": {"key": "a"}}]
    body = {"batch": {"inputConfig": {"requests": {"requests": rows}}}}
    made = call(emulator, "POST", "models/gemini-embedding-001:asyncBatchEmbedContent", json=body).json()
    done = call(emulator, "GET", made["name"]).json()["response"]
    (row,) = done["inlinedEmbedContentResponses"]["inlinedResponses"]
    assert len(row["response"]["embedding"]["values"]) == 8
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"key": "a", "request": content}) + "\n")
    client = client_of(emulator)
    file = client.files.upload(file=str(path), config={"mime_type": "application/jsonl"})
    job = client.batches.create_embeddings(model="gemini-embedding-001", src={"file_name": file.name})
    done = call(emulator, "GET", job.name).json()
    lines = call(emulator, "GET", f"{done['response']['responsesFile']}:download?alt=media").text
    assert json.loads(lines)["response"]["tokenCount"] > 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"batch": {}},
        {"batch": {"inputConfig": {"requests": {"requests": []}}}},
        {"batch": {"inputConfig": {"requests": {"requests": [{"request": {}}]}}}},
        {"batch": {"inputConfig": {"requests": {"requests": [{"request": {"prompt": "x"}}]}}}},
        {"batch": {"inputConfig": {"requests": {"requests": [{"request": REQUEST, "extra": 1}]}}}},
        {"batch": {"unknownName": 1}},
        {"batch": {"inputConfig": {"requests": {"requests": [
            {"request": {**REQUEST, "generationConfig": {"max_tokens": 5}}}]}}}},
    ],
)  # fmt: skip
def test_malformed_creates_are_refused_whole(emulator, body):
    """One malformed inline row refuses the create; names that Google does not know are errors."""
    reply = call(emulator, "POST", f"models/{MODEL}:batchGenerateContent", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["status"] == "INVALID_ARGUMENT"
    assert emulator.state.creates["gemini"] == 0


@pytest.mark.parametrize("line", [b"{broken\n", b'{"request": {}}\n', b""])
def test_malformed_files_fail_the_batch(emulator, tmp_path, line):
    """A file is read after the create; a bad line fails the batch with an error."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(line)
    client = client_of(emulator)
    file = client.files.upload(file=str(path), config={"mime_type": "application/jsonl"})
    body = {"batch": {"inputConfig": {"fileName": file.name}}}
    made = call(emulator, "POST", f"models/{MODEL}:batchGenerateContent", json=body).json()
    done = call(emulator, "GET", made["name"]).json()
    assert (done["metadata"]["state"], done["done"]) == ("BATCH_STATE_FAILED", True)
    assert done["error"]["message"]


def test_errors_are_those_of_the_api(emulator):
    """A bad key is 400 API_KEY_INVALID; unknown models and batches are 404, and unknown files 403."""
    with pytest.raises(errors.ClientError, match="API key not valid") as caught:
        # Kept in a name: a client that is collected is closed.
        client = client_of(emulator, key="bad-key")
        client.batches.get(name="batches/x")
    assert caught.value.code == 400
    for method, path in (
        ("GET", "batches/nope"),
        ("GET", "models/unknown"),
        ("POST", "models/unknown:batchGenerateContent"),
        ("POST", "models/unknown:generateContent"),
    ):
        reply = call(emulator, method, path, json={} if method == "POST" else None)
        assert (reply.status_code, reply.json()["error"]["status"]) == (404, "NOT_FOUND")
    body = {"batch": {"inputConfig": {"fileName": "files/nope"}}}
    for method, path in (("GET", "files/nope"), ("POST", f"models/{MODEL}:batchGenerateContent")):
        reply = call(emulator, method, path, json=body if method == "POST" else None)
        assert (reply.status_code, reply.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


def test_inline_limit(emulator_of):
    """A create over the inline limit is refused."""
    emulator = emulator_of(gemini_max_inline_bytes=100)
    assert create_inline(emulator, REQUEST).status_code == 400


def test_cancel_and_expiry_have_no_results(emulator_of):
    """A canceled batch is done with an error; an expired one has no results."""
    emulator = emulator_of(progress=Progress.parse("polls:100"))
    name = create_inline(emulator, REQUEST).json()["name"]
    assert call(emulator, "POST", f"{name}:cancel").json() == {}
    done = call(emulator, "GET", name).json()
    assert (done["metadata"]["state"], done["error"]["code"]) == ("BATCH_STATE_CANCELLED", 13)
    assert "response" not in done
    assert call(emulator, "POST", f"{name}:cancel").status_code == 200


def test_failed_and_quota(emulator):
    """Failed batches carry an error; the queue's quota refuses a create."""
    emulator.state.faults.failed_batches = 1
    name = create_inline(emulator, REQUEST).json()["name"]
    assert call(emulator, "GET", name).json()["error"]["code"] == 13
    emulator.state.faults.token_limit_exceeded = 1
    reply = create_inline(emulator, REQUEST)
    assert (reply.status_code, reply.json()["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")


def test_uploads_are_strict(emulator):
    """Offsets, chunk sizes, unknown uploads, expired files and downloads of uploads are checked."""
    start = {**HEADERS, "x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
    address = f"{emulator.url}/upload/v1beta/files"
    assert httpx.post(address, headers={**start, "x-goog-upload-protocol": "raw"}, json={}).status_code == 400
    url = httpx.post(address, headers=start, json={"file": {"displayName": "d"}}).headers["x-goog-upload-url"]
    assert url.startswith(emulator.url)

    def send(command, offset, content):
        headers = {**HEADERS, "x-goog-upload-command": command, "x-goog-upload-offset": str(offset)}
        return httpx.post(url, headers=headers, content=content)

    assert send("upload", 5, b"x").status_code == 400
    assert send("upload", 0, b"x" * 1000).status_code == 400
    query = send("query", 0, b"")
    assert query.headers["x-goog-upload-size-received"] == "1000"
    final = send("upload, finalize", 1000, b"rest")
    assert (final.status_code, final.headers["x-goog-upload-status"]) == (200, "final")
    assert send("upload", 1004, b"").status_code == 404
    name = final.json()["file"]["name"]
    assert call(emulator, "GET", f"{name}:download?alt=media").status_code == 400
    assert call(emulator, "GET", f"{name}:download").status_code == 400
    assert name in [file["name"] for file in call(emulator, "GET", "files").json()["files"]]


def test_lists_are_paged(emulator):
    """By page token; the SDK walks all pages."""
    names = [create_inline(emulator, REQUEST).json()["name"] for _ in range(5)]
    page = call(emulator, "GET", "batches?pageSize=2").json()
    assert len(page["operations"]) == 2
    assert page["nextPageToken"]
    client = client_of(emulator)
    assert {job.name for job in client.batches.list(config={"page_size": 2})} == set(names)
    assert [model.name for model in client.models.list()]


def test_synchronous_calls(emulator):
    """generateContent and embedContent answer directly."""
    client = client_of(emulator)
    assert client.models.generate_content(model=MODEL, contents="hi").text
    with pytest.raises(errors.ClientError):
        client.models.generate_content(model="unknown", contents="hi")
    assert call(emulator, "POST", f"models/{MODEL}:generateContent", json={}).status_code == 400
