"""Tokens of requests before they are sent, by a tokenizer where one is installed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import msgspec

log = logging.getLogger(__name__)

#: Tokens that each text of a request costs beside its own.
#: https://github.com/openai/openai-cookbook/blob/main/examples/How_to_count_tokens_with_tiktoken.ipynb
_AROUND_A_TEXT = 3
#: How a file in a request begins, whose bytes are not its tokens.
_FILE = "data:"


def tokens_per_byte(provider: str, model: str, lines: Iterable[bytes]) -> float | None:
    """Return how many input tokens the bytes of some spooled requests make; ``None``: no tokenizer can tell.

    OpenAI's is the only one that is published. It comes with the extra ``tokenizer``, and fetches its vocabulary when
    it is used first; ``TIKTOKEN_CACHE_DIR`` says where that is kept.
    """
    encoding = _encoding(model) if provider == "openai" else None
    if encoding is None:
        return None
    tokens = size = 0
    for line in lines:
        size += len(line) + 1
        for text in _texts(msgspec.json.decode(line).get("body")):
            tokens += len(encoding.encode_ordinary(text)) + _AROUND_A_TEXT
    return tokens / size if size else None


@cache
def _encoding(model: str) -> Any:
    try:
        import tiktoken
    except ImportError:
        return None
    try:
        try:
            return tiktoken.encoding_for_model(model)
        except KeyError:
            return tiktoken.get_encoding("o200k_base")
    except Exception as error:  # noqa: BLE001 - whatever its download meets, an estimate goes without
        log.warning("Tokens are estimated by their bytes, since tiktoken cannot be used: %s", error)
        return None


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a body that a model reads, names and settings among them: they are few."""
    if isinstance(value, str):
        if not value.startswith(_FILE):
            yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
