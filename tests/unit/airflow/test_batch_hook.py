"""The hook: official clients, Test Connection, and a whole batch in ten lines."""

from __future__ import annotations

import gc
import importlib.util
import inspect

import pytest

from airflow_raif.domain.errors import ConfigurationError
from airflow_raif.hooks.batch import AnthropicBatchHook, BatchHook, GeminiBatchHook, OpenAIBatchHook
from tests.support import MODELS, PROVIDERS, read_rows

HOOKS = {"openai": OpenAIBatchHook, "anthropic": AnthropicBatchHook, "gemini": GeminiBatchHook}
SDKS = {"openai": "openai", "anthropic": "anthropic", "gemini": "google.genai"}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_official_client_reaches_the_provider(provider, emulator, providers):
    """get_conn() gives the provider's own client, with key and base URL of the connection."""
    if importlib.util.find_spec(SDKS[provider].partition(".")[0]) is None:
        pytest.skip(f"the SDK of {provider} is not installed")
    providers(emulator)
    client = HOOKS[provider]().get_conn()
    assert type(client).__module__.startswith(SDKS[provider])
    names = [getattr(model, "id", None) or model.name for model in client.models.list()]
    assert any(MODELS[provider] in name for name in names)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_official_asynchronous_client(provider, emulator, providers):
    """aget_conn() gives the asynchronous one."""
    providers(emulator)
    if importlib.util.find_spec(SDKS[provider].partition(".")[0]) is None:
        pytest.skip(f"the SDK of {provider} is not installed")
    client = await HOOKS[provider]().aget_conn()
    gc.collect()
    assert "Async" in type(client).__name__
    pages = client.models.list()
    models = await pages if inspect.isawaitable(pages) and not hasattr(pages, "__aiter__") else pages
    names = [getattr(model, "id", None) or model.name async for model in models]
    assert any(MODELS[provider] in name for name in names)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_addresses_with_and_without_a_version(provider, emulator, connection, raif_home):
    """The official client works whether or not the host ends with /v1."""
    if importlib.util.find_spec(SDKS[provider].partition(".")[0]) is None:
        pytest.skip(f"the SDK of {provider} is not installed")
    for suffix in ("", "/v1", "/v1/"):
        connection(f"{provider}_default", conn_type=f"raif_{provider}", password="k", host=f"{emulator.url}{suffix}")
        client = HOOKS[provider]().get_conn()
        assert list(client.models.list())
        assert HOOKS[provider]().test_connection()[0]


def test_missing_sdk_says_what_to_install(connection, monkeypatch):
    """Without the extra there is one sentence, not a traceback of imports."""
    connection("openai_default", conn_type="openai", password="k")
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'airflow-raif\[openai\]'"):
        OpenAIBatchHook().get_conn()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_test_connection(provider, emulator, providers, connection):
    """Test Connection asks the provider and says what is wrong."""
    hook = HOOKS[provider]()
    providers(emulator)
    assert hook.test_connection()[0] is True
    providers(emulator, key="bad-key-1234567")
    succeeded, message = hook.test_connection()
    assert not succeeded
    assert "bad-key-1234567" not in message
    assert "key" in message.lower()
    connection(f"{provider}_default", conn_type=f"raif_{provider}", host=emulator.url)
    assert hook.test_connection() == (
        False,
        f"connection {provider}_default has no API key; put it into its password field",
    )


def test_test_connection_when_nobody_listens(connection, no_backoff):
    """A refused connection is told as such."""
    connection("openai_default", conn_type="openai", password="k", host="http://127.0.0.1:9/v1")
    succeeded, message = OpenAIBatchHook().test_connection()
    assert not succeeded
    assert "127.0.0.1" in message


def test_a_whole_batch_by_hand(emulator, providers):
    """Everything an operator does can be done in a Python task."""
    providers(emulator)
    hook = BatchHook("openai_default", "gpt-5-nano")
    batch_id = hook.create_batch(["one", "two"], system_prompt="Be brief").batch_id
    hook.submit_batch(batch_id)
    assert hook.fetch_batch_status(batch_id) == "ended"
    hook.fetch_batch_results(batch_id)
    assert [row["status"] for row in read_rows(hook.apply_batch_results(batch_id))] == ["completed", "completed"]


def test_cancel_by_hand(emulator, providers):
    """A running batch is canceled."""
    providers(emulator)
    hook = BatchHook("gemini_default")
    batch = hook.create_batch(["one"], model="gemini-2.5-flash")
    hook.submit_batch(batch.batch_id)
    assert hook.cancel_batch(batch.batch_id) == "canceled"


def test_expire_by_hand(emulator, providers):
    """A batch that ended meanwhile is fetched, whatever may be canceled."""
    providers(emulator)
    hook = BatchHook("anthropic_default", "claude-haiku-4-5")
    batch_id = hook.create_batch(["one"], max_tokens=9).batch_id
    hook.submit_batch(batch_id)
    assert hook.expire_batch(batch_id, may_cancel=True).results_fetched_at is not None


def test_a_batch_needs_a_model(emulator, providers):
    """Without a model there is nothing to create."""
    providers(emulator)
    with pytest.raises(ConfigurationError, match="give the model"):
        BatchHook("openai_default").create_batch(["one"])
