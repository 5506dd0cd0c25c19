"""What an emulator knows: files and batches on disk, counters, and how a batch moves on."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_raif.emulator.faults import Faults
from airflow_raif.emulator.settings import EmulatorSettings

DAY_SECONDS = 86_400


@dataclass
class StoredFile:
    """An uploaded or produced file."""

    id: str
    path: Path
    filename: str
    size: int
    created_at: float
    purpose: str = "batch"
    mime_type: str = "application/jsonl"
    sha256: str = ""


@dataclass
class Tally:
    """Outcomes and tokens of a batch."""

    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(eq=False)
class Batch:
    """One batch job. ``status`` goes validating, in_progress, finalizing, [canceling], then a terminal word."""

    id: str
    provider: str
    model: str
    endpoint: str
    #: One request a line.
    rows_path: Path
    created_at: float
    expires_at: float
    status: str = "in_progress"
    row_count: int = 0
    #: What it takes of its queue's quota until it ends: tokens, or requests.
    queued: int = 0
    looks: int = 0
    looks_while_canceling: int = 0
    fraction: float = 0.0
    tally: Tally = field(default_factory=Tally)
    #: Unix seconds by status word.
    times: dict[str, float] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    output: StoredFile | None = None
    error_output: StoredFile | None = None
    #: What the create carried and every reply shows: metadata, display name, input.
    details: dict[str, Any] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def is_terminal(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ("ended", "failed", "expired", "canceled")


#: Makes a batch's results: (batch, rows done, status of the others).
Finish = Callable[[Batch, int, str], None]


class EmulatorState:
    """Everything one emulator holds. Tests may read it, and set :attr:`faults`, from another thread."""

    def __init__(self, settings: EmulatorSettings) -> None:
        self.settings = settings
        self.faults: Faults = settings.faults
        self.directory = Path(tempfile.mkdtemp(prefix="raif-emulator-"))
        #: By provider, then id; oldest first.
        self.files: dict[str, dict[str, StoredFile]] = {"openai": {}, "anthropic": {}, "gemini": {}}
        self.batches: dict[str, dict[str, Batch]] = {"openai": {}, "anthropic": {}, "gemini": {}}
        #: Calls by route name, failed ones included.
        self.requests: Counter[str] = Counter()
        #: Creates and uploads that took effect, by provider.
        self.creates: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.lock = threading.RLock()

    def close(self) -> None:
        """Delete the files."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def now(self) -> float:
        """Return the emulator's time in Unix seconds."""
        return self.settings.clock()

    def new_path(self) -> Path:
        """Return a fresh path for a file."""
        return self.directory / secrets.token_hex(12)

    def add_file(self, provider: str, file: StoredFile) -> StoredFile:
        """Keep a file."""
        with self.lock:
            self.files[provider][file.id] = file
        return file

    def remove_file(self, provider: str, file: StoredFile) -> None:
        """Forget a file; its bytes stay as long as a running batch reads them."""
        with self.lock:
            del self.files[provider][file.id]
            readers = [b for b in self.batches[provider].values() if b.rows_path == file.path and not b.is_terminal]
        if not readers:
            file.path.unlink(missing_ok=True)

    def add_batch(self, batch: Batch) -> Batch:
        """Keep a new batch and count the create."""
        with self.lock:
            batch.times[batch.status] = batch.created_at
            self.batches[batch.provider][batch.id] = batch
            self.creates[batch.provider] += 1
        return batch

    def enqueue(self, batch: Batch, amount: int, limit: int | None) -> bool:
        """Take a batch into the queue of its model, unless that would hold more than its limit."""
        with self.lock:
            others = [each for each in self.batches[batch.provider].values() if each is not batch]
            full = sum(each.queued for each in others if each.model == batch.model and not each.is_terminal)
            if limit is not None and full + amount > limit:
                return False
            batch.queued = amount
            return True

    def look(self, batch: Batch, check: Callable[[Batch], None], finish: Finish) -> Batch:
        """Count a look at a batch and move it on as far as it is.

        :param check: reads the input once, fills ``row_count`` and ``model``, and may fail the batch.
        :param finish: makes the results.
        """
        with batch.lock:
            if batch.is_terminal:
                return batch
            batch.looks += 1
            now = self.now()
            if batch.status == "canceling":
                batch.looks_while_canceling += 1
                if batch.looks_while_canceling <= self.faults.cancel_looks:
                    return batch
                self._end(batch, finish, "canceled", batch.fraction)
                return batch
            batch.fraction = self.settings.progress.fraction(batch.looks, now - batch.created_at)
            if batch.status == "validating" and batch.fraction > 0.25:
                self.move(batch, "in_progress")
                check(batch)
            if batch.is_terminal:
                return batch
            if batch.fraction >= 1:
                if batch.provider == "openai":
                    self.move(batch, "finalizing")
                self._end_normally(batch, finish)
            elif now >= batch.expires_at:
                self._end(batch, finish, "expired", batch.fraction)
            elif batch.fraction >= 0.75 and batch.status == "in_progress":
                self.move(batch, "finalizing")
        return batch

    def cancel(self, batch: Batch) -> None:
        """Begin to cancel a running batch; rows done until now stay done."""
        with batch.lock:
            if batch.status != "canceling":
                share = self.faults.done_at_cancel
                batch.fraction = batch.fraction if share is None else share
                self.move(batch, "canceling")

    def move(self, batch: Batch, status: str) -> None:
        """Give a batch a new status, now."""
        batch.status = status
        batch.times[status] = self.now()

    def _end_normally(self, batch: Batch, finish: Finish) -> None:
        if self.faults.expire_after is not None:
            self._end(batch, finish, "expired", self.faults.expire_after)
        elif self.faults.cancel_after is not None:
            batch.times.setdefault("canceling", self.now())
            self._end(batch, finish, "canceled", self.faults.cancel_after)
        else:
            self._end(batch, finish, "ended", 1.0)

    def _end(self, batch: Batch, finish: Finish, status: str, share: float) -> None:
        finish(batch, int(batch.row_count * share + 1e-9), status)
        self.move(batch, status)

    def snapshot(self) -> dict[str, Any]:
        """Return the counters and batches as JSON-ready values."""
        with self.lock:
            return {
                "requests": dict(self.requests),
                "creates": dict(self.creates),
                "uploads": dict(self.uploads),
                "files": {provider: len(files) for provider, files in self.files.items()},
                "batches": {
                    provider: [
                        {"id": b.id, "status": b.status, "rows": b.row_count, "looks": b.looks, "model": b.model}
                        for b in batches.values()
                    ]
                    for provider, batches in self.batches.items()
                },
            }
