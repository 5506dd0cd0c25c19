"""The official OpenAI SDK drives the emulator."""

from __future__ import annotations

import json
import math

import pytest

from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.emulator.settings import Progress
from tests.contract.emulator.clients import DAY, Clock, lines, openai_client, rows_of

openai = pytest.importorskip("openai")

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
BODIES = {
    CHAT: {"messages": [{"role": "user", "content": "Name a color"}]},
    RESPONSES: {"input": "Name a color"},
    EMBEDDINGS: {"input": "a color"},
}


def line(custom_id, endpoint=CHAT, model="gpt-5-nano", **body):
    model = "text-embedding-3-small" if endpoint == EMBEDDINGS and model == "gpt-5-nano" else model
    body = {"model": model, **BODIES[endpoint], **body}
    return {"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body}


@pytest.fixture
def client(emulator):
    with openai_client(emulator.url) as opened:
        yield opened


def upload(client, *rows):
    return client.files.create(file=("in.jsonl", lines(*rows)), purpose="batch")


def start(client, *rows, endpoint=CHAT, **values):
    file = upload(client, *rows)
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **values)


def results(client, file_id):
    return rows_of(client.files.content(file_id).read())


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES, EMBEDDINGS])
def test_a_batch_lives_from_upload_to_results(client, emulator, endpoint):
    """Every endpoint answers every row with a body of its own type, and the batch counts rows and tokens."""
    file = upload(client, *(line(f"row {n} é漢", endpoint) for n in range(3)))
    assert (file.object, file.purpose, file.filename, file.status) == ("file", "batch", "in.jsonl", "processed")
    assert file.bytes == len(client.files.content(file.id).read())
    batch = client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"batch": "b1", "part": "0"}
    )
    assert (batch.status, batch.metadata, batch.model) == ("validating", {"batch": "b1", "part": "0"}, None)
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (0, 0, 0)
    assert batch.usage.total_tokens == 0
    assert batch.expires_at == batch.created_at + DAY
    batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.error_file_id, batch.errors) == ("completed", None, None)
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (3, 3, 0)
    assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    found = results(client, batch.output_file_id)
    assert sorted(row["custom_id"] for row in found) == [f"row {n} é漢" for n in range(3)]
    assert {row["response"]["status_code"] for row in found} == {200}
    usages = [row["response"]["body"]["usage"] for row in found]
    assert batch.usage.total_tokens == sum(usage["total_tokens"] for usage in usages) > 0
    kinds = {CHAT: "chat.completion", RESPONSES: "response", EMBEDDINGS: "list"}
    assert {row["response"]["body"]["object"] for row in found} == {kinds[endpoint]}
    if endpoint != EMBEDDINGS:
        assert batch.model == found[0]["response"]["body"]["model"] == "gpt-5-nano-2025-08-07"
    assert emulator.state.creates["openai"] == emulator.state.uploads["openai"] == 1


def test_batches_are_listed_newest_first_in_pages(client):
    """The cursor walks all batches once, from the newest to the oldest."""
    made = [start(client, line("a")).id for _ in range(5)]
    page = client.batches.list(limit=2)
    assert (len(page.data), page.has_more) == (2, True)
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    last = client.batches.list(limit=2, after=made[1])
    assert ([batch.id for batch in last.data], last.has_more) == ([made[0]], False)
    assert client.batches.list(after=made[0]).data == []
    for wrong in ({"limit": 0}, {"limit": 101}, {"after": "batch_none"}):
        with pytest.raises(openai.BadRequestError):
            client.batches.list(**wrong)


def test_files_are_listed_by_purpose_shown_and_deleted(client):
    """A deleted file is gone from every route."""
    kept, gone = upload(client, line("a")), upload(client, line("b"))
    client.files.create(file=("notes.txt", b"x"), purpose="user_data")
    assert [file.id for file in client.files.list(purpose="batch")] == [gone.id, kept.id]
    assert len(list(client.files.list())) == 3
    assert client.files.retrieve(kept.id).filename == "in.jsonl"
    assert client.files.delete(gone.id).deleted is True
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            ask(gone.id)


