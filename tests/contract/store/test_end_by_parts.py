"""A batch that is applied by parts has one end: whoever is through last brings it there, also if two are at once."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from threading import Barrier

import pytest

from airflow_raif.domain.batch import Claim
from airflow_raif.services.apply import apply_part
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.start import start_batch
from airflow_raif.store import Store
from tests.support import CLAIM, defaults_of, folder, rows, runtime_of

PARTS = 4
LIMITS = {"max_requests": 2}


@pytest.fixture
def runtime(emulator, store, tmp_path):
    with runtime_of("openai", emulator.url, store, tmp_path, limits=LIMITS) as opened:
        yield opened


def fetched(runtime, claim=CLAIM):
    """A batch whose parts are fetched and wait to be applied."""
    made = start_batch(runtime, lambda: rows(2 * PARTS), defaults=defaults_of("openai"), claim=claim)
    fetch_batch_status(runtime, made.batch_id)
    return fetch_batch_results(runtime, made.batch_id)


@pytest.fixture
def batch(runtime):
    return fetched(runtime)


@pytest.fixture
def apply(runtime, batch, tmp_path):
    """Do what the task of a part does; it notes if it is the one that ends the batch."""
    ends: list[int] = []

    def run(number, end=lambda batch: None, by=runtime, of=batch):
        def note(ended):
            ends.append(number)
            end(ended)

        apply_part(by, of.batch_id, number, folder(tmp_path / of.batch_id), end=note)

    run.ends = ends
    return run


def test_all_are_through_at_once(apply, runtime, emulator, store, url, tmp_path):
    """Each with connections of its own: one of them ends the batch."""
    barrier = Barrier(PARTS)

    def work(number, batch):
        with ExitStack() as stack:
            own = Store.open(url)
            stack.callback(own.close)
            mark = own.mark_part_applied

            def mark_together(*arguments):
                barrier.wait(60)
                return mark(*arguments)

            own.mark_part_applied = mark_together
            by = stack.enter_context(runtime_of("openai", emulator.url, own, tmp_path, limits=LIMITS))
            apply(number, by=by, of=batch)

    for attempt in range(3):
        batch = fetched(runtime, Claim("dag", "run", "task", attempt))
        with ThreadPoolExecutor(PARTS) as pool:
            list(pool.map(work, range(PARTS), [batch] * PARTS))
        assert len(apply.ends) == attempt + 1
        found = store.get_batch(batch.batch_id)
        assert found.applied_at is not None
        assert found.result_uri == f"file://{tmp_path}/{batch.batch_id}"
        for number in range(PARTS):
            apply(number, of=batch)
        assert len(apply.ends) == attempt + 1


def test_others_are_repeated_while_the_last_one_ends_it(apply, batch, store):
    """It is being ended already, and by the one that was last; the others leave that alone."""

    def end(ended):
        assert ended.applied_at is None
        assert ended.is_being_delivered
        for number in range(PARTS - 1):
            apply(number)

    for number in range(PARTS - 1):
        apply(number)
    apply(PARTS - 1, end)
    assert apply.ends == [PARTS - 1]
    assert store.get_batch(batch.batch_id).applied_at is not None


def test_the_last_one_dies_while_it_ends_it(apply, batch, store):
    """Its own retry ends it, nobody else does, and then it has ended."""

    def dies(ended):
        raise KeyboardInterrupt

    for number in (1, 0, 3):
        apply(number)
    with pytest.raises(KeyboardInterrupt):
        apply(2, dies)
    assert store.get_batch(batch.batch_id).applied_at is None
    for number in (1, 3, 0):
        apply(number)
    assert apply.ends == [2]
    assert store.get_batch(batch.batch_id).applied_at is None
    apply(2)
    assert apply.ends == [2, 2]
    assert store.get_batch(batch.batch_id).applied_at is not None
    apply(2)
    assert apply.ends == [2, 2]


def test_clocks_that_differ(apply, runtime):
    """Who came last was last, whatever its clock says."""
    now = runtime.clock()
    other = dataclasses.replace(runtime, clock=lambda: now - timedelta(hours=1))
    still = dataclasses.replace(runtime, clock=lambda: now)
    for number in range(PARTS - 1):
        apply(number, by=still)
    apply(PARTS - 1, by=other)
    assert apply.ends == [PARTS - 1]
    apply(0)
    assert apply.ends == [PARTS - 1]
