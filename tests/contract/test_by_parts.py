"""Parts applied one by one: every row in the file of its first part, rounds included, and nothing paid twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from airflow_raif.domain.errors import CanceledBatchError, InvalidBatchError, PartialBatchError
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.services import apply, row_files
from airflow_raif.services.advance import advance_batch, advance_part
from airflow_raif.services.apply import apply_part, apply_results
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.manifest import manifest_of, part_manifest_of
from airflow_raif.services.metrics import NoMetrics
from airflow_raif.services.outcome import check_outcome
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.retain import delete_spool
from airflow_raif.services.retry import retry_failed
from airflow_raif.services.share import find_share
from airflow_raif.services.start import start_batch
from airflow_raif.spool.files import results_file
from tests.support import CLAIM, PROVIDERS, defaults_of, folder, read_rows, rows, runtime_of

MIXED = [
    {"custom_id": f"row {n}", "prompt": f"Say {n}", "shelf": n, "model": ("gpt-5-nano", "gpt-5-mini")[n % 3 == 0]}
    for n in range(11)
]


@pytest.fixture
def runtime(emulator, store, tmp_path, monkeypatch):
    """Parts of four rows, and rows' columns in files of three."""
    monkeypatch.setattr(row_files, "ROWS_PER_FILE", 3)
    with runtime_of("openai", emulator.url, store, tmp_path, limits={"max_requests": 4}) as opened:
        yield opened


def ended(runtime, given=None, policy=None, **defaults):
    """A batch as a sensor leaves it to those who apply its parts: terminal, and nothing of it fetched."""
    batch = start_batch(
        runtime,
        lambda: given or rows(10),
        defaults=defaults_of(runtime.adapter.name, **defaults),
        claim=CLAIM,
        round_policy=policy,
    )
    fetch_batch_status(runtime, batch.batch_id)
    return advance_batch(runtime, batch.batch_id, may_fetch=False)


def work(runtime, batch, number, tmp_path):
    """Do what a mapped task does from its start to its end; return its manifest."""
    while not advance_part(runtime, batch.batch_id, number).is_fetched:
        fetch_batch_status(runtime, batch.batch_id)
    share = apply_part(runtime, batch.batch_id, number, folder(tmp_path / "out"))
    return part_manifest_of(runtime, share)


def whole(tmp_path):
    """Every result file's rows, in the order of the files' names."""
    return [row for path in sorted((tmp_path / "out").iterdir()) for row in read_rows(str(path))]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_each_part_by_itself_in_any_order(provider, emulator, store, tmp_path):
    """The files together are the file that one task would have written; the batch is applied with the last of them."""
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 4}) as runtime:
        batch = ended(runtime)
        assert [part.number for part in batch.first_parts] == [0, 1, 2]
        assert all(part.results_fetched_at is None for part in batch.parts)
        manifests = [work(runtime, batch, number, tmp_path) for number in (2, 0)]
        assert store.get_batch(batch.batch_id).applied_at is None
        manifests.append(work(runtime, batch, 1, tmp_path))
        applied = store.get_batch(batch.batch_id)
        assert applied.applied_at is not None
        assert applied.result_uri == f"file://{tmp_path}/out"
        found = whole(tmp_path)
        assert found == read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "one")).result_uri)
        assert [row["custom_id"] for row in found] == [f"row {n}" for n in range(10)]
        assert [row["shelf"] for row in found] == list(range(10))
        assert [(each["part"], each["first_row"], each["request_count"]) for each in manifests] == [
            (2, 8, 2), (0, 0, 4), (1, 4, 4),
        ]  # fmt: skip
        total = manifest_of(runtime, applied)
        assert sum(each["usage"]["output_tokens"] for each in manifests) == total["usage"]["output_tokens"]
        assert sum(each["counts"]["completed"] for each in manifests) == total["counts"]["completed"] == 10
    assert emulator.state.creates[provider] == 3


