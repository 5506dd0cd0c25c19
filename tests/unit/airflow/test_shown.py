"""What commands write besides their answer."""

from __future__ import annotations

import pytest

from airflow_raif.cli.shown import counted, progress


@pytest.mark.parametrize("is_terminal", [True, False])
def test_long_work_shows_how_far_it_is_on_a_terminal_alone(capsys, monkeypatch, is_terminal):
    """On stderr, so that an answer in a pipe stays what it is; elsewhere nothing is written."""
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(is_terminal)))
    if is_terminal:
        # What versions of rich before 14 look at.
        monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("Fetching results", 10) as on_rows:
        on_rows(4)
    written = capsys.readouterr()
    assert written.out == ""
    assert ("Fetching results" in written.err, "4/10" in written.err) == (is_terminal, is_terminal)


def test_nothing_to_do_shows_nothing(capsys, monkeypatch):
    """Such as a second fetch."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with progress("Fetching results", 0) as on_rows:
        on_rows(1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("number", "text"), [(0, "0 batches"), (1, "1 batch"), (2, "2 batches")])
def test_counts_are_in_the_plural(number, text):
    assert counted(number, "batch") == text
    assert counted(number, "row") == text.replace("batches", "rows").replace("batch", "row")