def test_an_output_file_has_its_own_purpose(client):
    """Result files are the batch's output and live for 30 days."""
    batch = client.batches.retrieve(start(client, line("a")).id)
    file = client.files.retrieve(batch.output_file_id)
    assert (file.purpose, file.expires_at - file.created_at) == ("batch_output", 30 * DAY)
    assert file.filename == f"{batch.id}_output.jsonl"


def test_a_deleted_input_file_does_not_break_a_running_batch(emulator_of):
    """The input may be deleted once the batch exists."""
    with openai_client(emulator_of(progress=Progress("polls", 2)).url) as client:
        batch = start(client, line("a"))
        client.files.delete(batch.input_file_id)
        client.batches.retrieve(batch.id)
        assert client.batches.retrieve(batch.id).request_counts.completed == 1


@pytest.mark.parametrize("key", ["bad-key", "bad"])
def test_a_wrong_key_is_refused_everywhere(emulator, key):
    """A wrong key is 401 with OpenAI's own code."""
    with openai_client(emulator.url, key) as client:
        for call in (client.batches.list, client.models.list, lambda: upload(client, line("a"))):
            with pytest.raises(openai.AuthenticationError) as caught:
                call()
            assert caught.value.code == "invalid_api_key"
    assert emulator.state.uploads["openai"] == 0


def test_an_unknown_batch_is_not_found(client):
    """Retrieve and cancel of an id that never was are 404."""
    for call in (client.batches.retrieve, client.batches.cancel):
        with pytest.raises(openai.NotFoundError, match="No batch found with id 'batch_none'"):
            call("batch_none")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"endpoint": "/v1/moderation"}, "endpoint"),
        ({"completion_window": "48h"}, "completion_window"),
        ({"input_file_id": "file-none"}, "Invalid file id"),
        ({"input_file_id": ""}, "Missing required parameter: 'input_file_id'"),
        ({"metadata": {f"k{n}": "v" for n in range(17)}}, "at most 16"),
        ({"metadata": {"k": "v" * 513}}, "too long"),
        ({"metadata": {"k" * 65: "v"}}, "too long"),
    ],
)
def test_a_wrong_create_is_refused(client, emulator, values, match):
    """What the create itself has wrong is 400 at once, and nothing is made."""
    given = {"input_file_id": upload(client, line("a")).id, "endpoint": CHAT, "completion_window": "24h", **values}
    with pytest.raises(openai.BadRequestError, match=match):
        client.batches.create(**given)
    assert emulator.state.creates["openai"] == 0


