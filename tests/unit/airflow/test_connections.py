"""Airflow Connections as users have them, read as provider settings."""

from __future__ import annotations

import pytest

from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.errors import ConfigurationError, ConnectionUnavailableError
from airflow_raif.hooks.connections import aresolve, resolve


@pytest.mark.parametrize(
    ("kind", "provider"),
    [
        ("openai", "openai"),
        ("anthropic", "anthropic"),
        ("raif_openai", "openai"),
        ("raif_anthropic", "anthropic"),
        ("raif_gemini", "gemini"),
    ],
)
def test_type_tells_the_provider(connection, kind, provider):
    """A connection of a provider's type needs no prefix in the model."""
    connection("c", conn_type=kind, password="k")
    settings = resolve("c").settings
    assert (settings.provider, settings.api_key, settings.base_url) == (provider, "k", None)


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("openai:gpt-5-nano", "openai"),
        ("google:gemini-2.5-flash", "gemini"),
        ("anthropic:claude-haiku-4-5", "anthropic"),
    ],
)
def test_prefix_tells_the_provider_of_a_shared_connection(connection, model, provider):
    """A pydanticai connection serves whichever provider the model names."""
    connection("c", conn_type="pydanticai", password="k")
    assert resolve("c", model).settings.provider == provider


def test_pydanticai_takes_the_model_of_its_extra(connection):
    """The model that the connection itself names counts where the caller names none."""
    connection("c", conn_type="pydanticai", password="k", extra={"model": "openai:gpt-5-nano"})
    found = resolve("c")
    assert (found.settings.provider, found.default_model) == ("openai", "openai:gpt-5-nano")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"host": "https://proxy.example/v1"}, "https://proxy.example/v1"),
        ({"host": "proxy.example", "schema": "http", "port": 8080}, "http://proxy.example:8080"),
        ({"host": "proxy.example"}, "https://proxy.example"),
        ({"host": "http://proxy.example:99", "port": 99}, "http://proxy.example:99"),
        ({"extra": {"openai_client_kwargs": {"base_url": "http://kw.example/v1"}}}, "http://kw.example/v1"),
    ],
)
def test_base_url(connection, fields, expected):
    """The host field is taken as a URL or a bare name; the SDK arguments of other packages count too."""
    connection("c", conn_type="openai", password="k", **fields)
    assert resolve("c").settings.base_url == expected


def test_known_extras_become_headers_and_limits(connection):
    """Organisation, project, beta flags, timeouts and limits are taken from the extra."""
    connection(
        "c",
        conn_type="raif_openai",
        password="k",
        extra={"organization": "org-1", "project": "p-1", "timeout": "12", "max_requests": "7", "max_bytes": 9},
    )
    settings = resolve("c").settings
    assert settings.headers == {"OpenAI-Organization": "org-1", "OpenAI-Project": "p-1"}
    assert settings.timeout_seconds == 12
    assert settings.limits == {"max_requests": 7, "max_bytes": 9}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (5000, {"gpt-5-nano": 5000, "gpt-5": 5000}),
        ("5000", {"gpt-5-nano": 5000, "gpt-5": 5000}),
        ({"gpt-5-nano": 7}, {"gpt-5-nano": 7, "gpt-5": None}),
        ('{"gpt-5-nano": "7", "gpt-5": 9}', {"gpt-5-nano": 7, "gpt-5": 9}),
    ],
)
def test_queue_limits(connection, given, expected):
    """One number for every model, or one for each; a form field holds the latter as JSON."""
    connection("c", conn_type="raif_openai", password="k", extra={"max_enqueued_tokens": given})
    adapter = make_adapter(resolve("c").settings)
    assert {model: adapter.quota(model).max_tokens for model in expected} == expected
    assert adapter.quota("gpt-5").max_requests is None


def test_client_arguments_of_other_packages(connection):
    """Extras that the official Airflow packages read work here as they are."""
    connection(
        "c",
        conn_type="anthropic",
        password="k",
        extra={"anthropic_client_kwargs": {"default_headers": {"x-team": "a"}, "timeout": 5}},
    )
    settings = resolve("c").settings
    assert (settings.headers, settings.timeout_seconds) == ({"x-team": "a"}, 5)


