"""Schemas, inputs and options at the edges: refused in the provider's way or answered, never a crash."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile

import httpx
import jsonschema
import msgspec
import pytest

from airflow_raif.emulator.answers import Draw, SchemaAnswers
from airflow_raif.emulator.faults import Faults, parse_faults
from airflow_raif.emulator.patterns import compile_pattern
from airflow_raif.emulator.schema_rules import malformed
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import Progress

SCHEMAS = [
    {"type": "integer", "minimum": 2.5, "maximum": 3.5},
    {"type": "integer", "exclusiveMinimum": 2.5, "exclusiveMaximum": 3.5},
    {"type": "integer", "minimum": -7, "maximum": -5, "multipleOf": 5},
    {"type": "integer", "multipleOf": 0.5},
    {"type": "integer", "maximum": 0},
    {"type": "number", "maximum": -5.5},
    {"type": "number", "multipleOf": 0.25, "exclusiveMinimum": 1, "maximum": 2},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.0005},
    {"type": "number", "minimum": 7, "maximum": 7},
    {"type": "string", "maxLength": 0},
    {"type": "string", "maxLength": 5, "minLength": 5},
    {"type": "string", "pattern": "^[A-Z]{3}-\\d{2,}$"},
    {"anyOf": [{"type": "number"}, {"type": "string", "pattern": "^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$"}]},
    {"type": "array"},
    {"type": "array", "maxItems": 0, "items": {"type": "string"}},
    {"type": "array", "prefixItems": [{"type": "integer"}], "minItems": 3},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}, "minItems": 3},
    {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "maxItems": 9},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    {"type": "object", "additionalProperties": {"type": "integer"}, "required": ["x"]},
    {"type": "object", "properties": {"a": True, "b": {}}, "required": ["a", "b"]},
    {"type": ["object", "null"], "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "anyOf": [{"properties": {"b": {"type": "integer"}}, "required": ["b"]}, {"required": ["c"]}],
    },
    {
        "type": "object",
        "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["kids"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
        "additionalProperties": False,
    },
    {"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/y"}, "y": {"type": "integer"}}},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_an_answer_is_valid_by_its_schema(schema):
    """Narrow ranges, maps, siblings of branches, patterns and schemas that hold themselves are followed."""
    raw = msgspec.json.encode(schema)
    assert malformed(raw) is None
    answers = SchemaAnswers()
    validator = jsonschema.Draft202012Validator(schema)
    for seed in range(60):
        validator.validate(answers.answer(raw, Draw(seed)))


def test_a_multiple_is_exact():
    """Multiples of a tenth read as such, though no binary number is one."""
    answers = SchemaAnswers()
    raw = b'{"type": "number", "multipleOf": 0.1, "minimum": 0, "maximum": 1}'
    assert {answers.answer(raw, Draw(seed)) for seed in range(200)} == {n / 10 for n in range(11)}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "ARRAY", "items": {"type": "INTEGER"}, "minItems": "2", "maxItems": "2"}, 2),
        ({"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}, 2),
    ],
)
def test_other_dialects_of_schemas_are_read(schema, expected):
    """Google's capitals and texts for counts, and the lists of items of older drafts."""
    for seed in range(20):
        value = SchemaAnswers().answer(msgspec.json.encode(schema), Draw(seed))
        assert len(value) == expected
        assert isinstance(value[0], int)


def test_a_schema_of_nothing_but_itself_ends():
    """A reference to itself or to nothing is answered with something."""
    for schema in ({"$ref": "#"}, {"$ref": "#/$defs/none"}, {"$ref": "#/$defs/a/b", "$defs": {"a": True}}):
        SchemaAnswers().answer(msgspec.json.encode(schema), Draw(1))


def test_many_schemas_are_not_kept_for_ever():
    """The compiled schemas are bounded."""
    answers = SchemaAnswers()
    for number in range(600):
        assert answers.answer(msgspec.json.encode({"const": number}), Draw(0)) == number
    assert len(answers._generators) <= 257