def test_a_file_of_another_purpose_is_no_input(client):
    """Only a file with the purpose ``batch`` makes a batch."""
    file = client.files.create(file=("in.jsonl", lines(line("a"))), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


@pytest.mark.parametrize(
    ("rows", "code", "number"),
    [
        ([line("a"), '{"custom_id": '], "invalid_json_line", 2),
        (["[1, 2]"], "missing_required_parameter", 1),
        ([{"custom_id": "a", "method": "POST", "url": CHAT}], "missing_required_parameter", 1),
        ([{**line("a"), "custom_id": ""}], "missing_required_parameter", 1),
        ([line("a"), line("b"), line("a")], "duplicate_custom_id", 3),
        ([{**line("a"), "method": "GET"}], "invalid_method", 1),
        ([line("a", RESPONSES)], "invalid_url", 1),
        ([line("a", model="no-such-model")], "model_not_found", 1),
        ([line("a", model="")], "missing_required_parameter", 1),
        ([line("a"), line("b", model="gpt-5-mini")], "mismatched_model", 2),
        ([line("a", stream=True)], "streaming_unsupported", 1),
        ([line("a", model=5)], "invalid_request", 1),
        ([], "empty_batch", None),
        (["", "  "], "empty_batch", None),
    ],
)
def test_the_first_bad_line_fails_the_whole_batch(client, rows, code, number):
    """A file that does not pass the check fails the batch with code and line, and zero counts."""
    batch = client.batches.retrieve(start(client, *rows).id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    [error] = batch.errors.data
    assert (error.code, error.line) == (code, number)
    assert (batch.request_counts.total, batch.request_counts.failed) == (0, 0)
    assert batch.failed_at
    assert batch.completed_at is None


def test_rows_and_bytes_have_limits(emulator_of):
    """A file beyond the limits fails the batch as a whole."""
    emulator = emulator_of(openai_max_rows=2, openai_max_bytes=2000)
    with openai_client(emulator.url) as client:
        assert client.batches.retrieve(start(client, line("a"), line("b")).id).status == "completed"
        many = client.batches.retrieve(start(client, *(line(f"{n}") for n in range(3))).id)
        assert many.errors.data[0].code == "too_many_tasks"
        large = client.batches.retrieve(start(client, line("a", user="x" * 2000)).id)
        assert "200 MB" in large.errors.data[0].message


def test_a_batch_has_at_most_50_000_embedding_inputs(client):
    """Inputs count one by one; a list of numbers is one tokenised input."""
    many = start(client, line("a", EMBEDDINGS, input=["x"] * 50_001), endpoint=EMBEDDINGS)
    assert "50,000" in client.batches.retrieve(many.id).errors.data[0].message
    few = start(client, line("a", EMBEDDINGS, input=[7] * 50_001, dimensions=4), endpoint=EMBEDDINGS)
    few = client.batches.retrieve(few.id)
    [row] = results(client, few.output_file_id)
    assert row["response"]["body"]["usage"]["prompt_tokens"] == 50_001


def test_progress_by_polls(emulator_of):
    """A batch is validating, in progress with live counts, finalizing and completed as it is looked at."""
    with openai_client(emulator_of(progress=Progress("polls", 4)).url) as client:
        batch = start(client, *(line(f"{n}") for n in range(8)))
        seen = [client.batches.retrieve(batch.id) for _ in range(5)]
    assert [one.status for one in seen] == ["validating", "in_progress", "finalizing", "completed", "completed"]
    assert [one.request_counts.total for one in seen] == [0, 8, 8, 8, 8]
    assert [one.request_counts.completed for one in seen] == [0, 4, 6, 8, 8]
    assert [one.usage.total_tokens > 0 for one in seen] == [False, False, False, True, True]
    assert all(one.output_file_id is None for one in seen[:3])


def test_progress_by_seconds_of_an_injected_clock(emulator_of):
    """Only the clock moves the batch; its times are the clock's."""
    clock = Clock()
    with openai_client(emulator_of(progress=Progress("seconds", 100), clock=clock).url) as client:
        batch = start(client, line("a"))
        assert [client.batches.retrieve(batch.id).status for _ in range(3)] == ["validating"] * 3
        clock.now += 50
        assert client.batches.retrieve(batch.id).status == "in_progress"
        clock.now += 50
        batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.completed_at - batch.created_at) == ("completed", 100)


def test_a_batch_expires_with_its_window(emulator_of):
    """After 24 hours what is done is in the output file, the rest in the error file as ``batch_expired``."""
    clock = Clock()
    with openai_client(emulator_of(progress=Progress("seconds", 2 * DAY), clock=clock).url) as client:
        batch = start(client, *(line(f"{n}") for n in range(4)))
        clock.now += DAY
        batch = client.batches.retrieve(batch.id)
        assert (batch.status, batch.expired_at) == ("expired", int(clock.now))
        assert (batch.request_counts.total, batch.request_counts.completed) == (4, 2)
        assert [row["custom_id"] for row in results(client, batch.output_file_id)] == ["0", "1"]
        rest = results(client, batch.error_file_id)
    assert [(row["custom_id"], row["response"], row["error"]["code"]) for row in rest] == [
        ("2", None, "batch_expired"),
        ("3", None, "batch_expired"),
    ]


def test_a_cancel_keeps_what_is_done(emulator_of):
    """Cancel passes through ``cancelling`` and ends with partial files."""
    emulator = emulator_of(progress=Progress("polls", 4))
    with openai_client(emulator.url) as client:
        batch = start(client, *(line(f"{n}") for n in range(4)))
        client.batches.retrieve(batch.id)
        client.batches.retrieve(batch.id)
        batch = client.batches.cancel(batch.id)
        assert (batch.status, batch.output_file_id) == ("cancelling", None)
        assert client.batches.cancel(batch.id).status == "cancelling"
        batch = client.batches.retrieve(batch.id)
        assert batch.status == "cancelled"
        assert batch.cancelling_at <= batch.cancelled_at
        assert len(results(client, batch.output_file_id)) == 2
        assert {row["error"]["code"] for row in results(client, batch.error_file_id)} == {"batch_cancelled"}
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch.id)


