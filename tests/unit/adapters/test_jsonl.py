"""Splitting what a provider sends into lines, however it comes in blocks."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from airflow_raif.adapters import jsonl
from airflow_raif.adapters.jsonl import split_lines


def in_blocks(content, dice, most):
    while content:
        size = dice.randint(0, most)
        yield content[:size]
        content = content[size:]


@pytest.mark.parametrize("seed", range(20))
def test_lines_and_offsets_do_not_depend_on_the_blocks(seed):
    """Each line is found where it lies in the file, wherever blocks end."""
    dice = random.Random(seed)
    words = [b"{}", b'{"a": "\xe2\x80\xa8"}', b"", b"\r", b" \t", b"x" * 50, b"\xef\xbb\xbf{}", b"{}\r"]
    content = b"\n".join(dice.choices(words, k=30))
    expected = [line.strip(b"\r \t\xef\xbb\xbf") for line in content.split(b"\n")]
    found = list(split_lines(in_blocks(content, dice, 1 + seed)))
    assert [line for _, line in found] == [line for line in expected if line]
    assert all(content[offset : offset + len(line)] == line for offset, line in found)


@pytest.mark.parametrize("seed", range(20))
def test_of_a_line_that_is_too_long_only_the_beginning_is_given(seed, monkeypatch):
    """The lines after it lie where they are in the file."""
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 40)
    monkeypatch.setattr(jsonl, "_HEAD_BYTES", 10)
    dice = random.Random(seed)
    content = b"{1}\n{2" + b"x" * 200 + b"}\n{3}\n{4" + b"y" * 100
    found = list(split_lines(in_blocks(content, dice, 20)))
    assert [line for _, line in found] == [b"{1}", b"{2xxxxxxxx", b"{3}", b"{4yyyyyyyy"]
    assert all(content[offset : offset + len(line)] == line for offset, line in found)


def test_garbage_without_an_end_needs_little_memory(monkeypatch):
    """However much of it comes."""
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 4 << 20)
    tracemalloc.start()
    found = list(split_lines(bytes([1]) * (1 << 20) for _ in range(200)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1
    assert peak < 16 << 20
