"""Tokens by a tokenizer that is installed; its vocabulary is on the network, so a small one stands in for it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from airflow_raif.services import tokens

LINE = (
    b'{"custom_id":"x-0","method":"POST","url":"/v1/responses","body":{"model":"gpt-5-nano","input":'
    b'[{"role":"user","content":[{"type":"input_text","text":"one two three"},'
    b'{"type":"input_image","image_url":"data:image/png;base64,AAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}]}}'
)


@pytest.fixture
def tiktoken(monkeypatch):
    """A tokenizer of words, for one model."""

    def encoding_for_model(model):
        if model != "gpt-5-nano":
            raise KeyError(model)
        return SimpleNamespace(encode_ordinary=str.split)

    found = SimpleNamespace(encoding_for_model=encoding_for_model, get_encoding=lambda _: None)
    monkeypatch.setitem(sys.modules, "tiktoken", found)
    tokens._encoding.cache_clear()
    yield found
    tokens._encoding.cache_clear()


def test_texts_count_and_files_do_not(tiktoken):
    """Model, role, two types and the text: five texts of seven words, and what stands around each."""
    assert tokens.tokens_per_byte("openai", "gpt-5-nano", [LINE] * 2) == (7 + 5 * 3) / (len(LINE) + 1)


def test_where_none_can_tell(tiktoken, monkeypatch, caplog):
    """Another provider, no request, no package, no network: the bytes have to do, with a word about it if need be."""
    assert tokens.tokens_per_byte("anthropic", "claude-haiku-4-5", [LINE]) is None
    assert tokens.tokens_per_byte("openai", "gpt-5-nano", []) is None

    def away(name):
        raise OSError(f"{name} cannot be fetched")

    monkeypatch.setattr(tiktoken, "get_encoding", away)
    assert tokens.tokens_per_byte("openai", "a-model-of-tomorrow", [LINE]) is None
    assert "o200k_base cannot be fetched" in caplog.text
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    tokens._encoding.cache_clear()
    assert tokens.tokens_per_byte("openai", "gpt-5-nano", [LINE]) is None