def test_each_part_has_rounds_of_its_own(runtime, emulator, store, tmp_path):
    """Failed rows go out again by part, also while others work; they come back into the file of their first part."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=3))
    batch = ended(runtime)
    first, second = (advance_part(runtime, batch.batch_id, number) for number in (0, 1))
    assert not first.is_fetched
    assert not second.is_fetched
    with pytest.raises(InvalidBatchError, match="results of part 0 .* were not fetched"):
        apply_part(runtime, batch.batch_id, 0, folder(tmp_path / "out"))
    for number in (1, 0, 2):
        work(runtime, batch, number, tmp_path)
    parts = store.get_batch(batch.batch_id).parts
    assert [(part.round, part.request_count) for part in parts] == [(0, 4), (0, 4), (0, 2), (1, 1), (1, 1), (1, 1)]
    found = whole(tmp_path)
    assert [(row["custom_id"], row["status"]) for row in found] == [(f"row {n}", "completed") for n in range(10)]
    assert emulator.state.creates["openai"] == 6
    assert store.get_batch(batch.batch_id).applied_at is not None


def test_a_round_that_is_opened_as_a_share_is_looked_up(runtime, emulator, store, monkeypatch):
    """Another task, as that of rows that are the same, may bring the part forward: its rows stay the same ones."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=3))
    batch = ended(runtime, MIXED)
    get_batch = store.get_batch

    def read_before_others_write(batch_id):
        found = get_batch(batch_id)
        monkeypatch.setattr(store, "get_batch", get_batch)
        advance_part(runtime, batch_id, 1)
        return found

    monkeypatch.setattr(store, "get_batch", read_before_others_write)
    share = find_share(runtime, batch.batch_id, 1)
    assert [entry.index for chunk in store.iter_entries(share.batch, share.rows) for entry in chunk] == [1, 2, 4, 5]
    assert share.numbers == {1, 3}


def test_a_round_that_is_opened_as_a_part_is_applied(runtime, emulator, store, tmp_path):
    """What was written is not all of it, so it is not noted."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=3))
    batch = ended(runtime, MIXED)
    advance_part(runtime, batch.batch_id, 1, may_repeat=False)
    share = find_share(runtime, batch.batch_id, 1)
    assert share.is_fetched
    advance_part(runtime, batch.batch_id, 1)
    uri, at = f"file://{tmp_path}/out/results", runtime.clock()
    assert not store.mark_part_applied(share.batch, share.part, share.rows, share.numbers, uri, at)


def test_rounds_of_a_part_end(runtime, emulator, store, tmp_path):
    """However many rounds others had, a row goes out as often as the policy says."""
    emulator.state.faults.rows.append(RowFault(kind="overloaded", rows=[0]))
    batch = ended(runtime, policy=RoundPolicy(max_rounds=2))
    manifests = [work(runtime, batch, number, tmp_path) for number in range(3)]
    assert [part.round for part in store.get_batch(batch.batch_id).parts] == [0, 0, 0, 1, 2, 1, 2, 1, 2]
    assert [each["counts"]["reasons"] for each in manifests] == [{"errored": 1}] * 3
    assert emulator.state.creates["openai"] == 9


def test_rounds_that_a_sensor_ran_before(runtime, emulator, store, tmp_path):
    """Rows of two parts went out again in one: each is in the file of its own first part."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0, 1], batches=2))
    batch = ended(runtime)
    while not (batch := advance_batch(runtime, batch.batch_id)).status.is_terminal:
        fetch_batch_status(runtime, batch.batch_id)
    assert [part.request_count for part in batch.parts] == [4, 4, 2, 4]
    for number in range(3):
        work(runtime, batch, number, tmp_path)
    assert [row["shelf"] for row in whole(tmp_path)] == list(range(10))
    assert {row["status"] for row in whole(tmp_path)} == {"completed"}