@pytest.mark.parametrize(("rows", "status"), [([line("a")], "cancelling"), ([], "failed")])
def test_a_cancel_while_validating(emulator_of, rows, status):
    """A batch may be canceled before it runs: nothing was done, so there is no output file."""
    with openai_client(emulator_of(progress=Progress("polls", 9)).url) as client:
        batch = client.batches.cancel(start(client, *rows).id)
        assert batch.status == status
        batch = client.batches.retrieve(batch.id)
        assert batch.output_file_id is None
        assert batch.status == ("cancelled" if rows else "failed")


@pytest.mark.parametrize(("share", "output", "errors"), [(0.0, 0, 4), (0.5, 2, 2), (1.0, 4, 0)])
def test_file_ids_are_null_where_there_is_nothing(emulator, client, share, output, errors):
    """A cancel leaves a mix; a file without rows has no id."""
    emulator.state.faults.cancel_after = share
    batch = client.batches.retrieve(start(client, *(line(f"{n}") for n in range(4))).id)
    assert batch.status == "cancelled"
    assert batch.cancelling_at
    found = [file_id and len(results(client, file_id)) for file_id in (batch.output_file_id, batch.error_file_id)]
    assert found == [output or None, errors or None]


def test_a_batch_whose_rows_all_fail_is_completed_without_an_output_file(emulator, client):
    """Row failures are in the error file with status and body; ``completed`` says nothing about rows."""
    emulator.state.faults.rows.append(RowFault(kind="errored", fraction=1))
    batch = client.batches.retrieve(start(client, line("a"), line("b")).id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 2)
    rows = results(client, batch.error_file_id)
    assert {row["response"]["status_code"] for row in rows} == {400}
    assert rows[0]["response"]["body"]["error"]["type"] == "invalid_request_error"
    assert rows[0]["error"] is None


def test_a_missing_input_is_a_row_error(client):
    """What only the endpoint finds out fails the row, not the batch."""
    batch = client.batches.retrieve(start(client, line("a"), line("b", messages=[]), line("c")).id)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 2, 1)
    [row] = results(client, batch.error_file_id)
    assert (row["custom_id"], row["response"]["status_code"]) == ("b", 400)


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
@pytest.mark.parametrize("strict", [True, False, None])
def test_only_strict_mode_refuses_a_schema(client, endpoint, strict):
    """A schema outside of strict mode's subset fails its row with 400 if the request asks for strict mode."""
    schema = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}
    named = {"name": "answer", "schema": schema, **({} if strict is None else {"strict": strict})}
    asked = (
        {"response_format": {"type": "json_schema", "json_schema": named}}
        if endpoint == CHAT
        else {"text": {"format": {"type": "json_schema", **named}}}
    )
    batch = client.batches.retrieve(start(client, line("a", endpoint, **asked), endpoint=endpoint).id)
    assert batch.status == "completed"
    if not strict:
        assert batch.error_file_id is None
        return
    [row] = results(client, batch.error_file_id)
    error = row["response"]["body"]["error"]
    assert (row["response"]["status_code"], error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith("Invalid schema for response_format 'answer'")
    assert "'additionalProperties' is required" in error["message"]


def test_a_strict_schema_of_the_subset_is_answered(client):
    """A strict answer holds every property and no other."""
    properties = {"color": {"type": "string", "enum": ["red", "blue"]}, "shade": {"type": ["integer", "null"]}}
    schema = {
        "type": "object", "properties": properties, "required": ["color", "shade"], "additionalProperties": False,
    }  # fmt: skip
    reply = client.chat.completions.create(
        model="gpt-5-nano",
        messages=[{"role": "user", "content": "Pick"}],
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}},
    )
    assert json.loads(reply.choices[0].message.content).keys() == {"color", "shade"}


