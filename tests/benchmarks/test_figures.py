"""Figures of benchmarks as they are kept between runs, and what is made of them."""

from __future__ import annotations

import json

from tests.benchmarks.bars import bars, eighth
from tests.benchmarks.figures import Book, Figure, keep, load


def figure(ours, peer=None, floor=None, name="fetch-openai", **values):
    return Figure(name, "CPU s", ours, peer, floor, **{"section": "warm", "size": 50_000, **values})


def test_every_side_is_in_the_file(tmp_path):
    """A reader of the file finds each side in each object, null where it was not measured."""
    keep(tmp_path / "build" / "bench.json", [figure(2.5)])
    (found,) = json.loads((tmp_path / "build" / "bench.json").read_text())
    assert {name: found[name] for name in ("name", "unit", "ours", "peer", "floor")} == {
        "name": "fetch-openai", "unit": "CPU s", "ours": 2.5, "peer": None, "floor": None,
    }  # fmt: skip


def test_a_section_measured_again_replaces_its_figures_alone(tmp_path):
    """The figures of another section or size stay."""
    path = tmp_path / "bench.json"
    keep(path, [figure(2.5), figure(9.0, section="cold"), figure(0.5, size=10_000)])
    keep(path, [figure(2.0)])
    assert sorted(each.ours for each in load(path)) == [0.5, 2.0, 9.0]


def test_quick_figures_do_not_mix_with_others(tmp_path):
    """What a quick run says of few rows is not put on the page."""
    path = tmp_path / "bench.json"
    keep(path, [figure(0.1, size=2000, is_quick=True)])
    assert [each.ours for each in keep(path, [figure(2.0)])] == [2.0]


def test_bars_tell_what_does_not_hold():
    """A bar that is missed is said to be, with the figure that was measured."""
    book = Book([figure(2.0, peer=4.0, floor=0.5)])
    found = {bar: (measured, holds) for bar, measured, holds in bars(book)}
    assert found["OpenAI fetch, warm: common-ai takes at least 8 times our CPU"] == ("2 times", "no")
    assert found["OpenAI fetch: at most 3 times the floor"] == ("4 times", "no")
    assert "8 times the floor for OpenAI's results, so an eighth is 1 of it" in eighth(book)