def test_parts_of_several_models(runtime, emulator, store, tmp_path):
    """Their rows take turns in the input: each file has those of its part, and together they are all."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=4))
    batch = ended(runtime, MIXED)
    assert len(batch.first_parts) == 3
    for part in batch.first_parts:
        manifest = work(runtime, batch, part.number, tmp_path)
        found = read_rows(manifest["result_uri"])
        assert len(found) == part.request_count
        assert manifest["model"] == part.model
        shelves = [row["shelf"] for row in found]
        assert shelves == sorted(shelves)
        assert {MIXED[shelf]["model"] for shelf in shelves} == {part.model}
        assert [row["custom_id"] for row in found] == [f"row {shelf}" for shelf in shelves]
    assert sorted(row["shelf"] for row in whole(tmp_path)) == list(range(11))
    assert {row["status"] for row in whole(tmp_path)} == {"completed"}
    assert store.get_batch(batch.batch_id).applied_at is not None


def test_a_repeated_task_redoes_its_part_alone(runtime, emulator, store, tmp_path):
    """It asks nobody for anything, touches no other file, and leaves the time at which the batch was applied."""
    batch = ended(runtime)
    for number in range(3):
        work(runtime, batch, number, tmp_path)
    applied = store.get_batch(batch.batch_id)
    files = sorted((tmp_path / "out").iterdir())
    before, content = [path.stat().st_mtime_ns for path in files], files[1].read_bytes()
    calls = sum(emulator.state.requests.values())
    work(runtime, batch, 1, tmp_path)
    assert [path.stat().st_mtime_ns for path in files] == before
    files[1].unlink()
    work(runtime, batch, 1, tmp_path)
    assert files[1].read_bytes() == content
    assert [path.stat().st_mtime_ns for path in files[::2]] == before[::2]
    assert store.get_batch(batch.batch_id).applied_at == applied.applied_at
    assert sum(emulator.state.requests.values()) == calls
    assert delete_spool(store, runtime.spool, applied, runtime.clock())
    assert work(runtime, batch, 1, tmp_path)["counts"]["completed"] == 4
    files[1].unlink()
    with pytest.raises(InvalidBatchError, match=r"spool of batch .* was deleted"):
        work(runtime, batch, 1, tmp_path)


def test_parts_that_end_at_once_count_their_batch_once(runtime, store, tmp_path, monkeypatch):
    """Though each read it before the other was through."""
    counted = []

    class Counter(NoMetrics):
        def count(self, name, by, tags):
            counted.append(name)

    runtime = dataclasses.replace(runtime, metrics=Counter())
    batch = ended(runtime)
    work(runtime, batch, 2, tmp_path)
    real = store.mark_part_applied

    def before_another(*arguments):
        monkeypatch.setattr(store, "mark_part_applied", real)
        is_marked = real(*arguments)
        work(runtime, batch, 1, tmp_path)
        return is_marked

    monkeypatch.setattr(store, "mark_part_applied", before_another)
    work(runtime, batch, 0, tmp_path)
    work(runtime, batch, 0, tmp_path)
    assert store.get_batch(batch.batch_id).applied_at is not None
    assert counted.count("raif.batches.ended") == 1


def test_a_round_that_another_attempt_lives_while_one_writes(runtime, emulator, store, tmp_path, monkeypatch):
    """What was written is not all, so it is written anew."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    batch = ended(runtime, rows(3))
    share = advance_part(runtime, batch.batch_id, 0, may_repeat=False)
    real = store.mark_part_applied

    def late(*arguments):
        monkeypatch.setattr(store, "mark_part_applied", real)
        work(runtime, batch, 0, tmp_path)
        return real(*arguments)

    monkeypatch.setattr(store, "mark_part_applied", late)
    assert share.is_fetched
    apply_part(runtime, batch.batch_id, 0, folder(tmp_path / "out"))
    assert [row["status"] for row in whole(tmp_path)] == ["completed"] * 3
    assert emulator.state.creates["openai"] == 2


def test_a_round_that_is_opened_while_one_looks(runtime, emulator, store, tmp_path, monkeypatch):
    """The rows are in a part that was not there a moment before: they are not taken for fetched."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    batch = ended(runtime, rows(3))
    advance_part(runtime, batch.batch_id, 0, may_repeat=False)
    real = store.parts_of_rows

    def late(*arguments):
        monkeypatch.setattr(store, "parts_of_rows", real)
        assert not advance_part(runtime, batch.batch_id, 0).is_fetched
        return real(*arguments)

    monkeypatch.setattr(store, "parts_of_rows", late)
    with pytest.raises(InvalidBatchError, match="were not fetched"):
        apply_part(runtime, batch.batch_id, 0, folder(tmp_path / "out"))
    work(runtime, batch, 0, tmp_path)
    assert [row["status"] for row in whole(tmp_path)] == ["completed"] * 3


def test_another_part_gets_its_round_first(runtime, emulator, store, tmp_path, monkeypatch):
    """Both count on the same next number: one waits for the other's, and nothing goes out twice."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=3))
    batch = ended(runtime)
    real = store.open_round

    def second(*arguments):
        monkeypatch.setattr(store, "open_round", real)
        assert not advance_part(runtime, batch.batch_id, 1).is_fetched
        return real(*arguments)

    monkeypatch.setattr(store, "open_round", second)
    for number in range(3):
        work(runtime, batch, number, tmp_path)
    assert {row["status"] for row in whole(tmp_path)} == {"completed"}
    assert emulator.state.creates["openai"] == 6
    assert not [path.name for path in (tmp_path / "spool" / batch.batch_id).iterdir() if "draft" in path.name]


