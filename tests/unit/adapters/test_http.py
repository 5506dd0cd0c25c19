"""The one transport: what it repeats, what it never repeats, what it tells and what it hides."""

from __future__ import annotations

import asyncio
import traceback

import httpx
import pytest
import tenacity

from airflow_raif.adapters import http
from airflow_raif.adapters.base import Request
from airflow_raif.adapters.http import AsyncHttpTransport, HttpTransport, retry_after
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.errors import (
    AuthenticationError,
    BatchNotFoundError,
    ConfigurationError,
    MalformedResponseError,
    ProviderError,
    RateLimitedError,
    RejectedError,
    UnavailableError,
)
from airflow_raif.emulator.faults import HttpFault
from tests.support import settings_of

KEY = "sk-very-secret"
GET = Request(method="GET", path="/batches")


def scripted(*replies, slept=None, base="http://api.example", provider="openai", **settings):
    """A transport whose server answers from a list; the last reply repeats."""
    calls = []

    def handle(request):
        calls.append(request)
        reply = replies[min(len(calls), len(replies)) - 1]
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)

    adapter = make_adapter(settings_of(provider, base, api_key=KEY, **settings))
    client = httpx.Client(transport=httpx.MockTransport(handle))
    return HttpTransport(adapter, client=client, sleep=(slept if slept is not None else []).append), calls


def test_headers_of_the_connection_and_the_key(no_backoff):
    """Each call carries the key and the connection's own headers."""
    transport, calls = scripted(httpx.Response(200, json={}), headers={"OpenAI-Project": "p"})
    transport.send(GET)
    assert calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert calls[0].headers["openai-project"] == "p"
    assert str(calls[0].url) == "http://api.example/v1/batches"


def test_transient_failures_are_repeated():
    """Server errors and lost connections are tried again with growing pauses, then told."""
    slept = []
    transport, calls = scripted(httpx.Response(503), httpx.ReadError("gone"), httpx.Response(200, json={}), slept=slept)
    assert transport.send(GET).status == 200
    assert len(calls) == 3
    assert 0 < slept[0] < slept[1] + 2
    transport, calls = scripted(httpx.Response(500, json={"error": {"message": "oops"}}), slept=slept)
    with pytest.raises(UnavailableError, match="openai answered 500 to GET /batches: oops"):
        transport.send(GET)
    assert len(calls) == http.MAX_ATTEMPTS


PAGE = httpx.Response(200, html="<!DOCTYPE html><title>Log in</title>")


def test_a_web_page_is_no_answer():
    """What a gateway or a login page says in the provider's place is asked for again, and is no empty list."""
    transport, _ = scripted(PAGE, httpx.Response(200, json={}))
    assert transport.send(GET).content == b"{}"
    transport, _ = scripted(PAGE)
    with pytest.raises(MalformedResponseError, match="with a web page; something on the way to api.example"):
        transport.send(GET, retry=False)
    with pytest.raises(MalformedResponseError), transport.stream(GET) as blocks:
        list(blocks)


async def test_a_web_page_is_no_answer_to_a_poll():
    """It says nothing of the batch."""
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: PAGE))
    transport = AsyncHttpTransport(make_adapter(settings_of("openai", "http://api.example")), client=client)
    with pytest.raises(MalformedResponseError):
        await transport.send(GET)
    await transport.aclose()


def test_a_create_is_sent_once():
    """retry=False sends exactly once, whatever comes back."""
    for reply in (httpx.Response(503), httpx.Response(429), httpx.ReadTimeout("slow"), httpx.ConnectError("no")):
        transport, calls = scripted(reply)
        with pytest.raises(ProviderError) as caught:
            transport.send(Request(method="POST", path="/batches", content=b"{}"), retry=False)
        assert len(calls) == 1
        never = isinstance(reply, httpx.ConnectError) or getattr(reply, "status_code", 0) == 429
        assert caught.value.maybe_sent is not never


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Wed, 21 Oct"}, None),
        ({}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-3"}, 0),
    ],
)
def test_retry_after(headers, seconds):
    """Seconds and milliseconds are understood; dates are left to the schedule."""
    assert retry_after(httpx.Headers(headers)) == seconds


def test_hint_of_the_provider_is_honoured_and_capped():
    """The pause is as long as asked for, but never endless."""
    slept = []
    transport, _ = scripted(
        httpx.Response(429, headers={"retry-after": "40"}), httpx.Response(200, json={}), slept=slept
    )
    transport.send(GET)
    assert slept == [40]
    slept = []
    transport, _ = scripted(
        httpx.Response(429, headers={"retry-after": "99999"}), httpx.Response(200, json={}), slept=slept
    )
    transport.send(GET)
    assert slept == [http.MAX_RETRY_AFTER_SECONDS]


