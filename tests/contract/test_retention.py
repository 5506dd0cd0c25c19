"""Retention: nothing is deleted before it was applied, once is enough, and what is gone at the provider ends."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_raif.domain.errors import BatchNotFoundError, InvalidBatchError
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import RowFault
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.retain import delete_provider_files, delete_spool
from airflow_raif.spool.files import Folder
from airflow_raif.store import Store
from tests.contract.world import DAY, HOUR
from tests.support import defaults_of, folder, rows

KEPT = {"openai": 30 * DAY, "anthropic": 29 * DAY, "gemini": 42 * DAY}
#: Files of one batch with an answer and an error.
FILES = {"openai": 3, "anthropic": 0, "gemini": 2}


@pytest.fixture(autouse=True)
def with_files(monkeypatch):
    """Let Gemini's batches go through files, too."""
    monkeypatch.setattr("airflow_raif.adapters.gemini.INLINE_MAX_BYTES", 10)


def ended(world, provider, **arguments):
    batch = world.submit(provider, **arguments)
    world.end_all()
    world.poll(batch)
    return batch


def deletes(world, provider):
    return world.emulator.state.requests[f"{provider}.files.delete"]


# Files at the provider


def test_nothing_is_deleted_by_default(each, world):
    """However old it is."""
    world.finish(ended(world, each))
    world.passes(365 * DAY)
    assert dict(world.sweep().counts) == {"open": 0}
    assert deletes(world, each) == 0
    assert any((world.path / "spool").rglob("*"))


def test_files_are_deleted_only_after_the_results_were_applied(each, world):
    """Neither those of a running batch, nor fetched ones that nobody applied, nor before their days are over."""
    world.emulator.state.faults.rows.append(RowFault(kind="errored", rows=[0], batches=1))
    batch = world.submit(each)
    world.passes(3 * HOUR)
    assert world.sweep(delete_files_after=timedelta(0)).counts["resumed"] == 1
    world.end_all()
    world.passes(3 * HOUR)
    assert world.sweep(delete_files_after=timedelta(0)).counts["fetched"] == 1
    world.passes(3 * HOUR)
    world.sweep(delete_files_after=timedelta(0))
    assert deletes(world, each) == 0
    with world.open(each) as runtime, pytest.raises(InvalidBatchError, match="were not fetched and applied"):
        delete_provider_files(runtime, batch.batch_id)
    world.finish(batch)
    assert len(world.emulator.state.files[each]) == FILES[each]
    assert world.sweep(delete_files_after=3 * HOUR).counts["files_deleted"] == 0
    world.passes(4 * HOUR)
    report = world.sweep(delete_files_after=3 * HOUR)
    assert report.counts["files_deleted"] == bool(FILES[each])
    assert (world.emulator.state.files[each], report.warnings) == ({}, [])
    assert world.read(batch).files_deleted_at is not None
    calls = world.calls()
    world.sweep(delete_files_after=3 * HOUR)
    assert world.calls() == calls
    assert len(world.finish(batch, "elsewhere")) == 3


def test_files_that_are_gone_are_as_good_as_deleted(world):
    """Somebody else deleted one: the rest is deleted, and that is all."""
    batch = ended(world, "openai")
    world.finish(batch)
    files = world.emulator.state.files["openai"]
    world.emulator.state.remove_file("openai", next(iter(files.values())))
    world.passes(DAY)
    report = world.sweep(delete_files_after=HOUR)
    assert (files, report.warnings) == ({}, [])
    assert "1 files at openai deleted" in report.done[0]


def test_a_file_that_the_provider_forbids_is_left_to_it(world, caplog):
    """So Gemini speaks of one that is gone, too."""
    batch = ended(world, "gemini")
    world.finish(batch)
    files = world.emulator.state.files["gemini"]
    world.emulator.state.remove_file("gemini", next(iter(files.values())))
    world.passes(DAY)
    report = world.sweep(delete_files_after=HOUR)
    assert (files, report.warnings) == ({}, [])
    assert "1 files at gemini deleted" in report.done[0]
    assert "or it may not exist" in caplog.text


def test_a_delete_that_fails_is_made_up_for(world):
    """The provider is away in the middle of it; the next pass goes on."""
    batch = ended(world, "openai")
    world.finish(batch)
    world.passes(DAY)
    world.fault("openai.files.delete", status=500, skip=1, times=-1)
    report = world.sweep(delete_files_after=HOUR)
    assert (report.counts["failed"], world.read(batch).files_deleted_at) == (1, None)
    assert not report.is_futile
    world.emulator.state.faults.http.clear()
    assert world.sweep(delete_files_after=HOUR).counts["files_deleted"] == 1
    assert world.emulator.state.files["openai"] == {}


