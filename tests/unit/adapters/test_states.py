"""What the providers say of their batches, and every status word they have."""

from __future__ import annotations

import json

import pytest

from airflow_raif.adapters.base import Lookup, Response, SpooledPart, unknown_status
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.batch import Counts
from airflow_raif.domain.errors import MalformedResponseError
from airflow_raif.domain.status import BatchStatus as S
from tests.support import settings_of


def adapter(provider, url="http://127.0.0.1:1", **values):
    return make_adapter(settings_of(provider, url, **values))


def parse(provider, body):
    return adapter(provider).parse_part(json.dumps(body).encode())


OPENAI = {"id": "batch_1", "object": "batch", "endpoint": "/v1/responses", "created_at": 1786000000}


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("validating", None), ("in_progress", S.IN_PROGRESS), ("finalizing", S.IN_PROGRESS), ("completed", S.ENDED),
        ("failed", S.FAILED), ("expired", S.EXPIRED), ("cancelling", S.IN_PROGRESS), ("cancelled", S.CANCELED),
        ("dreaming", S.IN_PROGRESS),
    ],
)  # fmt: skip
def test_openai_statuses(word, status, caplog):
    """The provider's word becomes ours; an unknown one keeps polling and warns, once for all batches."""
    unknown_status.cache_clear()
    parse("openai", {**OPENAI, "status": word})
    state = parse("openai", {**OPENAI, "status": word})
    assert state.raw_status == word
    assert state.status is status if status else not state.status.is_terminal
    assert caplog.text.count("dreaming") == (word == "dreaming")


def test_openai_details():
    """Counts, file ids, errors with code and line, expiry."""
    errors = {"data": [{"code": "invalid_url", "line": 2, "message": "wrong"}, {"code": "x", "message": "more"}]}
    state = parse("openai", {
        **OPENAI, "status": "failed", "errors": errors, "expires_at": 1786086400,
        "request_counts": {"total": 3, "completed": 1, "failed": 2}, "metadata": {"raif": "raif-b-0"},
        "output_file_id": "file-o", "error_file_id": "file-e",
    })  # fmt: skip
    assert state.counts == Counts(3, 1, 2)
    assert "invalid_url" in state.error
    assert "wrong" in state.error
    assert "2" in state.error
    assert state.error_code == "invalid_url"
    assert "file-o" in str(state.refs)
    assert "file-e" in str(state.refs)
    assert state.expires_at.timestamp() == 1786086400


def test_openai_files_that_have_no_name():
    """Servers write nothing for null; a batch without an answer that was too large for the queue waits for room."""
    errors = {"data": [{"code": "token_limit_exceeded", "message": "Limit: 2,000 enqueued tokens."}]}
    state = parse("openai", {**OPENAI, "status": "failed", "errors": errors, "output_file_id": "", "error_file_id": ""})
    assert state.refs == {}
    assert state.refusal.max_tokens == 2000


ANTHROPIC = {"id": "msgbatch_1", "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z"}


