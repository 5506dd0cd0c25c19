"""Where results go beside the result file; each may be written again and again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class Destination(Protocol):
    """What an operator's ``destination`` has to have."""

    def check(self, output_schema: Mapping[str, Any] | None) -> None:
        """See that results of this schema can be written, before anything is paid.

        :raises ConfigurationError: they cannot.
        """

    def write(self, rows: Iterator[dict[str, Any]]) -> object:
        """Write the rows of a result file; what is there of them already is written over."""
