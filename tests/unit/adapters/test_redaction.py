"""Striking secrets out of what is told and of what a provider sends."""

from __future__ import annotations

import base64
import logging
import random
from urllib.parse import quote, quote_plus

import pytest

from airflow_raif.adapters.base import ConnectionSettings
from airflow_raif.adapters.redaction import Secrets
from airflow_raif.adapters.registry import make_adapter

KEY = "sk-S3cr3t/key+0123456789="


FORMS = [
    KEY, quote(KEY), quote(KEY, safe=""), quote_plus(KEY),
    *(
        encode(f"{before}{KEY}{after}".encode()).decode()
        for before in ("", ":", "user:", "api-key:", "Bearer ") for after in ("", "x", "xy", "xyz")
        for encode in (base64.b64encode, base64.urlsafe_b64encode)
    ),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_secret(form):
    """As it is, as an address has it, and as base64 has it with anything around it."""
    secrets = Secrets(KEY, {})
    assert form not in secrets.text(f"before {form} after")
    assert form.encode() not in secrets.content(f'{{"text": "before {form} after"}}'.encode())


def test_what_stands_around_stays():
    """Nothing but the secret goes."""
    secrets = Secrets(KEY, {"X-Token": "Bearer t0ken-0123456789"})
    assert secrets.text(f"a {KEY} b t0ken-0123456789 c") == "a *** b *** c"
    assert secrets.content(b'{"a": "t0ken-0123456789", "b": "Bearer"}') == b'{"a": "***", "b": "Bearer"}'


@pytest.mark.parametrize(
    "key", ["EMPTY", "not-needed", "lm-studio", "llama3", "sk-no-key-required", "password", "x", ""]
)
def test_a_placeholder_of_a_local_server_changes_no_answer(key):
    """Such a key is a word that answers may well hold; in errors it is struck out all the same."""
    secrets = Secrets(key, {"X-Stage": "production", "anthropic-beta": "output-300k-2026-03-24"})
    answer = f'{{"text": "{key} is true in production with output-300k-2026-03-24"}}'.encode()
    assert secrets.content(answer) == answer
    assert b"".join(secrets.blocks([answer, answer])) == answer * 2
    assert (key in secrets.text(f"wrong: {key}!")) is (len(key) < 5)
    assert "output-300k-2026-03-24" in secrets.text("unknown beta output-300k-2026-03-24")


@pytest.mark.parametrize("seed", range(20))
def test_a_secret_that_lies_across_blocks(seed):
    """Wherever the blocks of a download end."""
    dice = random.Random(seed)
    pieces = [
        KEY.encode(),
        base64.b64encode(f"user:{KEY}".encode()),
        b"x" * 30,
        b"\n",
        quote(KEY, safe="").encode(),
        b"sk-",
    ]
    content = b"".join(dice.choices(pieces, k=40))
    blocks, rest = [], content
    while rest:
        size = dice.randint(0, 1 + seed * 3)
        blocks.append(rest[:size])
        rest = rest[size:]
    secrets = Secrets(KEY, {})
    assert b"".join(secrets.blocks(blocks)) == secrets.content(content)
    assert KEY.encode() not in secrets.content(content)


@pytest.mark.parametrize("logger", ["httpx", "httpcore.http11", "httpcore.connection"])
def test_what_the_libraries_log(logger, caplog):
    """Also where the secret is an argument of the message; other lines stay as they are."""
    Secrets(KEY, {}).keep_from_logs()
    caplog.set_level(logging.DEBUG, logger=logger)
    logging.getLogger(logger).debug("sent %s to %s", f"Bearer {KEY}", "host")
    logging.getLogger(logger).info("%d of %s", 7, ["a"])
    assert [record.getMessage() for record in caplog.records] == ["sent Bearer *** to host", "7 of ['a']"]
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("address", "shown", "user"),
    [
        ("https://u:p%40ss@gw.example:8/v1", "https://gw.example:8/v1", "u:p@ss"),
        ("http://only@gw.example", "http://gw.example", "only"),
        ("http://a@b@gw.example/x@y", "http://gw.example/x@y", "a@b"),
        ("https://gw.example/x@y", "https://gw.example/x@y", None),
        ("https://gw.example", "https://gw.example", None),
    ],
)
def test_a_user_in_the_base_url_becomes_a_header(address, shown, user):
    """An address is logged and shown; a header is not."""
    settings = ConnectionSettings(provider="openai", api_key="k", base_url=address)
    assert settings.base_url == shown
    assert settings.headers == (
        {} if user is None else {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
    )
    assert "p@ss" not in repr(settings)
    assert "p%40ss" not in repr((settings, make_adapter(settings)))


def test_a_header_of_the_connection_stands_above_its_user():
    """Whoever gives both wants the header."""
    settings = ConnectionSettings(
        provider="openai", api_key="k", base_url="https://u:p@h", headers={"Authorization": "Bearer mine "}
    )
    assert settings.headers == {"Authorization": "Bearer mine"}
