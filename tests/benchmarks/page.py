"""docs/benchmarks.md, written from the figures, so that none is typed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.figures import Figure


def write(figures: Sequence[Figure], folder: Path) -> None:
    """Write the page and its picture."""