def test_a_file_that_the_provider_will_not_delete_is_left_to_it(world, caplog):
    """Gemini refuses the names of its own result files; that is told once, and not tried every hour."""
    batch = ended(world, "gemini")
    world.finish(batch)
    world.passes(DAY)
    world.fault("gemini.files.delete", status=400, skip=1, times=-1)
    world.sweep(delete_files_after=HOUR)
    assert "stays until the provider deletes it" in caplog.text
    calls = deletes(world, "gemini")
    world.sweep(delete_files_after=HOUR)
    assert deletes(world, "gemini") == calls


def test_uploads_that_the_provider_has_deleted_by_itself_are_not_asked_for(world):
    """Gemini forbids a file that is not there, which looks like a wrong key."""
    world.finish(ended(world, "gemini"))
    world.passes(3 * DAY)
    assert "1 files at gemini deleted" in world.sweep(delete_files_after=DAY).done[0]
    assert deletes(world, "gemini") == 1


def test_files_of_a_round_are_deleted_too(each, world):
    """A batch that was taken up again after its files were deleted gets new ones."""
    world.emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=1))
    batch = ended(world, each)
    with world.open(each) as runtime:
        world.passes(4 * HOUR)
        world.sweep()
        apply_results(runtime, batch.batch_id, folder(world.path / "early"))
    world.passes(2 * HOUR)
    world.sweep(delete_files_after=HOUR)
    assert world.emulator.state.files[each] == {}
    assert [row["status"] for row in world.finish(batch)] == ["completed"] * 3
    world.passes(2 * HOUR)
    world.sweep(delete_files_after=HOUR)
    assert world.emulator.state.files[each] == {}


# Spools


def spool_of(world, batch):
    return world.path / "spool" / batch.batch_id


def test_spools_are_deleted_only_after_the_results_were_applied(each, world):
    """The spool of a fetched batch may be the only place where its paid answers are."""
    batch = ended(world, each)
    world.passes(60 * DAY)
    world.sweep(delete_spools_after=timedelta(0))
    assert world.read(batch).results_fetched_at is not None
    world.passes(60 * DAY)
    world.sweep(delete_spools_after=timedelta(0))
    with pytest.raises(InvalidBatchError, match="were not fetched and applied"):
        delete_spool(world.store, world.spool, world.read(batch), world.clock())
    assert spool_of(world, batch).is_dir()
    world.finish(batch)
    assert world.sweep(delete_spools_after=DAY).counts["spools_deleted"] == 0
    del world.connections[each]
    world.passes(2 * DAY)
    report = world.sweep(delete_spools_after=DAY)
    assert (report.counts["spools_deleted"], report.warnings) == (1, [])
    assert not spool_of(world, batch).exists()
    assert world.sweep(delete_spools_after=DAY).counts["spools_deleted"] == 0


def test_a_task_that_is_cleared_after_its_spool_was_deleted(each, world):
    """Its results are still there and nothing is paid; for another place they are not, which is told."""
    world.emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=1))
    batch = ended(world, each, policy=RoundPolicy(max_rounds=1))
    with world.open(each) as runtime:
        world.passes(4 * HOUR)
        world.sweep()
        apply_results(runtime, batch.batch_id, folder(world.path / "out" / batch.batch_id))
    world.passes(2 * DAY)
    world.sweep(delete_spools_after=DAY)
    assert world.submit(each).batch_id == batch.batch_id
    found = world.finish(batch)
    assert [row["status"] for row in found] == ["failed", "completed", "completed"]
    with pytest.raises(InvalidBatchError, match=r"the spool of batch .* was deleted on 20.*trigger a new run"):
        world.finish(batch, "elsewhere")
    assert world.emulator.state.creates[each] == 1


def test_a_deletion_that_was_cut_short_is_made_up_for(world, monkeypatch):
    """The worker died after it noted the deletion; the next pass deletes the files."""
    batch = ended(world, "openai")
    world.finish(batch)
    world.passes(2 * DAY)
    original = Store.mark_spool_deleted

    def dies(*arguments):
        original(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Store, "mark_spool_deleted", dies)
        world.sweep(delete_spools_after=DAY)
    assert spool_of(world, batch).is_dir()
    assert world.sweep(delete_spools_after=DAY).counts["spools_deleted"] == 1
    assert not spool_of(world, batch).exists()