@pytest.mark.parametrize(
    ("status", "body", "error", "text", "code"),
    [
        (401, {"error": {"message": "no", "code": "invalid_api_key"}}, AuthenticationError, "the API key", None),
        (403, {"error": {"message": "no"}}, AuthenticationError, "the API key", None),
        (400, {"error": {"code": 400, "message": "API key not valid", "status": "INVALID_ARGUMENT",
                         "details": [{"reason": "API_KEY_INVALID"}]}},
         AuthenticationError, "API key", "API_KEY_INVALID"),
        (404, {"error": {"message": "gone"}}, BatchNotFoundError, "gone", None),
        (400, {"error": {"message": "bad", "code": "billing_hard_limit_reached"}}, RejectedError, "bad",
         "billing_hard_limit_reached"),
        (429, {"type": "error", "error": {"type": "rate_limit_error", "message": "spent",
                                          "details": {"error_code": "enforced_spend_limit_reached"}}},
         RejectedError, "spent", "enforced_spend_limit_reached"),
        (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "bad"}}, RejectedError, "bad",
         "invalid_request_error"),
        (400, [{"error": {"message": "listed", "status": "INVALID_ARGUMENT"}}], RejectedError, "listed",
         "INVALID_ARGUMENT"),
        (400, {"error": "plain words"}, RejectedError, "plain words", None),
        (400, {"error": {"message": None, "code": "content_filter"}}, RejectedError, ": content_filter",
         "content_filter"),
        (400, {"detail": "other"}, RejectedError, "other", None),
        (413, b"<html>too large</html>", RejectedError, "too large", None),
        (400, b"\xff\xfe", RejectedError, "answered 400", None),
        (302, b"", ProviderError, "a redirect, which is not followed with the key", None),
    ],
)  # fmt: skip
def test_refusals_are_told_in_the_providers_words(status, body, error, text, code):
    """Each provider's error body gives message and code; none of these is repeated."""
    reply = httpx.Response(status, content=body) if isinstance(body, bytes) else httpx.Response(status, json=body)
    transport, calls = scripted(reply)
    with pytest.raises(error, match=text) as caught:
        transport.send(GET)
    assert type(caught.value) is error
    assert len(calls) == 1
    assert caught.value.status == status
    if code:
        assert caught.value.code == code


def test_rate_limits_are_retryable():
    """429 is temporary, and its hint is kept."""
    transport, _ = scripted(httpx.Response(429, headers={"retry-after": "3"}, json={"error": {"message": "slow down"}}))
    with pytest.raises(RateLimitedError) as caught:
        transport.send(GET, retry=False)
    assert (caught.value.retryable, caught.value.retry_after) == (True, 3)


def test_the_key_is_never_told():
    """A provider that repeats the key in its error, or a client library that does, gives it no further."""
    transport, _ = scripted(httpx.Response(401, json={"error": {"message": f"Incorrect key {KEY}"}}))
    with pytest.raises(AuthenticationError) as caught:
        transport.send(GET)
    assert KEY not in str(caught.value)
    assert "***" in str(caught.value)
    transport, _ = scripted(httpx.ConnectError(f"failed with {KEY}"))
    with pytest.raises(UnavailableError) as caught:
        transport.send(GET, retry=False)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["https://evil.example/steal", "http://api.example:81/x", "https://api.example/x"])
def test_the_key_goes_to_its_own_host_only(url):
    """An address that a provider gives is followed only on the connection's own host and port."""
    transport, calls = scripted(httpx.Response(200, json={}))
    with pytest.raises(ProviderError, match="the key was not sent there"):
        transport.send(Request(method="GET", path=url))
    assert calls == []
    transport.send(Request(method="GET", path="http://api.example/anything"))
    assert len(calls) == 1


def test_a_base_url_that_is_none():
    """A wrong address is a clear error, not a retry."""
    adapter = make_adapter(settings_of("openai", "ftp://api.example"))
    with HttpTransport(adapter) as transport, pytest.raises(ProviderError, match="is no address"):
        transport.send(GET)


def test_a_lost_stream_is_told(no_backoff, monkeypatch):
    """A download that breaks in the middle is an error of the provider, so that it is taken up again."""

    class Breaking(httpx.SyncByteStream):
        def __iter__(self):
            yield b"half"
            raise httpx.ReadError("cut")

    adapter = make_adapter(settings_of("openai", "http://api.example"))
    client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=Breaking())))
    transport = HttpTransport(adapter, client=client)
    with pytest.raises(UnavailableError, match="cut"), transport.stream(GET) as blocks:
        list(blocks)
    with pytest.raises(UnavailableError, match="cut"):
        transport.send(GET, retry=False)
    transport.close()
    transport.close()


