"""How an input is cut into parts: each limit at its edge, exactly reached and passed by one."""

from __future__ import annotations

import pytest

from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.errors import LimitExceededError
from airflow_raif.domain.sharing import Sharing
from airflow_raif.services.create import create_batch
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.submit import submit_batch
from airflow_raif.spool.files import requests_file
from tests.support import PROVIDERS, defaults_of, runtime_of, settings_of

#: Texts whose bytes are twice and three times as many as their characters.
TEXTS = ["é" * 40, "漢" * 40, "x" * 40, "\u2028" * 40]

#: Rows that are the same are sent, too.
EACH_ROW = Sharing(within_batch=False)


@pytest.fixture
def cut(emulator, store, tmp_path):
    """Create a batch under limits; return its parts as (requests, bytes)."""

    def create(provider, given, defaults=None, **limits):
        with runtime_of(provider, emulator.url, store, tmp_path, limits=limits) as runtime:
            given_defaults = defaults_of(provider, **(defaults or {}))
            batch = create_batch(runtime, given, defaults=given_defaults, sharing=EACH_ROW)
            folder = runtime.folder(batch.batch_id)
            sizes = [len(b"".join(folder.blocks(requests_file(part.number))())) for part in batch.parts]
            assert [part.request_bytes for part in batch.parts] == sizes
            return [(part.request_count, part.request_bytes) for part in batch.parts]

    return create


@pytest.mark.parametrize("provider", PROVIDERS)
def test_requests_of_a_part(provider, cut):
    """A part that is full to the last request is one part; one more request makes another."""
    assert [count for count, _ in cut(provider, ["x"] * 3, max_requests=3)] == [3]
    assert [count for count, _ in cut(provider, ["x"] * 4, max_requests=3)] == [3, 1]
    assert [count for count, _ in cut(provider, ["x"] * 3, max_requests=1)] == [1, 1, 1]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_bytes_of_a_part(provider, cut):
    """Bytes are counted as they are sent, in UTF-8, and to the last one."""
    ((_, whole),) = cut(provider, TEXTS)
    # What Anthropic's limit holds besides the requests: {"requests":[ and ]} around them, less one line end.
    around = 14 if provider == "anthropic" else 0
    assert [count for count, _ in cut(provider, TEXTS, max_bytes=whole + around)] == [4]
    assert [count for count, _ in cut(provider, TEXTS, max_bytes=whole + around - 1)] == [3, 1]


def test_bytes_of_anthropics_create(emulator_of, store, tmp_path):
    """The whole body of a create, as long as the provider takes it and no longer."""
    with runtime_of("anthropic", emulator_of().url, store, tmp_path) as runtime:
        size = create_batch(runtime, TEXTS, defaults=defaults_of("anthropic")).parts[0].request_bytes + 14
    emulator = emulator_of(anthropic_max_bytes=size)
    with runtime_of("anthropic", emulator.url, store, tmp_path, limits={"max_bytes": size}) as runtime:
        batch = create_batch(runtime, TEXTS, defaults=defaults_of("anthropic"))
        assert len(submit_batch(runtime, batch.batch_id).parts) == 1


def test_bytes_of_openais_file(emulator_of, store, tmp_path):
    """A file, as long as the provider takes it and no longer."""
    with runtime_of("openai", emulator_of().url, store, tmp_path) as runtime:
        size = create_batch(runtime, TEXTS, defaults=defaults_of("openai")).parts[0].request_bytes
    emulator = emulator_of(openai_max_bytes=size)
    with runtime_of("openai", emulator.url, store, tmp_path, limits={"max_bytes": size}) as runtime:
        batch = create_batch(runtime, TEXTS, defaults=defaults_of("openai"))
        submit_batch(runtime, batch.batch_id)
        assert fetch_batch_status(runtime, batch.batch_id).value == "ended"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("limit", ["max_request_bytes", "max_bytes"])
def test_bytes_of_a_request(provider, limit, cut):
    """The largest request that may be sent is sent; one byte more is refused with the row's name and size."""
    ((_, size),) = cut(provider, ["漢" * 50])
    around = 14 if provider == "anthropic" and limit == "max_bytes" else 0
    assert cut(provider, ["漢" * 50], **{limit: size + around}) == [(1, size)]
    with pytest.raises(LimitExceededError, match=rf"row 0 .* is {size:,} bytes .* takes at most {size - 1:,}; shorten"):
        cut(provider, ["漢" * 50], **{limit: size + around - 1})


def test_embedding_inputs_of_a_part(cut):
    """A request may hold several texts to embed; they are counted, and a request is never torn."""
    embeddings = {"endpoint": "/v1/embeddings", "model": "text-embedding-3-small", "max_tokens": None}

    def requests(*sizes):
        return [{"body": {"input": ["x"] * size}} for size in sizes]

    def counts(given, limit):
        return [count for count, _ in cut("openai", given, embeddings, max_embedding_inputs=limit)]

    assert counts(requests(2, 3), 5) == [2]
    assert counts(requests(2, 4), 5) == [1, 1]
    assert counts(["text"] * 5, 5) == [5]
    assert counts(["text"] * 6, 5) == [5, 1]
    assert counts([{"body": {"input": [[1, 2, 3], [4]]}}, {"body": {"input": [5, 6, 7, 8]}}], 3) == [2]
    assert counts(requests(5), 5) == [1]
    with pytest.raises(LimitExceededError, match="row 1 .* has 6 texts to embed; openai takes at most 5 in one batch"):
        counts(requests(5, 6), 5)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_one_model_in_a_part(provider, emulator, store, tmp_path):
    """Rows of two models, however they come, go into parts of their own, each cut by itself."""
    given = [{"prompt": "x", "model": "one" if n % 3 else "two"} for n in range(10)]
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 4}) as runtime:
        batch = create_batch(runtime, given, defaults=defaults_of(provider), sharing=EACH_ROW)
    assert sorted((part.model, part.request_count) for part in batch.parts) == [("one", 2), ("one", 4), ("two", 4)]


@pytest.mark.parametrize(
    ("provider", "requests", "size", "inputs"),
    [
        ("openai", 50_000, 200_000_000, 50_000),
        ("anthropic", 100_000, 256_000_000 - 14, None),
        ("gemini", 200_000, 1_900_000_000, None),
    ],
)
def test_limits_of_the_providers(provider, requests, size, inputs):
    """They are data, and a connection may set others."""
    limits = make_adapter(settings_of(provider, "http://h")).limits
    assert (limits.max_requests, limits.max_bytes, limits.max_embedding_inputs) == (requests, size, inputs)
    assert make_adapter(settings_of(provider, "http://h", limits={"max_requests": 7})).limits.max_requests == 7