def test_a_refused_round_ends_for_its_part_alone(runtime, emulator, store, tmp_path):
    """Another part's round, not sent yet, goes out all the same."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=2))
    batch = ended(runtime, rows(8))
    emulator.state.faults.http.append(HttpFault(route="openai.batches.create", status=401))
    with pytest.raises(Exception, match="key"):
        advance_part(runtime, batch.batch_id, 0)
    emulator.state.faults.http.append(HttpFault(route="openai.batches.create", status=400))
    failed = read_rows(work(runtime, batch, 1, tmp_path)["result_uri"])
    found = read_rows(work(runtime, batch, 0, tmp_path)["result_uri"])
    assert [row["status"] for row in failed] == ["completed", "failed", "completed", "completed"]
    assert [row["status"] for row in found] == ["completed"] * 4


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (7, "has no part 7 to apply, only 0 to 2"),
        (3, "has no part 3 to apply, only 0 to 2; part 3 repeats rows of these in round 1"),
    ],
)
def test_a_number_that_is_no_part(runtime, emulator, tmp_path, number, message):
    """The error names those that there are."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    batch = ended(runtime)
    for each in range(3):
        work(runtime, batch, each, tmp_path)
    for step in (advance_part, lambda *who: apply_part(*who, folder(tmp_path / "out"))):
        with pytest.raises(InvalidBatchError, match=message):
            step(runtime, batch.batch_id, number)


def test_a_part_that_runs(emulator_of, store, tmp_path):
    """It is not for this to wait for it."""
    emulator = emulator_of()
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        batch = start_batch(runtime, lambda: rows(2), defaults=defaults_of("openai"), claim=CLAIM)
        with pytest.raises(InvalidBatchError, match="part 0 of batch .* is in_progress and has not ended"):
            advance_part(runtime, batch.batch_id, 0)


def test_each_part_is_judged_by_its_own_rows(runtime, emulator, tmp_path):
    """The part with the failed row fails its task, and no other."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[3], batches=1))
    batch = ended(runtime)
    shares = []
    for number in range(3):
        work(runtime, batch, number, tmp_path)
        shares.append(apply_part(runtime, batch.batch_id, number, folder(tmp_path / "out")))
    with pytest.raises(PartialBatchError, match="part 0 of batch .*: 3 of 4 entries completed, 1 errored"):
        check_outcome(runtime, shares[0].batch, max_failed_fraction=0.1, share=shares[0])
    for share in shares[1:]:
        check_outcome(runtime, share.batch, max_failed_fraction=0.1, share=share)


def test_what_a_canceled_part_finished_is_applied(emulator_of, store, tmp_path):
    """Its rows are written before its task is told that it was canceled; no round follows."""
    emulator = emulator_of()
    emulator.state.faults.done_at_cancel = 0.5
    with runtime_of("openai", emulator.url, store, tmp_path, limits={"max_requests": 4}) as runtime:
        batch = start_batch(runtime, lambda: rows(8), defaults=defaults_of("openai"), claim=CLAIM)
        cancel_batch(runtime, batch.batch_id)
        fetch_batch_status(runtime, batch.batch_id)
        manifest = work(runtime, batch, 1, tmp_path)
        assert manifest["counts"]["reasons"] == {"canceled": 2}
        share = apply_part(runtime, batch.batch_id, 1, folder(tmp_path / "out"))
        with pytest.raises(CanceledBatchError, match="part 1 of batch .* was canceled: 2 of 4 entries completed"):
            check_outcome(runtime, share.batch, share=share)


def test_parts_of_a_batch_that_was_given_up(runtime, store, tmp_path):
    """Its input was not read to the end, and rows of the other model between those of its part are gone."""

    def broken():
        yield from ({"prompt": str(n), "model": ("gpt-5-nano", "gpt-5-mini")[n % 3 == 0]} for n in range(9))
        raise OSError("the table is gone")

    with pytest.raises(OSError, match="table"):
        start_batch(runtime, broken, defaults=defaults_of("openai"), claim=CLAIM)
    batch = store.find_by_claim(CLAIM)
    cancel_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    assert [part.model for part in store.get_batch(batch.batch_id).parts] == ["gpt-5-nano"]
    work(runtime, batch, 1, tmp_path)
    assert [row["custom_id"] for row in whole(tmp_path)] == ["1", "2", "4", "5"]


def test_results_that_are_gone_from_the_spool(runtime, store, tmp_path):
    """The error names the file; another part's is not needed."""
    batch = ended(runtime)
    fetch_batch_results(runtime, batch.batch_id)
    (tmp_path / "spool" / batch.batch_id / results_file(1)).unlink()
    work(runtime, batch, 0, tmp_path)
    with pytest.raises(InvalidBatchError, match=f"put {results_file(1)} back"):
        work(runtime, batch, 1, tmp_path)
    assert msgspec.structs.asdict(store.get_batch(batch.batch_id))["applied_at"] is None


