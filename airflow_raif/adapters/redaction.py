"""Striking out a connection's secrets wherever a provider, a gateway or a library repeats them."""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus

STRUCK = "***"
#: Shorter ones are words, as for Airflow's own masker of logs.
_SHORTEST = 5
#: From this length on, with letters and digits, a text is a secret wherever it stands. Shorter ones, and words such as
#: a local server's "not-needed", are struck out of errors and logs only: in an answer they may be meant.
_SHORTEST_TOKEN = 12
#: Headers whose values are in every documentation.
_PUBLIC_HEADERS = frozenset(
    ("accept", "anthropic-beta", "anthropic-version", "content-type", "openai-beta", "user-agent")
)
#: What the libraries below us write at INFO and DEBUG: addresses, and every header of an answer.
_LIBRARY_LOGGERS = (
    "httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks",
)  # fmt: skip


class Secrets:
    """The secrets of one connection, in every form in which they may be repeated."""

    def __init__(self, key: str, headers: Mapping[str, str]) -> None:
        values = {key}
        for name, value in headers.items():
            if name.lower() not in _PUBLIC_HEADERS:
                values.update(_secrets_in(value))
        values = {value for value in values if len(value) >= _SHORTEST}
        self._texts = _longest_first(form for value in values for form in _forms(value))
        tokens = _longest_first(form for value in filter(_is_token, values) for form in _forms(value))
        self._tokens = [form.encode() for form in tokens]
        self._overlap = max(map(len, self._tokens), default=1) - 1

    def text(self, text: str) -> str:
        """Return a text that we tell without the secrets."""
        return _struck(text, self._texts)

    def content(self, content: bytes) -> bytes:
        """Return what a provider sent without the secrets."""
        for form in self._tokens:
            if form in content:
                content = content.replace(form, STRUCK.encode())
        return content

    def blocks(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Return the blocks of what a provider sends without the secrets, also those that lie across two blocks."""
        held = b""
        for block in blocks:
            content = self.content(held + block)
            end = max(len(content) - self._overlap, 0)
            yield content[:end]
            held = content[end:]
        yield held

    def keep_from_logs(self) -> None:
        """Strike them out of what the libraries below us log, from now on and in the whole process."""
        _filter.texts.update(self._texts)
        for name in _LIBRARY_LOGGERS:
            logging.getLogger(name).addFilter(_filter)


class _LogFilter(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self.texts: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        told = record.getMessage()
        if (struck := _struck(told, _longest_first(self.texts))) != told:
            record.msg, record.args = struck, None
        return True


_filter = _LogFilter()


def _struck(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, STRUCK)
    return text


def _longest_first(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(texts), key=lambda text: (-len(text), text)))


def _is_token(value: str) -> bool:
    return len(value) >= _SHORTEST_TOKEN and any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def _secrets_in(header: str) -> Iterator[str]:
    """Yield a header's value, what follows its scheme, and the password of a Basic one."""
    yield header
    scheme, _, value = header.partition(" ")
    yield value
    if scheme.lower() == "basic":
        try:
            yield base64.b64decode(value).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return


def _forms(value: str) -> Iterator[str]:
    """Yield a secret as it is, as JSON, an address and Python write it, and as base64 does of any text around it."""
    yield value
    in_json = json.dumps(value)[1:-1]
    yield from (in_json, in_json.replace("/", r"\/"), quote(value), quote(value, safe=""), quote_plus(value))
    yield repr(value)[1:-1]
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + value.encode())
        # The first and the last characters depend on what stands beside it.
        left, right = (0, 2, 3)[before], (0, 3, 2)[(before + len(value.encode())) % 3]
        core = encoded[left : len(encoded) - right].decode()
        if len(core) >= _SHORTEST_TOKEN:
            yield from (core, core.replace("+", "-").replace("/", "_"))
