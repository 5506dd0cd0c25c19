"""Metrics: every name, with its tags, is one that the guide explains."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from airflow_raif.domain.batch import Batch, Part
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.usage import Cost, Usage
from airflow_raif.services.metrics import batch_applied, part_fetched, part_submitted, poller_waits
from airflow_raif.services.runtime import utc_now
from airflow_raif.store import EntryCounts

ROW = re.compile(r"^\| `(raif\.[\w.]+)` \| (\w+).*? \| (.+?) \|", re.MULTILINE)


class Recorder:
    """Notes what it is told."""

    def __init__(self):
        self.values = {}

    def _note(self, kind, name, value, tags):
        self.values[name] = (kind, value, dict(tags))

    def count(self, name, by, tags):
        self._note("counter", name, by, tags)

    def gauge(self, name, value, tags):
        self._note("gauge", name, value, tags)

    def time(self, name, took, tags):
        self._note("timer", name, took, tags)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def batch():
    now = utc_now()
    part = Part(
        id=1, number=0, model="m", request_count=3, request_bytes=9, status=BatchStatus.EXPIRED,
        usage=Usage(10, 4, 0, 20, 5), cost=Cost(1_500_000, 3_000_000),
        submitted_at=now, ended_at=now + timedelta(hours=1),
    )  # fmt: skip
    return Batch(
        id=1, batch_id="b", provider="openai", conn_id="c", model="m", endpoint="", spool_uri="", created_at=now,
        status=BatchStatus.ENDED, parts=[part], submitted_at=now, ended_at=now + timedelta(hours=2),
    )  # fmt: skip


def test_the_guide_explains_each(recorder, batch, repository):
    """Names, kinds and tags are those of its table, no more and no less."""
    part_submitted(recorder, batch, batch.parts[0], is_first=True)
    part_fetched(recorder, batch, batch.parts[0])
    batch_applied(recorder, batch, EntryCounts(0, 2, 1, {"expired": 1}))
    poller_waits(recorder, "c", [1, 2], 1)
    page = (repository / "docs" / "how-to" / "monitoring.md").read_text()
    explained = {name: (kind, set(re.findall(r"`(\w+)`", tags))) for name, kind, tags in ROW.findall(page)}
    assert {name: (kind, set(tags)) for name, (kind, _, tags) in recorder.values.items()} == explained


def test_figures(recorder, batch):
    """Money is in whole microdollars, a wait counts the jobs of all its batches, and times are the provider's."""
    part_fetched(recorder, batch, batch.parts[0])
    batch_applied(recorder, batch, EntryCounts(0, 2, 1, {"expired": 1}))
    poller_waits(recorder, "c", [1, 2], 0)
    values = {name: value for name, (_, value, _) in recorder.values.items()}
    assert values["raif.cost.microdollars"] == 2
    assert values["raif.poller.parts"] == 3
    assert values["raif.parts.duration"] == timedelta(hours=1)
    assert values["raif.batches.duration"] == timedelta(hours=2)
    assert "raif.poller.unanswered" not in values


def test_what_is_not_known_is_not_counted(recorder, batch):
    """A price that is missing is no price of zero."""
    batch.parts[0].cost = Cost()
    batch.parts[0].usage = Usage()
    part_fetched(recorder, batch, batch.parts[0])
    assert not [name for name in recorder.values if name.startswith(("raif.cost", "raif.tokens"))]
