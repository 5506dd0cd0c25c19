"""Anthropic's official SDK drives the emulator."""

from __future__ import annotations

import json

import httpx
import pytest

from airflow_raif.emulator.faults import RowFault
from airflow_raif.emulator.settings import Progress

anthropic = pytest.importorskip("anthropic", reason="Anthropic's SDK is not installed")

PARAMS = {"model": "claude-haiku-4-5", "max_tokens": 300, "messages": [{"role": "user", "content": "Say hello."}]}


def client_of(emulator, key="good-key"):
    return anthropic.Anthropic(api_key=key, base_url=emulator.url, max_retries=0)


def requests(*params, ids=None):
    return [{"custom_id": ids[n] if ids else f"row-{n}", "params": each} for n, each in enumerate(params)]


def test_life_of_a_batch(emulator_of):
    """in_progress with every request processing, then ended with counts and a results URL on the same host."""
    emulator = emulator_of(progress=Progress.parse("polls:3"))
    client = client_of(emulator)
    batch = client.messages.batches.create(requests=requests(*[PARAMS] * 3))
    assert (batch.processing_status, batch.request_counts.processing, batch.results_url) == ("in_progress", 3, None)
    with pytest.raises(anthropic.AnthropicError):
        list(client.messages.batches.results(batch.id))
    while batch.processing_status != "ended":
        batch = client.messages.batches.retrieve(batch.id)
    assert batch.request_counts.succeeded == 3
    assert batch.results_url.startswith(emulator.url)
    rows = list(client.messages.batches.results(batch.id))
    assert {row.custom_id for row in rows} == {"row-0", "row-1", "row-2"}
    message = rows[0].result.message
    assert message.content[0].text
    assert message.usage.service_tier == "batch"
    assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(batch.id)


def test_a_running_batch_says_when_to_ask_again(emulator_of):
    """Retry-After: 10 on the GET of a batch in progress, as seen in real traffic."""
    emulator = emulator_of(progress=Progress.parse("polls:2"))
    batch = client_of(emulator).messages.batches.create(requests=requests(PARAMS))
    url = f"{emulator.url}/v1/messages/batches/{batch.id}"
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    assert httpx.get(url, headers=headers).headers["retry-after"] == "10"
    assert "retry-after" not in httpx.get(url, headers=headers).headers