def test_a_forced_function_is_called(client):
    """A forced function comes back as a call with arguments of its schema, on both endpoints."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "weather", "parameters": schema}
    chat = client.chat.completions.create(
        model="gpt-5-nano",
        messages=[{"role": "user", "content": "Weather?"}],
        tools=[{"type": "function", "function": {"name": "other"}}, {"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    assert chat.choices[0].finish_reason == "tool_calls"
    [call] = chat.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments).keys() == {"city"}
    reply = client.responses.create(
        model="gpt-5-nano", input="Weather?", tools=[{"type": "function", **function}], tool_choice="required"
    )
    [call] = [item for item in reply.output if item.type == "function_call"]
    assert json.loads(call.arguments).keys() == {"city"}


def test_an_answer_is_cut_at_the_limit_of_tokens(client):
    """A cut answer says so in the way of its endpoint."""
    chat = client.chat.completions.create(
        model="gpt-4.1-mini", messages=[{"role": "user", "content": "Speak"}], max_completion_tokens=2
    )
    assert (chat.choices[0].finish_reason, chat.usage.completion_tokens) == ("length", 2)
    assert chat.usage.completion_tokens_details.reasoning_tokens == 0
    reply = client.responses.create(model="gpt-5-nano", input="Speak", max_output_tokens=2)
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert reply.usage.output_tokens > reply.usage.output_tokens_details.reasoning_tokens > 0


def test_embeddings_have_the_asked_size_and_encoding(client):
    """Vectors are of about unit length, equal for equal inputs, and the SDK reads base64 and lists alike."""
    both = client.embeddings.create(model="text-embedding-3-small", input=["a", "b", "a"], dimensions=8)
    first, second, third = (one.embedding for one in both.data)
    assert len(first) == 8
    assert first == third != second
    listed = client.embeddings.create(model="text-embedding-3-small", input="a", dimensions=8, encoding_format="float")
    assert listed.data[0].embedding == pytest.approx(first, rel=1e-5)
    large = client.embeddings.create(model="text-embedding-3-large", input="a")
    assert len(large.data[0].embedding) == 3072
    assert math.hypot(*large.data[0].embedding) == pytest.approx(1, abs=0.3)
    assert len(client.embeddings.create(model="text-embedding-3-small", input="a").data[0].embedding) == 1536


def test_models_are_listed_and_unknown_ones_are_not_found(client):
    """Models can be listed and looked up; an unknown one is 404 there and at an endpoint."""
    assert "gpt-5-nano" in [model.id for model in client.models.list()]
    assert client.models.retrieve("gpt-5-nano").id == "gpt-5-nano"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="no-such-model", input="x")
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="", input="x")
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="gpt-5-nano", input="")


def test_replies_carry_a_request_id(client, emulator):
    """The id that support asks for is in the header, on success and on failure."""
    assert client.batches.with_raw_response.list().headers["x-request-id"].startswith("req_")
    with pytest.raises(openai.NotFoundError) as caught:
        client.batches.retrieve("batch_none")
    assert caught.value.request_id.startswith("req_")


def test_a_repeating_client_creates_twice_when_the_reply_is_lost(emulator):
    """The SDK's own retry of a create whose reply was lost makes a second batch: why a create is never repeated."""
    with openai_client(emulator.url).with_options(max_retries=1) as client:
        file = upload(client, line("a"))
        emulator.state.faults.http.append(HttpFault(route="openai.batches.create", drop="after"))
        client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert emulator.state.creates["openai"] == 2
