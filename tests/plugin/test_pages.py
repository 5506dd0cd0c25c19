"""The pages as Airflow's API server serves them."""

from __future__ import annotations

import re

import pytest


def text_of(answer):
    assert answer.status_code == 200, answer.text
    return answer.text


def test_the_list_shows_every_batch_newest_first(world, client_of):
    """One row a batch, with its status, Dag, rows and cost; chips count by status."""
    page = text_of(client_of("admin").get("/raif/"))
    shown = re.findall(r'id="batch-([0-9a-f]{32})"', page)
    assert shown == [batch.batch_id for batch in sorted(world.batches.values(), key=lambda each: -each.id)]
    assert '<span class="badge in_progress">' in page


@pytest.mark.parametrize(
    "name", ["applied", "partial", "mapped", "by_hand", "hostile", "running", "started", "canceled", "pending"]
)
def test_a_batch_page(world, client_of, name):
    page = text_of(client_of("admin").get(f"/raif/batches/{world.id(name)}"))
    assert world.id(name) in page