@pytest.mark.parametrize(
    ("word", "counts", "initiated", "status"),
    [
        ("in_progress", {"processing": 2}, None, S.IN_PROGRESS),
        ("canceling", {"processing": 2}, "2026-01-01T00:00:00Z", S.IN_PROGRESS),
        ("ended", {"succeeded": 2}, None, S.ENDED),
        ("ended", {"succeeded": 1, "canceled": 1}, "2026-01-01T00:00:00Z", S.CANCELED),
        ("ended", {"succeeded": 2}, "2026-01-01T00:00:00Z", S.ENDED),
        ("ended", {"succeeded": 1, "expired": 1}, None, S.EXPIRED),
        ("ended", {"errored": 2}, None, S.ENDED),
        ("sleeping", {"processing": 2}, None, S.IN_PROGRESS),
    ],
)
def test_anthropic_statuses(word, counts, initiated, status):
    """A canceled or expired batch is ended in Anthropic's words; its counts tell."""
    body = {**ANTHROPIC, "processing_status": word, "request_counts": counts, "cancel_initiated_at": initiated}
    state = parse("anthropic", body)
    assert (state.status, state.raw_status) == (status, word)
    assert state.counts.total == 2
    assert parse("anthropic", {**ANTHROPIC, "processing_status": word}).counts is None


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        ({"metadata": {"state": "BATCH_STATE_PENDING"}}, S.IN_PROGRESS),
        ({"metadata": {"state": "BATCH_STATE_RUNNING"}}, S.IN_PROGRESS),
        ({"metadata": {"state": "BATCH_STATE_SUCCEEDED"}, "done": True}, S.ENDED),
        ({"metadata": {"state": "JOB_STATE_SUCCEEDED"}, "done": True}, S.ENDED),
        ({"metadata": {"state": "BATCH_STATE_FAILED"}, "done": True, "error": {"code": 3, "message": "m"}}, S.FAILED),
        ({"metadata": {"state": "BATCH_STATE_CANCELLED"}, "done": True, "error": {"code": 13}}, S.CANCELED),
        ({"metadata": {"state": "BATCH_STATE_EXPIRED"}}, S.EXPIRED),
        ({"state": "BATCH_STATE_RUNNING"}, S.IN_PROGRESS),
        ({"metadata": {"state": "BATCH_STATE_ASLEEP"}}, S.IN_PROGRESS),
        ({}, S.IN_PROGRESS),
        ({"done": True}, S.ENDED),
        ({"done": True, "error": {"code": 2, "message": "m"}}, S.FAILED),
    ],
)
def test_gemini_statuses(operation, status):
    """States under both prefixes, and operations without a state."""
    assert parse("gemini", {"name": "batches/1", **operation}).status is status


def test_gemini_details():
    """Counts are text with zeros left out; the responses file may be in either place."""
    stats = {"requestCount": "3", "successfulRequestCount": "2", "failedRequestCount": "1"}
    body = {"name": "batches/1", "metadata": {"batchStats": stats, "displayName": "raif-b-0", "state": "X"}}
    state = parse("gemini", {**body, "response": {"responsesFile": "files/r"}})
    assert (state.counts, state.tag, state.refs) == (Counts(3, 2, 1), "raif-b-0", {"responses_file": "files/r"})
    in_metadata = {**body["metadata"], "output": {"responsesFile": "files/m"}}
    assert parse("gemini", {**body, "metadata": in_metadata}).refs == {"responses_file": "files/m"}
    assert parse("gemini", {**body, "metadata": {"batchStats": {}}}).counts == Counts(0, 0, 0)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        ({"code": 8, "message": "quota"}, "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED: quota"),
        ({"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}, "RESOURCE_EXHAUSTED", "quota"),
        ({"message": "odd"}, None, "odd"),
    ],
)
def test_why_a_whole_gemini_batch_failed(error, code, text):
    """By the name of google.rpc's code, however it is given."""
    operation = {"name": "batches/b", "metadata": {"state": "BATCH_STATE_FAILED"}, "done": True, "error": error}
    state = adapter("gemini").parse_part(json.dumps(operation).encode())
    assert state.error_code == code
    assert text in state.error


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"{}", b'"text"'])
def test_answers_that_are_no_batch(provider, content):
    """A 2xx with another body is an error that names the provider."""
    with pytest.raises(MalformedResponseError, match=provider):
        adapter(provider).parse_part(content)
    if content != b"{}" or provider != "gemini":
        with pytest.raises(MalformedResponseError, match=provider):
            adapter(provider).parse_list(content)


@pytest.mark.parametrize(
    ("provider", "first", "second", "item"),
    [
        ("openai", {"has_more": True, "last_id": "b2"}, {"has_more": False},
         {**OPENAI, "status": "in_progress"}),
        ("openai", {"has_more": True}, {"has_more": False}, {**OPENAI, "status": "in_progress"}),
        ("openai", {}, {}, {**OPENAI, "status": "in_progress"}),
        ("anthropic", {"has_more": True, "last_id": "m2"}, {"has_more": False},
         {**ANTHROPIC, "processing_status": "in_progress"}),
        ("gemini", {"nextPageToken": "t"}, {"nextPageToken": ""}, {"name": "batches/1"}),
    ],
)  # fmt: skip
def test_pages_of_lists(provider, first, second, item):
    """The cursor leads to the next page and is gone on the last."""
    name = "operations" if provider == "gemini" else "data"
    one = adapter(provider)
    page = one.parse_list(json.dumps({name: [item], **first}).encode())
    assert len(page.parts) == 1
    if first:
        assert page.next_cursor
        assert page.next_cursor in one.list_request(page.next_cursor).path
    last = one.parse_list(json.dumps({name: [], **second}).encode())
    assert (last.parts, last.next_cursor) == ([], None)


