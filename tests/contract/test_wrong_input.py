"""Input and set-ups that are wrong: one clear error before anything is paid, or a failed entry; nothing is lost."""

from __future__ import annotations

import pytest

from airflow_raif.domain.errors import (
    AuthenticationError,
    BatchNotFoundError,
    DuplicateCustomIdError,
    FailedBatchError,
    InvalidBatchError,
    InvalidRequestError,
    LimitExceededError,
    UnavailableError,
)
from airflow_raif.domain.request import EntryRequest
from airflow_raif.domain.status import BatchStatus
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.outcome import check_outcome
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.submit import submit_batch
from tests.support import CLAIM, PROVIDERS, defaults_of, folder, read_rows, rows, runtime_of

pytestmark = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture
def runtime(provider, emulator, store, tmp_path):
    with runtime_of(provider, emulator.url, store, tmp_path) as opened:
        yield opened


def spooled(tmp_path):
    return [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([], InvalidBatchError, "the batch is empty"),
        (
            [{"custom_id": "a", "prompt": "x"}, {"custom_id": "b", "prompt": "x"}, {"custom_id": "a", "prompt": "x"}],
            DuplicateCustomIdError,
            "rows 0 and 2 have the same custom_id 'a'; make it unique",
        ),
        ([{"custom_id": "a", "prompt": "x"}, {"prompt": "x"}], InvalidRequestError, "row 1 has no custom_id"),
        ([{"prompt": "x"}, {"custom_id": "b", "prompt": "x"}], InvalidRequestError, "row 1 has a custom_id, unlike"),
        ([{"custom_id": "", "prompt": "x"}], InvalidRequestError, "row 0 has the custom_id ''"),
        ([{"custom_id": None, "prompt": "x"}], InvalidRequestError, "row 0 has the custom_id None"),
        ([{"custom_id": "a"}], InvalidRequestError, r"row 0 \(custom_id 'a'\).*prompt"),
        ([{"prompt": "x", "messages": []}], InvalidRequestError, "row 0.*one of"),
        ([{"prompt": 7}], InvalidRequestError, "row 0.*7"),
        ([b"bytes"], InvalidRequestError, "row 0 is a bytes; give a prompt"),
        (["fine", {"custom_id2": 1, "prompt": "\udcff"}], InvalidRequestError, "row 1.*UTF-8"),
        ([{"custom_id": "\ud800", "prompt": "x"}], InvalidRequestError, "row 0.*custom_id.*UTF-8"),
        ([{"custom_id": "a\0b", "prompt": "x"}], InvalidRequestError, "row 0: the custom_id .* holds a NUL"),
        ([{"prompt": "x", "note": "\ud800"}], InvalidRequestError, "row 0.*UTF-8"),
        ([{"messages": [{"role": "robot", "content": "x"}]}], InvalidRequestError, "row 0.*robot"),
        ([{"messages": "hello"}], InvalidRequestError, "row 0.*messages"),
        ([{"body": "text"}], InvalidRequestError, "row 0.*body"),
        ([{"prompt": "x", "params": [1]}], InvalidRequestError, "row 0.*params"),
    ],
)
def test_wrong_rows_cost_nothing(provider, runtime, emulator, store, tmp_path, given, error, message):
    """The error names the row, the value and the remedy; nothing is created, spooled or kept."""
    with pytest.raises(error, match=message):
        create_batch(runtime, given, defaults=defaults_of(provider), claim=CLAIM)
    assert store.find_by_claim(CLAIM) is None
    assert spooled(tmp_path) == []
    assert sum(emulator.state.requests.values()) == 0