def test_structured_output_and_tools(emulator):
    """Answers follow the schema, and a forced tool is used."""
    schema = {
        "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False,
    }  # fmt: skip
    client = client_of(emulator)
    batch = client.messages.batches.create(
        requests=requests(
            {**PARAMS, "output_config": {"format": {"type": "json_schema", "schema": schema}}},
            {**PARAMS, "tools": [{"name": "f", "input_schema": schema}], "tool_choice": {"type": "tool", "name": "f"}},
            {**PARAMS, "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        )
    )
    client.messages.batches.retrieve(batch.id)
    rows = {row.custom_id: row.result for row in client.messages.batches.results(batch.id)}
    assert set(json.loads(rows["row-0"].message.content[0].text)) == {"n"}
    (block,) = rows["row-1"].message.content
    assert (block.type, block.name, set(block.input)) == ("tool_use", "f", {"n"})
    assert rows["row-1"].message.stop_reason == "tool_use"
    assert "additionalProperties" in rows["row-2"].error.error.message


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model": "unknown"}, "not_found_error", "unknown"),
        ({"model": ""}, "invalid_request_error", "model"),
        ({"max_tokens": 0}, "invalid_request_error", "max_tokens"),
        ({"max_tokens": None}, "invalid_request_error", "max_tokens"),
        ({"messages": []}, "invalid_request_error", "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "invalid_request_error", "role"),
        ({"messages": [{"role": "user", "content": ""}]}, "invalid_request_error", "content"),
        ({"messages": "text"}, "invalid_request_error", "messages"),
        ({"temperature": 2}, "invalid_request_error", "temperature"),
        ({"max_tokens": "many"}, "invalid_request_error", "params"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "invalid_request_error", "budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100_000}}, "invalid_request_error", "max_tokens"),
        (
            {"max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 2000}, "temperature": 0},
            "invalid_request_error",
            "temperature",
        ),
    ],
)
def test_params_are_checked_row_by_row(emulator, change, kind, message):
    """A wrong request is an errored row, doubly nested, and never a failed batch."""
    client = client_of(emulator)
    batch = client.messages.batches.create(requests=requests({**PARAMS, **change}, PARAMS))
    batch = client.messages.batches.retrieve(batch.id)
    assert (batch.request_counts.errored, batch.request_counts.succeeded) == (1, 1)
    rows = {row.custom_id: row.result for row in client.messages.batches.results(batch.id)}
    error = rows["row-0"].error.error
    assert error.type == kind
    assert message in error.message


@pytest.mark.parametrize(
    "given",
    [
        [],
        requests(PARAMS, PARAMS, ids=["a", "a"]),
        requests(PARAMS, ids=["with space"]),
        requests(PARAMS, ids=["x" * 65]),
        [{"custom_id": "a"}],
    ],
)
def test_wrong_creates_are_refused_at_once(emulator, given):
    """Ids are checked in the create."""
    with pytest.raises(anthropic.BadRequestError):
        client_of(emulator).messages.batches.create(requests=given)
    assert emulator.state.creates["anthropic"] == 0


def test_limits_of_a_create(emulator_of):
    """Too many rows are a 400, too many bytes a 413."""
    client = client_of(emulator_of(anthropic_max_rows=1, anthropic_max_bytes=2000))
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.create(requests=requests(PARAMS, PARAMS))
    big = {**PARAMS, "messages": [{"role": "user", "content": "x" * 3000}]}
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.batches.create(requests=requests(big))
    assert caught.value.status_code == 413


def test_cancel_and_expiry_are_ended_batches(emulator_of):
    """A canceled batch is ended, with partial results; so is one whose rows expired."""
    emulator = emulator_of(progress=Progress.parse("polls:100"))
    client = client_of(emulator)
    emulator.state.faults.done_at_cancel = 0.5
    batch = client.messages.batches.create(requests=requests(*[PARAMS] * 4))
    batch = client.messages.batches.cancel(batch.id)
    assert batch.processing_status == "canceling"
    assert batch.cancel_initiated_at
    batch = client.messages.batches.retrieve(batch.id)
    assert batch.processing_status == "ended"
    assert (batch.request_counts.succeeded, batch.request_counts.canceled) == (2, 2)
    assert sorted(row.result.type for row in client.messages.batches.results(batch.id)) == [
        "canceled", "canceled", "succeeded", "succeeded"
    ]  # fmt: skip
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.cancel(batch.id)
    running = client.messages.batches.create(requests=requests(PARAMS))
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.delete(running.id)


def test_expiry_by_the_clock(emulator_of):
    """After 24 hours what is not done has expired."""
    now = [1_790_000_000.0]
    client = client_of(emulator_of(progress=Progress.parse("seconds:400000"), clock=lambda: now[0]))
    batch = client.messages.batches.create(requests=requests(*[PARAMS] * 4))
    now[0] += 100_000
    batch = client.messages.batches.retrieve(batch.id)
    assert (batch.processing_status, batch.request_counts.succeeded, batch.request_counts.expired) == ("ended", 1, 3)


def test_lists_are_paged(emulator):
    """Newest first, forwards and backwards."""
    client = client_of(emulator)
    made = [client.messages.batches.create(requests=requests(PARAMS)).id for _ in range(5)]
    newest = made[::-1]
    page = client.messages.batches.list(limit=2)
    assert [batch.id for batch in page.data] == newest[:2]
    assert page.has_more
    assert [batch.id for batch in client.messages.batches.list(limit=2)] == newest
    before = client.messages.batches.list(limit=2, before_id=newest[3])
    assert [batch.id for batch in before.data] == newest[1:3]
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.list(after_id="msgbatch_nope")


def test_errors_and_synchronous_calls(emulator):
    """Wrong key, missing batch, a direct message, cached input."""
    with pytest.raises(anthropic.AuthenticationError):
        client_of(emulator, "bad-key").messages.batches.list()
    client = client_of(emulator)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve("msgbatch_nope")
    assert client.messages.create(**PARAMS).content[0].text
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**PARAMS, "model": "unknown"})
    assert any(model.id == "claude-haiku-4-5" for model in client.models.list())


def test_the_prompt_cache(emulator):
    """What is marked is written once and read afterwards; what is short or not marked is not."""
    client = client_of(emulator)

    def usage(text, ttl, ask="hi"):
        mark = {"cache_control": {"type": "ephemeral", "ttl": ttl}} if ttl else {}
        system = [{"type": "text", "text": text, **mark}]
        found = client.messages.create(**{**PARAMS, "system": system, "messages": [{"role": "user", "content": ask}]})
        assert found.usage.input_tokens > 0
        created = found.usage.cache_creation
        return (
            created.ephemeral_5m_input_tokens, created.ephemeral_1h_input_tokens, found.usage.cache_read_input_tokens
        )  # fmt: skip

    long = "long " * 1500
    written = usage(long, "1h")
    assert written[1] > 1500
    assert written == (0, written[1], 0)
    assert usage(long, "1h", "something else") == (0, 0, written[1])
    assert usage(long + "er", "5m")[0] > 1500
    assert usage("short", "1h") == usage(long, None) == (0, 0, 0)


def test_overloaded_rows(emulator):
    """An overloaded row is errored."""
    emulator.state.faults.rows.append(RowFault(kind="overloaded", rows=[0]))
    client = client_of(emulator)
    batch = client.messages.batches.create(requests=requests(PARAMS))
    client.messages.batches.retrieve(batch.id)
    (row,) = client.messages.batches.results(batch.id)
    assert row.result.error.error.type == "overloaded_error"