def test_few_parts_are_open_at_one_time(runtime, tmp_path, monkeypatch):
    """Rows that lie in more parts than are held open are written in order all the same, and no file stays open."""
    monkeypatch.setattr(apply, "MAX_OPEN_PARTS", 1)
    batch = ended(runtime, MIXED)
    assert len(batch.parts) == 3
    fetch_batch_results(runtime, batch.batch_id)
    found = read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri)
    assert [(row["custom_id"], row["status"]) for row in found] == [(f"row {n}", "completed") for n in range(11)]
    left = [path.readlink().name for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [name for name in left if name.endswith(".results.jsonl")]


def test_rows_that_are_sent_again_by_hand_after_all_was_applied(runtime, emulator, store, tmp_path):
    """One new part holds rows of several; whoever takes up a part finds its own there, and its file is whole again."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[1], batches=3))
    batch = ended(runtime)
    for number in (0, 1, 2):
        work(runtime, batch, number, tmp_path)
    retry_failed(runtime, batch.batch_id)
    again = advance_batch(runtime, batch.batch_id, may_fetch=False)
    assert [part.request_count for part in again.parts] == [4, 4, 2, 3]
    assert [part.number for part in again.first_parts] == [0, 1, 2]
    with pytest.raises(InvalidBatchError, match="were not fetched"):
        apply_part(runtime, batch.batch_id, 1, folder(tmp_path / "out"))
    fetch_batch_status(runtime, batch.batch_id)
    manifests = [work(runtime, batch, number, tmp_path) for number in (1, 2, 0)]
    assert [each["counts"]["failed"] for each in manifests] == [0, 0, 0]
    assert [row["status"] for row in whole(tmp_path)] == ["completed"] * 10
    assert store.get_batch(batch.batch_id).applied_at is not None
    assert emulator.state.creates["openai"] == 4


def test_a_canceled_part_whose_rows_were_sent_again(emulator_of, store, tmp_path):
    """They had their chance then, so the task of the part does not fail for it."""
    emulator = emulator_of(progress=Progress.parse("polls:1000"))
    with runtime_of("openai", emulator.url, store, tmp_path, limits={"max_requests": 4}) as runtime:
        batch = ended(runtime)
        cancel_batch(runtime, batch.batch_id)
        work(runtime, batch, 0, tmp_path)
        with pytest.raises(CanceledBatchError):
            check_outcome(runtime, store.get_batch(batch.batch_id), share=find_share(runtime, batch.batch_id, 0))
        fetch_batch_results(runtime, batch.batch_id)
        retry_failed(runtime, batch.batch_id)
        advance_batch(runtime, batch.batch_id, may_fetch=False)
        object.__setattr__(emulator.settings, "progress", Progress.parse("immediate"))
        fetch_batch_status(runtime, batch.batch_id)
        work(runtime, batch, 0, tmp_path)
        share = find_share(runtime, batch.batch_id, 0)
        check_outcome(runtime, share.batch, max_failed_fraction=0.0, share=share)
