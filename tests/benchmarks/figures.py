"""Figures as they are kept between runs, in build/bench.json: a list of objects, one per figure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec


class Figure(msgspec.Struct, omit_defaults=True):
    """One measured figure; a side that was not measured, or does not have it, is null."""

    name: str
    unit: str
    ours: float | None
    #: What users would pick instead: a provider package of Airflow's own.
    peer: float | None
    #: What plain httpx and msgspec cost for the same bytes, with no store, no order, no retry and no accounting.
    floor: float | None
    section: str = ""
    #: Rows or batches it was measured with.
    size: int = 0
    is_quick: bool = False

    @property
    def gain(self) -> float | None:
        """How many times more the peer takes."""
        return self.peer / self.ours if self.peer and self.ours else None

    @property
    def above_floor(self) -> float | None:
        """What multiple of the floor ours takes."""
        return self.ours / self.floor if self.ours and self.floor else None


def load(path: Path) -> list[Figure]:
    """Read the figures of earlier runs."""
    return msgspec.json.decode(path.read_bytes(), type=list[Figure]) if path.exists() else []


def keep(path: Path, new: Iterable[Figure]) -> list[Figure]:
    """Put new figures in the place of those with their section, name, unit and size; quick and full ones do not mix."""
    new = list(new)
    is_quick = any(figure.is_quick for figure in new)
    kept = {(each.section, each.name, each.unit, each.size): each for each in load(path) if each.is_quick == is_quick}
    kept |= {(each.section, each.name, each.unit, each.size): each for each in new}
    path.parent.mkdir(exist_ok=True)
    # Null values stay: readers of the file find every side in every object.
    rows = [
        {"name": f.name, "unit": f.unit, "ours": f.ours, "peer": f.peer, "floor": f.floor, "section": f.section,
         "size": f.size, "is_quick": f.is_quick}
        for f in kept.values()
    ]  # fmt: skip
    path.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
    return list(kept.values())


class Book:
    """Figures, looked up."""

    def __init__(self, figures: Iterable[Figure]) -> None:
        self._figures = sorted(figures, key=lambda each: each.size)

    def of(self, section: str, unit: str | None = None, name: str | None = None) -> list[Figure]:
        """Return the figures of a section, smallest sizes first."""
        return [
            each
            for each in self._figures
            if each.section == section and unit in (None, each.unit) and name in (None, each.name)
        ]

    def one(self, section: str, name: str, unit: str, size: int) -> Figure:
        """Return a figure that is there."""
        return next(each for each in self.of(section, unit, name) if each.size == size)

    def find(self, section: str, name: str, unit: str, size: int) -> float | None:
        """Return our side of a figure, if it was measured."""
        return next((each.ours for each in self.of(section, unit, name) if each.size == size), None)