def test_what_was_never_created_whole_is_discarded(world, monkeypatch):
    """A worker died while it spooled, and its task never came back; a batch that is only not sent yet stays."""

    def breaks():
        yield from rows(2)
        raise KeyboardInterrupt

    with world.open("openai") as runtime:
        whole = create_batch(runtime, rows(2), defaults=defaults_of("openai"))
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            # A kill leaves no time to tidy up.
            killed.setattr(Store, "discard_batch", lambda *_: True)
            killed.setattr(Folder, "delete", lambda *_: False)
            create_batch(runtime, breaks(), defaults=defaults_of("openai"))
    assert len(list((world.path / "spool").iterdir())) == 2
    assert world.sweep(delete_spools_after=DAY).counts["discarded"] == 0
    world.passes(2 * DAY)
    assert world.sweep(delete_spools_after=DAY).counts["discarded"] == 1
    assert [each.name for each in (world.path / "spool").iterdir()] == [whole.batch_id]


# Gone at the provider


def test_results_that_are_not_found_are_not_given_up_before_their_time(each, world):
    """A connection to another account finds nothing either: the batch waits for the right one."""
    batch = ended(world, each)
    forget = dict(world.emulator.state.batches[each]), dict(world.emulator.state.files[each])
    world.emulator.state.batches[each].clear()
    world.emulator.state.files[each].clear()
    world.passes(KEPT[each] - DAY)
    for _ in range(2):
        report = world.sweep()
        assert (report.counts["failed"], report.counts["vanishing"]) == (1, 1)
        assert "answered 404" in report.warnings[0]
    with pytest.raises(BatchNotFoundError):
        world.finish(batch)
    world.emulator.state.batches[each].update(forget[0])
    world.emulator.state.files[each].update(forget[1])
    assert world.sweep().counts["fetched"] == 1
    assert [row["status"] for row in world.finish(batch)] == ["completed"] * 3


@pytest.mark.parametrize("was_polled", [True, False])
def test_results_that_are_gone_end_the_waiting(each, world, was_polled):
    """After its time a part that is not found has no results; those of the others are applied."""
    world.connections[each] = {"limits": {"max_requests": 2}}
    batch = world.submit(each, 4, policy=RoundPolicy(max_rounds=0))
    world.end_all()
    if was_polled:
        world.poll(batch)
    else:
        with world.open(each) as runtime:
            runtime.transport.send(runtime.adapter.get_request(batch.parts[1].provider_batch_id))
    gone = batch.parts[0].provider_batch_id
    lost = world.emulator.state.batches[each].pop(gone)
    if lost.output is not None:
        world.emulator.state.files[each].pop(lost.output.id, None)
    world.passes(KEPT[each] + DAY)
    report = world.sweep()
    assert (report.counts["fetched"], report.warnings) == (1, [])
    found = world.finish(batch)
    assert [row["status"] for row in found] == ["failed", "failed", "completed", "completed"]
    assert {row["reason"] for row in found[:2]} == {"missing" if was_polled else "expired"}
    assert world.emulator.state.creates[each] == 2
    assert world.read(batch).status is BatchStatus.ENDED


def test_one_part_that_is_not_found_does_not_keep_the_others_away(each, world):
    """Long before its time: the others are polled and fetched, and the batch waits for the one."""
    world.connections[each] = {"limits": {"max_requests": 2}}
    batch = world.submit(each, 4)
    world.end_all()
    world.emulator.state.batches[each].pop(batch.parts[0].provider_batch_id)
    world.passes(3 * HOUR)
    world.sweep()
    world.passes(3 * HOUR)
    world.sweep()
    swept = world.read(batch)
    assert [part.results_fetched_at is not None for part in swept.parts] == [False, True]
    assert world.store.count_entries(swept).completed == 2


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_one_part_whose_results_are_garbage_does_not_keep_the_others_away(world, provider):
    """A page of a gateway stands in the place of its results: it is asked for again at every pass, alone."""
    world.connections[provider] = {"limits": {"max_requests": 2}}
    batch = ended(world, provider, count=4)
    output = world.emulator.state.batches[provider][batch.parts[0].provider_batch_id].output.path
    good = output.read_bytes()
    output.write_text("<html>")
    world.passes(3 * HOUR)
    report = world.sweep()
    assert "no line of its results is a row of it" in report.warnings[0]
    assert [part.results_fetched_at is not None for part in world.read(batch).parts] == [False, True]
    output.write_bytes(good)
    assert world.sweep().counts["fetched"] == 1
    assert [row["status"] for row in world.finish(batch)] == ["completed"] * 4