def test_a_row_over_the_limit(provider, emulator, store, tmp_path):
    """A request larger than the provider takes is named with its size."""
    with (
        runtime_of(provider, emulator.url, store, tmp_path, limits={"max_request_bytes": 2000}) as runtime,
        pytest.raises(LimitExceededError, match=r"row 1 \(custom_id 'big'\) is 5,\d\d\d bytes.*shorten it or split it"),
    ):
        given = [{"custom_id": "small", "prompt": "x"}, {"custom_id": "big", "prompt": "x" * 5000}]
        create_batch(runtime, given, defaults=defaults_of(provider))
    assert spooled(tmp_path) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "https://elsewhere.example/schema.json"}}},
        {"type": "nonsense"},
        "not a schema",
    ],
)
def test_a_schema_that_cannot_be_sent(provider, runtime, emulator, schema):
    """A schema that no provider takes is refused before the first row is read."""

    def never():
        raise AssertionError("the rows were read")
        yield

    with pytest.raises(InvalidBatchError, match="schema"):
        create_batch(runtime, never(), defaults=defaults_of(provider, output_schema=schema))
    assert sum(emulator.state.requests.values()) == 0


def test_wrong_endpoint(provider, runtime):
    """An endpoint that has no batches is named with those that have."""
    with pytest.raises(InvalidBatchError, match="has no batch endpoint '/v1/nothing'; use one of"):
        create_batch(runtime, ["x"], defaults=defaults_of(provider, endpoint="/v1/nothing"))


def test_wrong_key(provider, emulator, store, tmp_path):
    """401, and Gemini's 400 API_KEY_INVALID, are one kind of error; the batch can be submitted with a good key."""
    with runtime_of(provider, emulator.url, store, tmp_path, api_key="bad-key-12345678") as runtime:
        batch = create_batch(runtime, ["x"], defaults=defaults_of(provider))
        with pytest.raises(AuthenticationError) as caught:
            submit_batch(runtime, batch.batch_id)
        assert "bad-key-12345678" not in str(caught.value)
        assert not caught.value.retryable
    assert emulator.state.creates[provider] == 0
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        submit_batch(runtime, batch.batch_id)
    assert emulator.state.creates[provider] == 1


def test_connection_refused(provider, store, tmp_path):
    """Nobody listens: a retryable error that names the address; the batch stays submittable."""
    with runtime_of(provider, "http://127.0.0.1:9", store, tmp_path) as runtime:
        batch = create_batch(runtime, ["x"], defaults=defaults_of(provider))
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9") as caught:
            submit_batch(runtime, batch.batch_id)
    assert caught.value.retryable
    (part,) = store.get_batch(batch.batch_id).parts
    assert part.status is BatchStatus.PENDING
    assert part.intent_at is None


def test_unknown_model(provider, runtime, emulator, tmp_path):
    """An unknown model is an error at the create, a failed batch or failed entries: as the provider has it."""
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider, model="unknown-model"))
    if provider == "gemini":
        with pytest.raises(BatchNotFoundError, match="unknown-model") as caught:
            submit_batch(runtime, batch.batch_id)
        assert not caught.value.retryable
        assert emulator.state.creates["gemini"] == 0
        return
    submit_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    batch = fetch_batch_results(runtime, batch.batch_id)
    batch = apply_results(runtime, batch.batch_id, folder(tmp_path / "out"))
    found = read_rows(batch.result_uri)
    assert [row["status"] for row in found] == ["failed"] * 3
    assert all("unknown-model" in row["error"]["message"] for row in found)
    with pytest.raises(FailedBatchError, match="0 of 3 entries completed"):
        check_outcome(runtime, batch)


def test_native_bodies_pass_through(provider, runtime, tmp_path):
    """A complete native body is sent as it is."""
    bodies = {
        "openai": {"input": "hello", "max_output_tokens": 100},
        "anthropic": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 100},
        "gemini": {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]},
    }
    request = EntryRequest(custom_id="n", body=bodies[provider], columns={"k": 1})
    batch = create_batch(runtime, [request], defaults=defaults_of(provider, max_tokens=None))
    submit_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    fetch_batch_results(runtime, batch.batch_id)
    (row,) = read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri)
    assert (row["custom_id"], row["k"], row["status"]) == ("n", 1, "completed")
