"""What an emulator is started with: its pace, its clock and its limits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from airflow_raif.emulator.faults import Faults


@dataclass(frozen=True)
class Progress:
    """How fast batches come to their end."""

    #: ``immediate``: at the first look; ``polls``: at the n-th look; ``seconds``: that long after the create.
    kind: str = "immediate"
    amount: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Progress:
        """Read ``immediate``, ``polls:3`` or ``seconds:5``.

        :raises ValueError: it is none of these.
        """
        kind, _, amount = text.partition(":")
        if kind == "immediate" and not amount:
            return cls()
        if kind not in ("polls", "seconds") or not amount:
            raise ValueError(f"progress must be immediate, polls:N or seconds:N, not {text!r}")
        try:
            number = float(amount)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise ValueError(f"progress must be immediate, polls:N or seconds:N with a number, not {text!r}")
        return cls(kind, number)

    def fraction(self, looks: int, elapsed: float) -> float:
        """Return how far a batch is, from 0 to 1, after some looks and seconds."""
        if self.kind == "immediate":
            return 1.0 if looks else 0.0
        done = looks if self.kind == "polls" else elapsed
        return min(1.0, done / self.amount) if self.amount > 0 else 1.0


@dataclass(frozen=True, kw_only=True)
class EmulatorSettings:
    """Settings of one emulator; the limits are the providers' own."""

    progress: Progress = field(default_factory=Progress)
    faults: Faults = field(default_factory=Faults)
    #: Unix seconds; a test may hand in its own clock.
    clock: Callable[[], float] = time.time
    #: Where traffic is recorded for the schema checks; ``None``: nowhere.
    record: Path | None = None
    openai_max_rows: int = 50_000
    openai_max_bytes: int = 200 * 1024 * 1024
    anthropic_max_rows: int = 100_000
    anthropic_max_bytes: int = 256 * 1024 * 1024
    gemini_max_inline_bytes: int = 20 * 1024 * 1024
    gemini_max_file_bytes: int = 2 * 1024 * 1024 * 1024
    #: Input tokens of a model, and requests of all models, that may be queued at once; ``None``: any number.
    openai_max_enqueued_tokens: int | None = None
    anthropic_max_queued_requests: int | None = None
    gemini_max_enqueued_tokens: int | None = None