@pytest.mark.parametrize(
    ("fields", "model", "message"),
    [
        ({"conn_type": "openai"}, None, "has no API key; put it into its password field"),
        ({"conn_type": "http", "password": "k"}, None, "is of type 'http'; use one of type raif_openai"),
        ({"conn_type": "pydanticai", "password": "k"}, "gpt-5-nano", "write the model as 'provider:model'"),
        ({"conn_type": "openai", "password": "k"}, "anthropic:claude-haiku-4-5", "is for openai, but the model"),
        (
            {"conn_type": "openai", "password": "k", "extra": {"timeout": "soon"}},
            None,
            "the timeout 'soon'; give a number",
        ),
        *(
            ({"conn_type": "openai", "password": "k", "extra": {"timeout": given}}, None, "give seconds, above 0")
            for given in ("nan", "inf", -1)
        ),
        ({"conn_type": "openai", "password": "k", "extra": '["x"]'}, None, "has a list as its extra"),
        (
            {"conn_type": "openai", "password": "k", "extra": {"openai_client_kwargs": {"default_headers": "x"}}},
            None,
            "has a str as its default_headers; give a JSON object",
        ),
        ({"conn_type": "openai", "password": "k", "extra": {"max_bytes": "9 MB"}}, None, "has the max_bytes '9 MB'"),
        ({"conn_type": "openai", "password": "k", "extra": {"max_requests": -1}}, None, "give 1 or more"),
        (
            {"conn_type": "openai", "password": "k", "extra": {"max_enqueued_tokens": '{"gpt-5": 1'}},
            None,
            "has the max_enqueued_tokens .*, which is no JSON",
        ),
        (
            {"conn_type": "openai", "password": "k", "extra": {"max_enqueued_tokens": {"gpt-5": "many"}}},
            None,
            "has the max_enqueued_tokens of gpt-5 'many'; give a number",
        ),
        (
            {"conn_type": "openai", "password": "k", "extra": {"max_enqueued_tokens": -5}},
            None,
            "has the max_enqueued_tokens -5; give 1 or more",
        ),
        (
            {"conn_type": "anthropic", "password": "k", "extra": {"max_enqueued_requests": {"claude-haiku-4-5": 5}}},
            None,
            "anthropic queues all models together; give one number",
        ),
        ({"conn_type": "openai", "password": "k", "host": "http://[bad"}, None, "which is no address"),
        ({"conn_type": "openai", "password": "k", "host": "ftp://files.example"}, None, "which is no address"),
        ({"conn_type": "openai", "password": "k", "host": "https://h:port"}, None, "which is no address"),
        ({"conn_type": "anthropic", "password": "k", "extra": {"platform": "bedrock"}}, None, "not supported"),
    ],
)
def test_wrong_connections_say_what_to_do(connection, fields, model, message):
    """Each mistake gives one sentence with its remedy, and never the key."""
    connection("c", **fields)
    with pytest.raises(ConfigurationError, match=message) as caught:
        resolve("c", model)
    assert "'k'" not in str(caught.value)


def test_missing_connection():
    """A missing connection is named, with what to make."""
    with pytest.raises(ConfigurationError, match="there is no connection 'nowhere'.*make one of type raif_openai"):
        resolve("nowhere")


async def test_asynchronous_reading(connection):
    """The triggerer reads the same."""
    connection("c", conn_type="raif_gemini", password="k")
    assert (await aresolve("c")).settings.provider == "gemini"
    with pytest.raises(ConfigurationError, match="there is no connection 'nowhere'"):
        await aresolve("nowhere")


def test_settings_do_not_show_the_key(connection):
    """What may end in a log does not hold the key."""
    connection("c", conn_type="openai", password="sk-very-secret")
    assert "sk-very-secret" not in repr(resolve("c"))


async def test_a_database_that_is_away_is_no_missing_connection(airflow_database, monkeypatch):
    """A connection that cannot be looked up now fails no task for good."""
    monkeypatch.setenv("AIRFLOW__RAIF__STORE_TIMEOUT", "0")
    airflow_database.away = 2
    with pytest.raises(ConnectionUnavailableError):
        resolve("openai_default")
    with pytest.raises(ConnectionUnavailableError):
        await aresolve("openai_default")
    with pytest.raises(ConfigurationError, match="there is no connection 'openai_default'"):
        resolve("openai_default")
