"""One answer before any dialect dresses it: text or tool input, how it stopped, what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from airflow_raif.emulator.answers import Draw, SchemaAnswers, count_tokens, make_text, seed_of

Stop = Literal["end", "length", "refusal"]
REFUSAL = "I'm sorry, but I can't help with that."


@dataclass(slots=True)
class Answer:
    """An answer. Output tokens do not include reasoning."""

    text: str
    stop: Stop
    seed: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int


def input_tokens(size: int) -> int:
    """Return the input tokens of a request of some bytes."""
    return count_tokens(size) + 7


class Composer:
    """Makes answers; keeps compiled schemas."""

    def __init__(self) -> None:
        self._schemas = SchemaAnswers()

    def compose(
        self,
        raw: bytes,
        *,
        schema: bytes = b"",
        wants_json: bool = False,
        kind: str = "",
        max_tokens: int = 0,
        reasons: bool = False,
        is_cached: bool = True,
    ) -> Answer:
        """Answer a request.

        :param raw: the request's own bytes; they decide the answer and the input tokens.
        :param kind: a row fault that changes the answer.
        :param max_tokens: cuts the answer; 0 for no limit.
        :param is_cached: half of a long input is read from a cache by itself.
        """
        seed = seed_of(raw)
        draw = Draw(seed)
        if schema:
            text = msgspec.json.encode(self._schemas.answer(schema, draw)).decode()
        elif wants_json:
            text = msgspec.json.encode({"answer": make_text(draw, 4)}).decode()
        else:
            text = make_text(draw)
        text, stop = _spoil(text, kind)
        tokens = count_tokens(len(text))
        if max_tokens and tokens > max_tokens:
            text, stop, tokens = text[: max_tokens * 4], "length", max_tokens
        taken = input_tokens(len(raw))
        cached = taken // 2 // 128 * 128 if is_cached and taken >= 1024 else 0
        return Answer(text, stop, seed, taken, cached, tokens, 64 * (1 + seed % 4) if reasons else 0)


def _spoil(text: str, kind: str) -> tuple[str, Stop]:
    if kind == "truncated":
        return text[: len(text) // 2], "length"
    if kind == "refused":
        return REFUSAL, "refusal"
    if kind == "invalid_json":
        return "{" + text[:-1], "end"
    if kind == "line_separator":
        return text.replace(" ", "\u2028", 1), "end"
    return text, "end"
