"""Texts that match a regular expression, for schemas with a ``pattern``."""

from __future__ import annotations

import re
from collections.abc import Callable
from re import _constants, _parser  # type: ignore[attr-defined]  # the only parser of Python's own syntax
from typing import Any

#: A number below a limit.
Choose = Callable[[int], int]

_MOST_REPEATS = 4
_TRIES = 60
_ANY = "abcdefghijklmnopqrstuvwxyz0123456789"
_CATEGORIES = {
    _constants.CATEGORY_DIGIT: "0123456789",
    _constants.CATEGORY_WORD: _ANY + "_ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    _constants.CATEGORY_SPACE: " ",
    _constants.CATEGORY_NOT_DIGIT: "abcdefghijklmnopqrstuvwxyz-",
    _constants.CATEGORY_NOT_WORD: "-.,!",
    _constants.CATEGORY_NOT_SPACE: _ANY,
}
_PRINTABLE = "".join(map(chr, range(32, 127)))


def compile_pattern(pattern: str) -> Callable[[Choose], str] | None:
    """Return a maker of matching texts, or ``None`` if the pattern is none of Python's.

    What looks around or back is not planned for but checked: a few texts are made until one matches.
    """
    try:
        parsed, matcher = _parser.parse(pattern), re.compile(pattern)
    except (re.error, RecursionError):
        return None

    def make(choose: Choose) -> str:
        text = ""
        for _ in range(_TRIES):
            text = _make_all(parsed, choose)
            if matcher.search(text):
                break
        return text

    return make


def _make_all(parsed: Any, choose: Choose) -> str:
    return "".join(_make_one(kind, value, choose) for kind, value in parsed)


def _make_one(kind: Any, value: Any, choose: Choose) -> str:
    if kind is _constants.LITERAL:
        return chr(value)
    if kind is _constants.NOT_LITERAL:
        return "b" if value == ord("a") else "a"
    if kind is _constants.ANY:
        return _ANY[choose(len(_ANY))]
    if kind is _constants.IN:
        letters = _letters(value)
        return letters[choose(len(letters))]
    if kind is _constants.BRANCH:
        branches = value[1]
        return _make_all(branches[choose(len(branches))], choose)
    if kind is _constants.SUBPATTERN:
        return _make_all(value[3], choose)
    if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
        low, high, part = value
        count = low + choose(min(int(high), low + _MOST_REPEATS) - low + 1)
        return "".join(_make_all(part, choose) for _ in range(count))
    # Anchors, assertions and references add nothing of their own.
    return ""


def _letters(members: list[tuple[Any, Any]]) -> str:
    letters = ""
    for kind, value in members:
        if kind is _constants.LITERAL:
            letters += chr(value)
        elif kind is _constants.RANGE:
            low, high = value
            letters += "".join(map(chr, range(low, min(high, low + 200) + 1)))
        elif kind is _constants.CATEGORY:
            letters += _CATEGORIES[value]
    if members[0][0] is _constants.NEGATE:
        letters = "".join(letter for letter in _PRINTABLE if letter not in letters)
    return letters or "x"