def test_a_full_page_that_does_not_say_whether_more_follows():
    """Groq's never do: what was looked for, and perhaps created, may be on the next."""
    batches = [{**OPENAI, "id": f"b{number}", "status": "in_progress"} for number in range(100)]
    one = adapter("openai")
    assert one.parse_list(json.dumps({"data": batches}).encode()).next_cursor == "b99"
    assert one.parse_list(json.dumps({"data": batches[:99]}).encode()).next_cursor is None
    assert one.parse_list(json.dumps({"data": batches, "has_more": False}).encode()).next_cursor is None


class Unpaged:
    """A server that gives its whole list, whatever page it is asked for."""

    def __init__(self, batches):
        self.content = json.dumps({"data": batches}).encode()
        self.calls = 0

    def send(self, _request, *, retry=True):
        self.calls += 1
        return Response(200, {}, self.content)


@pytest.mark.parametrize("tagged", [[], ["b7"]])
def test_a_list_that_comes_whole_at_every_page(tagged):
    """It is read to its end, which is when nothing new comes, and a batch in it is one."""
    batches = [
        {**OPENAI, "id": f"b{number}", "status": "in_progress",
         "metadata": {"raif": "raif-b-0"} if f"b{number}" in tagged else {}}
        for number in range(150)
    ]  # fmt: skip
    server = Unpaged(batches)
    part = SpooledPart(
        batch_id="b", number=0, model="m", endpoint="/v1/responses", request_count=1, request_bytes=1,
        blocks=lambda: iter(()),
    )  # fmt: skip
    found = adapter("openai").find(server, Lookup(part, OPENAI["created_at"], None))
    assert [each.provider_batch_id for each in found] == tagged
    assert server.calls == 2


@pytest.mark.parametrize(
    ("provider", "given", "base", "path"),
    [
        ("openai", "http://h/v1/", "http://h/v1", "/batches/b"),
        ("openai", "http://openai.internal", "http://openai.internal/v1", "/batches/b"),
        ("openai", "https://r.openai.azure.com/openai", "https://r.openai.azure.com/openai", "/batches/b"),
        ("openai", "https://h/v1beta/openai/", "https://h/v1beta/openai", "/batches/b"),
        ("anthropic", "http://h/v1", "http://h", "/v1/messages/batches/b"),
        ("gemini", "http://h/v1", "http://h", "/v1/b"),
        ("gemini", "http://h", "http://h", "/v1beta/b"),
    ],
)
def test_base_urls(provider, given, base, path):
    """With and without the version that each provider's SDK wants or does not want."""
    from airflow_raif.adapters.base import ConnectionSettings

    one = make_adapter(ConnectionSettings(provider=provider, api_key="k", base_url=given))
    assert one.base_url == base
    assert one.get_request("b").path == path


def test_files_can_be_deleted_where_there_are_any():
    """OpenAI and Gemini have files, Anthropic has none."""
    assert adapter("openai").delete_file_request("file-1").path == "/files/file-1"
    assert adapter("gemini").delete_file_request("files/1").path == "/v1beta/files/1"
    assert adapter("anthropic").delete_file_request("x") is None


def test_default_addresses():
    """Without a base URL calls go to the provider."""
    from airflow_raif.adapters.base import ConnectionSettings

    hosts = {
        provider: make_adapter(ConnectionSettings(provider=provider, api_key="k")).base_url
        for provider in ("openai", "anthropic", "gemini")
    }
    assert hosts == {
        "openai": "https://api.openai.com/v1",
        "anthropic": "https://api.anthropic.com",
        "gemini": "https://generativelanguage.googleapis.com",
    }