async def test_asynchronous_calls(emulator):
    """The poller's transport sends once and tells the same errors."""
    adapter = make_adapter(settings_of("openai", emulator.url))
    transport = AsyncHttpTransport(adapter)
    assert (await transport.send(GET)).status == 200
    emulator.state.faults.http.append(HttpFault(route="openai.*", status=503))
    with pytest.raises(UnavailableError):
        await transport.send(GET)
    emulator.state.faults.http.append(HttpFault(route="openai.*", drop="before"))
    with pytest.raises(UnavailableError):
        await transport.send(GET)
    assert emulator.state.requests["openai.batches.list"] == 3
    await asyncio.gather(transport.aclose(), transport.aclose())


def test_pauses_grow_and_vary():
    """Backoff is exponential with jitter, so that many workers do not come back at once."""
    waits = [http._jitter(_state(attempt)) for attempt in (1, 2, 3, 4) for _ in range(20)]
    assert max(waits[:20]) < min(waits[60:])
    assert len(set(waits[:20])) > 10


def _state(attempt):
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    return state


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"api_key": "sk\u2026"}, "API key"),
        ({"api_key": "a\nb"}, "API key"),
        ({"headers": {"X": "a\r\nb"}}, "header"),
        ({"headers": {"X Y": "sk"}}, "header"),
        ({"headers": {"": "sk"}}, "header"),
    ],
)
def test_a_header_that_cannot_be_sent_is_told_without_its_value(settings, what):
    """A key pasted with an ellipsis or a line end in it never reaches the wire, nor the error."""
    adapter = make_adapter(settings_of("openai", "http://api.example", **settings))
    with pytest.raises(ConfigurationError, match=what) as told:
        HttpTransport(adapter)
    assert "sk" not in str(told.value)


def test_a_key_pasted_with_its_line_end_works():
    """The most common slip of all."""
    assert settings_of("openai", "http://api.example", api_key=f" {KEY}\n").api_key == KEY


def test_a_transport_error_that_quotes_the_key_is_not_chained(no_backoff):
    """A traceback prints the chain, so the cause goes when it holds the key."""
    transport, _ = scripted(httpx.LocalProtocolError(f"Illegal header value b'Bearer {KEY}'"))
    with pytest.raises(ProviderError) as told:
        transport.send(GET, retry=False)
    shown = "".join(traceback.format_exception(told.value.with_traceback(None)))
    assert told.value.__cause__ is None
    assert told.value.__context__ is None
    assert KEY not in shown


def test_headers_of_the_connection_stand_above_the_keys_own():
    """As in the official SDKs; no header goes out twice, however its name is written."""
    transport, calls = scripted(httpx.Response(200), headers={"AUTHORIZATION": "Bearer mine", "X-Team": "a"})
    transport.send(GET)
    assert calls[0].headers.get_list("authorization") == ["Bearer mine"]
    assert calls[0].headers["x-team"] == "a"


@pytest.mark.parametrize("headers", [{}, {"x-other": "1"}], ids=["none", "another"])
def test_a_download_without_an_end_is_not_read(headers):
    """Whether the connection was lost could not be told."""
    transport, _ = scripted()
    replies = httpx.Response(200, headers=headers, stream=httpx.ByteStream(b"half"))
    transport._client = httpx.Client(transport=httpx.MockTransport(lambda _: replies))
    with pytest.raises(UnavailableError, match="does not say where its answer"), transport.stream(GET) as blocks:
        list(blocks)


@pytest.mark.parametrize("url", ["http://[::1/x", "http://evil.example:70000/x"])
def test_an_address_that_is_none_is_not_followed(url):
    """Whatever a provider names as an address, the key does not go there."""
    transport, calls = scripted(httpx.Response(200))
    with pytest.raises(ProviderError, match="the key was not sent there"):
        transport.send(Request(method="GET", path=url))
    assert not calls


def test_an_error_body_of_another_shape_is_told(no_backoff):
    """A gateway's code may be no text, and nesting may be absurd."""
    for content in (b'{"error": {"message": "no", "code": 7, "type": ["x"]}}', b"[" * 200_000):
        transport, _ = scripted(httpx.Response(400, content=content))
        with pytest.raises(RejectedError) as told:
            transport.send(GET)
        assert told.value.code is None