PATTERNS = [
    "a|bc|[x-z]+",
    "[^a-z ]{2}",
    "\\w+@\\w+\\.com",
    "(\\d)?.\\D\\S\\W\\s",
    "[^a]",
    "^a{2,3}?$",
    "(?:ab)*+c",
    "a.c",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_text_matches_its_pattern(pattern):
    """Classes, repeats, branches and groups are followed."""
    make = compile_pattern(pattern)
    for seed in range(50):
        assert re.search(pattern, make(Draw(seed).below))


def test_a_pattern_that_is_none_is_left_out():
    """Another dialect's pattern gives some text."""
    assert compile_pattern("(") is None
    assert isinstance(SchemaAnswers().answer(b'{"type": "string", "pattern": "("}', Draw(1)), str)


@pytest.mark.parametrize(
    "schema",
    [
        "text", 5, [1], {"properties": []}, {"properties": {"a": 5}}, {"required": None}, {"required": [1]},
        {"anyOf": {}}, {"enum": "abc"}, {"type": 3}, {"items": 5}, {"minimum": "x"}, {"$defs": []}, {"minItems": 1.5},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_what_is_no_schema_is_a_row_error(emulator, schema):
    """Each provider refuses the request alone; nothing else breaks."""
    assert malformed(msgspec.json.encode(schema))
    for url, headers, body in _calls(schema):
        reply = httpx.post(emulator.url + url, headers=headers, json=body)
        assert reply.status_code == 400, url
        assert "schema" in reply.text.lower()


def _calls(schema):
    openai, gemini = {"authorization": "Bearer x"}, {"x-goog-api-key": "x"}
    anthropic = {"x-api-key": "x", "anthropic-version": "2023-06-01"}
    model, messages = "gpt-5-nano", [{"role": "user", "content": "x"}]
    named = {"type": "json_schema", "name": "n", "schema": schema}
    yield "/v1/responses", openai, {"model": model, "input": "x", "text": {"format": named}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    yield (
        "/v1/chat/completions", openai,
        {"model": model, "messages": messages, "tools": tools, "tool_choice": "required"},
    )  # fmt: skip
    params = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": messages}
    output = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    yield "/v1/messages", anthropic, {**params, **output}
    tool = {"tools": [{"name": "f", "input_schema": schema}], "tool_choice": {"type": "any"}}
    yield "/v1/messages", anthropic, {**params, **tool}
    config = {"responseMimeType": "application/json", "responseJsonSchema": schema}
    contents = {"contents": [{"parts": [{"text": "x"}]}]}
    yield "/v1beta/models/gemini-2.5-flash:generateContent", gemini, {**contents, "generationConfig": config}


# Gemini's and OpenAI's odd inputs


@pytest.fixture
def google(emulator):
    with httpx.Client(base_url=emulator.url, headers={"x-goog-api-key": "good"}, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("path", ["batches", "files"])
@pytest.mark.parametrize("query", ["pageToken=abc", "pageToken=²", "pageSize=0", "pageSize=x", "pageSize=²"])
def test_a_wrong_page_is_refused(google, path, query):
    """A token that no page gave, or a size that is none, is an invalid argument."""
    reply = google.get(f"/v1beta/{path}?{query}")
    assert (reply.status_code, reply.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    "body",
    [
        {"generation_config": {"response_mime_type": "application/json", "response_schema": {
            "type": "object", "properties": {"first_name": {"type": "string"}}, "required": ["first_name"]}}},
        {"tools": [{"function_declarations": [{"name": "f", "parameters": {
            "type": "object", "properties": {"first_name": {"type": "string"}}, "required": ["first_name"]}}]}],
         "tool_config": {"function_calling_config": {"mode": "ANY"}}},
    ],
    ids=["schema", "tool"],
)  # fmt: skip
def test_names_of_protocol_buffers_are_read_too(google, body):
    """Google's own examples of request files have them; those of a schema are the user's."""
    reply = google.post(
        "/v1beta/models/gemini-2.5-flash:generateContent", json={"contents": [{"parts": [{"text": "x"}]}], **body}
    )
    (part,) = reply.json()["candidates"][0]["content"]["parts"]
    found = part["functionCall"]["args"] if "tools" in body else json.loads(part["text"])
    assert list(found) == ["first_name"]


def _upload(google, content, **names):
    headers = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
    start = google.post("/upload/v1beta/files", headers=headers, json={"file": names})
    headers = {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0"}
    return google.post(start.headers["x-goog-upload-url"], headers=headers, content=content)


def test_a_wrong_upload_is_refused(google):
    """A start that is no description of a file, and an offset that is no number."""
    headers = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
    for body in (["x"], {"file": "x"}):
        assert google.post("/upload/v1beta/files", headers=headers, json=body).status_code == 400
    url = google.post("/upload/v1beta/files", headers=headers, json={}).headers["x-goog-upload-url"]
    headers = {"x-goog-upload-command": "upload", "x-goog-upload-offset": "x"}
    assert google.post(url, headers=headers, content=b"x").status_code == 400


def test_an_address_comes_from_the_host_header(emulator, google):
    """Behind another name, uploads, files and results are found under that name."""
    headers = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start", "host": "batch.example:99"}
    start = google.post("/upload/v1beta/files", headers=headers, json={})
    assert start.headers["x-goog-upload-url"].startswith("http://batch.example:99/upload/v1beta/files?upload_id=")
    name = _upload(google, b"x").json()["file"]["name"]
    shown = google.get(f"/v1beta/{name}", headers={"host": "batch.example:99"}).json()
    assert shown["uri"] == f"http://batch.example:99/v1beta/{name}"
    headers = {"x-api-key": "good", "anthropic-version": "2023-06-01"}
    params = {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    body = {"requests": [{"custom_id": "a", "params": params}]}
    made = httpx.post(f"{emulator.url}/v1/messages/batches", headers=headers, json=body).json()
    headers["host"] = "batch.example:99"
    shown = httpx.get(f"{emulator.url}/v1/messages/batches/{made['id']}", headers=headers).json()
    assert shown["results_url"] == f"http://batch.example:99/v1/messages/batches/{made['id']}/results"


def test_files_too_large_or_too_old_are_gone(emulator_of):
    """Gemini refuses large uploads and forgets all after 48 hours."""
    now = [1_790_000_000.0]
    emulator = emulator_of(gemini_max_file_bytes=10, clock=lambda: now[0])
    with httpx.Client(base_url=emulator.url, headers={"x-goog-api-key": "good"}) as google:
        assert _upload(google, b"x" * 11).status_code == 400
        made = _upload(google, b"x", displayName="notes").json()["file"]
        assert (made["displayName"], made["sizeBytes"]) == ("notes", "1")
        now[0] += 48 * 3600 + 1
        assert google.get(f"/v1beta/{made['name']}").status_code == 403


def test_uploads_are_listed_in_pages(google):
    """Pages hold what was asked for; the last has no token."""
    names = [_upload(google, b"x").json()["file"]["name"] for _ in range(3)]
    first = google.get("/v1beta/files?pageSize=2").json()
    last = google.get("/v1beta/files", params={"pageSize": 2, "pageToken": first["nextPageToken"]}).json()
    assert [file["name"] for file in first["files"] + last["files"]] == names
    assert "nextPageToken" not in last


def test_a_gemini_batch_keeps_its_input_and_forgets_its_output(emulator_of):
    """Deleting the input does not break a running batch; deleting the batch deletes its output."""
    emulator = emulator_of(progress=Progress("polls", 2))
    with httpx.Client(base_url=emulator.url, headers={"x-goog-api-key": "good"}) as google:
        line = {"key": "a", "request": {"contents": [{"parts": [{"text": "x"}]}]}}
        name = _upload(google, json.dumps(line).encode()).json()["file"]["name"]
        body = {"batch": {"input_config": {"file_name": name}, "display_name": "d", "priority": "7"}}
        made = google.post("/v1/models/gemini-2.5-pro:batchGenerateContent", json=body).json()
        assert made["metadata"]["displayName"] == "d"
        assert google.delete(f"/v1/{name}").json() == {}
        assert "done" not in google.get(f"/v1/{made['name']}").json()
        done = google.get(f"/v1/{made['name']}").json()
        output = f"/download/v1/{done['response']['responsesFile']}:download?alt=media"
        assert json.loads(google.get(output).content)["key"] == "a"
        assert google.delete(f"/v1/{made['name']}").json() == {}
        assert google.get(output).status_code == 404


def test_a_gemini_batch_expires_after_48_hours(emulator_of):
    """There are no results then, and nothing but the state says why."""
    now = [1_790_000_000.0]
    emulator = emulator_of(progress=Progress("seconds", 1e6), clock=lambda: now[0])
    with httpx.Client(base_url=emulator.url, headers={"x-goog-api-key": "good"}) as google:
        row = {"request": {"contents": [{"parts": [{"text": "x"}]}]}}
        body = {"batch": {"inputConfig": {"requests": {"requests": [row]}}}}
        made = google.post("/v1beta/models/gemini-2.5-flash:batchGenerateContent", json=body).json()
        now[0] += 48 * 3600 - 1
        assert google.get(f"/v1beta/{made['name']}").json()["metadata"]["state"] == "BATCH_STATE_RUNNING"
        now[0] += 1
        shown = google.get(f"/v1beta/{made['name']}").json()
    assert (shown["metadata"]["state"], shown["done"]) == ("BATCH_STATE_EXPIRED", True)
    assert shown.keys() == {"name", "metadata", "done"}


@pytest.mark.parametrize("metadata", ["text", 5, [1]])
def test_metadata_of_a_row_is_an_object(google, metadata):
    """Anything else refuses the create."""
    row = {"request": {"contents": [{"parts": [{"text": "x"}]}]}, "metadata": metadata}
    body = {"batch": {"inputConfig": {"requests": {"requests": [row]}}}}
    reply = google.post("/v1beta/models/gemini-2.5-flash:batchGenerateContent", json=body)
    assert reply.status_code == 400
    assert "metadata" in reply.json()["error"]["message"]


@pytest.mark.parametrize("body", [{"input_file_id": ["x"]}, {"input_file_id": "x", "endpoint": {"a": 1}}])
def test_a_create_with_wrong_types_is_refused(emulator, body):
    """OpenAI's create wants texts."""
    reply = httpx.post(f"{emulator.url}/v1/batches", headers={"authorization": "Bearer x"}, json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_type")


def test_a_batch_does_not_stream(emulator):
    """A request for a stream is an errored row at Anthropic."""
    headers = {"x-api-key": "good", "anthropic-version": "2023-06-01"}
    params = {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    body = {"requests": [{"custom_id": "a", "params": {**params, "stream": True}}]}
    made = httpx.post(f"{emulator.url}/v1/messages/batches", headers=headers, json=body).json()
    shown = httpx.get(f"{emulator.url}/v1/messages/batches/{made['id']}", headers=headers).json()
    assert shown["request_counts"]["errored"] == 1


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--progress", "polls:x"], "progress must be immediate, polls:N or seconds:N"),
        (["--progress", "seconds:-1"], "progress must be"),
        (["--progress", "seconds:nan"], "progress must be"),
        (["--port", "99999"], "'99999' is no number from 0 to 65535"),
        (["--port", "x"], "'x' is no number"),
        (["--record", "/nowhere/at/all.json"], "there is no directory /nowhere/at"),
        (["--fault", "missing=many"], "fault missing: 'many' is not JSON"),
        (["--fault", "openai.batches.create"], "fault openai.batches.create: '' is not JSON"),
        (["--fault", "openai.batches.create=700"], "<= 599"),
        (["--fault", "expire_after=2"], "<= 1.0"),
        (["--fault", "shuffle=3"], "`bool`"),
    ],
)
def test_the_command_line_names_what_is_wrong(capsys, arguments, message):
    """Each wrong option ends with one clear line."""
    from airflow_raif.emulator.__main__ import main

    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_faults_add_up_on_the_command_line():
    """Lists grow with each option; a knob's last value holds."""
    faults = parse_faults(["errored", "missing=0.5", "expire_after=0.1", "expire_after=0.2", "*=500:-1"])
    assert [(row.kind, row.fraction) for row in faults.rows] == [("errored", 1.0), ("missing", 0.5)]
    assert faults.expire_after == 0.2
    assert faults.take_http("gemini.batches.get") is faults.take_http("openai.files.create")


def test_counted_faults_are_used_up():
    """A count strikes so often; a negative one for ever."""
    faults = Faults(failed_batches=2, token_limit_exceeded=-1)
    assert [faults.take_count("failed_batches") for _ in range(3)] == [True, True, False]
    assert all(faults.take_count("token_limit_exceeded") for _ in range(5))


def test_a_taken_port_leaves_nothing_behind(monkeypatch, tmp_path):
    """The error comes from the start, and the scratch folder is gone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        server = EmulatorServer(port=holder.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            server.start()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_the_command_well(tmp_path, repository):
    """Ctrl-C and SIGTERM alike end it with 0, and its scratch folder is gone."""
    with subprocess.Popen(
        [sys.executable, "-m", "airflow_raif.emulator", "--port", "0"],
        stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(tmp_path), "PYTHONPATH": str(repository)},
    ) as process:  # fmt: skip
        printed = [process.stdout.readline() for _ in range(4)]
        assert "OPENAI_BASE_URL=http://127.0.0.1:" in printed[1]
        assert printed[1].rstrip().endswith("/v1")
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(2)
        assert process.wait(20) == 0
    assert list(tmp_path.iterdir()) == []
