"""Rows that take answers of others: in one batch, and from earlier ones; none is lost."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from sqlalchemy import event

from airflow_raif.domain.batch import SHARED, Claim
from airflow_raif.domain.errors import (
    FailedBatchError,
    InputChangedError,
    InvalidBatchError,
    InvalidRequestError,
    StoreUnavailableError,
)
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.sharing import Sharing
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.services import apply, seen
from airflow_raif.services.advance import advance_batch, advance_part
from airflow_raif.services.apply import apply_part, apply_results
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.fetch import fetch_batch_results, fetch_now
from airflow_raif.services.manifest import manifest_of
from airflow_raif.services.outcome import check_outcome
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.retain import delete_spool
from airflow_raif.services.retry import retry_failed
from airflow_raif.services.rounds import open_round
from airflow_raif.services.share import find_share
from airflow_raif.services.start import start_batch
from airflow_raif.spool.files import Folder, results_file
from tests.support import ANSWER, CLAIM, MODELS, PROVIDERS, defaults_of, folder, read_rows, runtime_of

REUSE = Sharing(reuse_for=timedelta(days=30))


@pytest.fixture(params=PROVIDERS)
def provider(request):
    return request.param


@pytest.fixture
def runtime(provider, emulator, store, tmp_path):
    """Parts of four rows."""
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 4}) as opened:
        yield opened


def said(*texts):
    return [{"custom_id": f"row {n}", "prompt": text, "shelf": n} for n, text in enumerate(texts)]


def start(runtime, given, sharing=None, run="run", **values):
    defaults = defaults_of(runtime.adapter.name, **values.pop("defaults", {}))
    claim = Claim("dag", run, "task", -1)
    return start_batch(runtime, lambda: iter(given), defaults=defaults, claim=claim, sharing=sharing, **values)


def finish(runtime, batch):
    while not (batch := advance_batch(runtime, batch.batch_id)).status.is_terminal:
        fetch_batch_status(runtime, batch.batch_id)
    return batch


def run(runtime, given, sharing=None, run="run", **values):
    return finish(runtime, start(runtime, given, sharing, run, **values))


def results(runtime, batch, tmp_path):
    place = folder(tmp_path / "out" / batch.batch_id)
    return read_rows(apply_results(runtime, batch.batch_id, place).result_uri)


def test_the_same_request_is_sent_once(provider, runtime, emulator, tmp_path):
    """Each row has the answer, its own id and its own columns; it is billed once."""
    batch = run(runtime, said("a", "b", "a", "c", "a", "b"))
    assert [part.request_count for part in batch.parts if not part.is_shared] == [3]
    found = results(runtime, batch, tmp_path)
    assert [row["shelf"] for row in found] == list(range(6))
    assert [row["custom_id"] for row in found] == [f"row {n}" for n in range(6)]
    assert {row["status"] for row in found} == {"completed"}
    answers = [row["output"] for row in found]
    assert answers[0] == answers[2] == answers[4] != answers[1] == answers[5] != answers[3]
    billed = [row["usage"] is not None for row in found]
    assert billed == [True, True, False, True, False, False]
    assert [row["cost"]["batch"] for row in found[2:3] + found[4:]] == [0, 0, 0]
    manifest = manifest_of(runtime, batch)
    assert manifest["counts"]["completed"] == manifest["request_count"] == 6
    assert (manifest["duplicates"], manifest["reused"]) == (3, 0)
    total = sum(row["usage"]["output_tokens"] for row in found if row["usage"])
    assert manifest["usage"]["output_tokens"] == total


def test_what_differs_is_sent(provider, runtime, tmp_path):
    """A parameter, a system prompt or a model of its own makes another request."""
    same = {"prompt": "a"}
    other = MODELS[provider] + "-other"
    given = [same, {**same, "max_tokens": 7}, {**same, "system": "Be brief."}, {**same, "model": other}, same]
    batch = run(runtime, given)
    assert sum(part.request_count for part in batch.parts if not part.is_shared) == 4
    assert [row["usage"] is None for row in results(runtime, batch, tmp_path)] == [False] * 4 + [True]


def test_each_row_is_sent_if_the_user_wants_that(provider, runtime):
    """Several answers to one question are wanted sometimes."""
    batch = run(runtime, said("a", "a", "a"), Sharing(within_batch=False))
    assert [part.request_count for part in batch.parts] == [3]
    assert batch.usage.output_tokens > 0


def test_more_requests_than_are_kept_in_memory(provider, runtime, tmp_path, monkeypatch):
    """Found again, whether the first one was put into the temporary file, is about to be, or is of the same chunk."""
    monkeypatch.setattr(seen, "KEPT", 5)
    given = said(*(f"text {n % 13}" for n in range(60)))
    batch = run(runtime, given)
    assert sum(part.request_count for part in batch.parts if not part.is_shared) == 13
    found = results(runtime, batch, tmp_path)
    assert all(row["output"] == found[n % 13]["output"] for n, row in enumerate(found))
    assert [row["shelf"] for row in found] == list(range(60))


def test_a_failure_is_handed_on_and_so_is_the_round_that_mends_it(provider, runtime, emulator, tmp_path):
    """Only the first goes out again; the others wait for it, and get what it gets."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=1))
    batch = start(runtime, said("a", "b", "a"))
    fetch_batch_status(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id)
    assert [part.request_count for part in batch.parts if part.round] == [1]
    assert runtime.store.count_entries(batch).pending == 2
    batch = finish(runtime, batch)
    assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["completed"] * 3
    assert emulator.state.creates[provider] == 2


@pytest.mark.parametrize("kind", ["errored", "invalid_json", "truncated"])
def test_a_failure_for_good_is_everybodys(provider, runtime, emulator, tmp_path, kind):
    """With its reason and the provider's words, and not sent again for the others."""
    emulator.state.faults.rows.append(RowFault(kind=kind, rows=[0]))
    policy = RoundPolicy(repeat_invalid_output=False)
    batch = run(runtime, said("a", "b", "a"), defaults={"output_schema": ANSWER}, round_policy=policy)
    first, other, same = results(runtime, batch, tmp_path)
    assert first["status"] == "failed"
    assert other["status"] == "completed"
    assert {**same, "custom_id": "row 0", "shelf": 0, "usage": first["usage"], "cost": first["cost"]} == first
    assert emulator.state.creates[provider] == 1


def test_a_batch_that_failed_as_a_whole_is_failed(emulator, store, tmp_path):
    """Rows with answers of earlier batches do not make it look better; a retry starts anew, and takes them again."""
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        run(runtime, said("a"), REUSE, "monday")
        emulator.state.faults.failed_batches = 1
        policy = RoundPolicy(max_rounds=0)
        failed = run(runtime, said("a", "b", "b"), REUSE, "tuesday", round_policy=policy)
        assert failed.status is BatchStatus.FAILED
        with pytest.raises(FailedBatchError):
            check_outcome(runtime, failed)
        again = run(runtime, said("a", "b", "b"), REUSE, "tuesday", round_policy=policy)
        assert again.batch_id != failed.batch_id
        assert [row["status"] for row in results(runtime, again, tmp_path)] == ["completed"] * 3
        assert manifest_of(runtime, again)["reused"] == 1


def test_a_second_night_pays_only_what_changed(provider, runtime, emulator, tmp_path):
    """Answers are taken over as they were; ids and columns are those of the new rows."""
    first = run(runtime, said(*"abcdefgh"), REUSE, "monday")
    before = results(runtime, first, tmp_path)
    texts = list("abcdefgh")
    texts[3] = "changed"
    given = [{"custom_id": f"new {n}", "prompt": text, "night": 2} for n, text in enumerate(texts)]
    second = run(runtime, given, REUSE, "tuesday")
    assert [part.request_count for part in second.parts if not part.is_shared] == [1]
    found = results(runtime, second, tmp_path)
    assert [row["custom_id"] for row in found] == [f"new {n}" for n in range(8)]
    assert [row["output"] == old["output"] for row, old in zip(found, before, strict=True)] == [
        n != 3 for n in range(8)
    ]
    assert {row["night"] for row in found} == {2}
    assert [row["usage"] is not None for row in found] == [n == 3 for n in range(8)]
    manifest = manifest_of(runtime, second)
    assert (manifest["reused"], manifest["duplicates"]) == (7, 0)
    assert manifest["usage"]["output_tokens"] == found[3]["usage"]["output_tokens"]
    assert manifest["counts"]["completed"] == 8


def test_a_night_without_a_change_sends_nothing(provider, runtime, emulator, tmp_path):
    """The batch has ended as it is made, is applied like any other, and is known to cost nothing."""
    run(runtime, said(*"abcdef"), REUSE, "monday")
    calls = sum(emulator.state.creates.values())
    second = start(runtime, said(*"fedcba"), REUSE, "tuesday")
    assert second.status is BatchStatus.ENDED
    second = advance_batch(runtime, second.batch_id)
    assert {row["status"] for row in results(runtime, second, tmp_path)} == {"completed"}
    assert manifest_of(runtime, second)["cost"] == {"batch": "0", "standard": "0", "is_estimated": False}
    assert sum(emulator.state.creates.values()) == calls
    assert start(runtime, said(*"fedcba"), REUSE, "tuesday").batch_id == second.batch_id


def test_what_has_no_price_costs_no_zero_beside_answers_of_others(emulator, store, tmp_path):
    """Of the one row that was sent nobody knows what it cost."""
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        batch = run(runtime, said("a", "a"), defaults={"model": "of-our-own"})
        assert manifest_of(runtime, batch)["duplicates"] == 1
        assert manifest_of(runtime, batch)["cost"]["batch"] is None


def test_answers_outlive_the_spool_that_they_came_from(provider, runtime, emulator, tmp_path):
    """A batch that took them keeps a copy, which the next one takes; where no copy is left the row is paid again."""
    first = run(runtime, said("a", "b"), REUSE, "monday")
    second = run(runtime, said("a", "c"), REUSE, "tuesday")
    for batch in (first, second):
        results(runtime, batch, tmp_path)
    assert delete_spool(runtime.store, runtime.spool, runtime.store.get_batch(first.batch_id), runtime.clock())
    third = run(runtime, said("a", "b", "c"), REUSE, "wednesday")
    assert [row["usage"] is None for row in results(runtime, third, tmp_path)] == [True, False, True]


def test_answers_grow_old(runtime, tmp_path):
    """Those older than the user wants are not taken, however often they were taken since."""
    run(runtime, said("a"), REUSE, "monday")

    def at(days):
        return dataclasses.replace(runtime, clock=lambda: runtime.clock() + timedelta(days=days))

    assert manifest_of(runtime, run(at(20), said("a"), REUSE, "later"))["reused"] == 1
    assert manifest_of(runtime, run(at(31), said("a"), REUSE, "late"))["reused"] == 0
    assert manifest_of(runtime, run(at(40), said("a"), REUSE, "later still"))["reused"] == 1


def test_failures_are_not_taken_over(provider, runtime, emulator, tmp_path):
    """The next batch tries again."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[0], batches=1))
    run(runtime, said("a", "b"), REUSE, "monday")
    second = run(runtime, said("a", "b"), REUSE, "tuesday")
    assert [row["status"] for row in results(runtime, second, tmp_path)] == ["completed"] * 2
    assert manifest_of(runtime, second)["reused"] == 1


def test_answers_of_another_place_are_not_taken(emulator, store, tmp_path):
    """Another schema, endpoint, provider or host may answer otherwise; nor are those of batches that kept none."""
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        run(runtime, said("a"), None, "kept none")
        assert manifest_of(runtime, run(runtime, said("a"), REUSE, "first"))["reused"] == 0
        schema = {"output_schema": {**ANSWER, "title": "Other"}}
        assert manifest_of(runtime, run(runtime, said("a"), REUSE, "schema", defaults=schema))["reused"] == 0
        chat = {"endpoint": "/v1/chat/completions"}
        assert manifest_of(runtime, run(runtime, said("a"), REUSE, "endpoint", defaults=chat))["reused"] == 0
        assert manifest_of(runtime, run(runtime, said("a"), REUSE, "again"))["reused"] == 1
    other = emulator.url.replace("127.0.0.1", "localhost")
    with runtime_of("openai", other, store, tmp_path) as runtime:
        assert manifest_of(runtime, run(runtime, said("a"), REUSE, "host"))["reused"] == 0


def test_a_spool_that_lost_its_files(provider, runtime, tmp_path, caplog):
    """Its rows are sent, with a warning: a row without an answer is never made."""
    first = run(runtime, said("a"), REUSE, "monday")
    runtime.folder(first.batch_id).delete()
    second = run(runtime, said("a"), REUSE, "tuesday")
    assert [row["status"] for row in results(runtime, second, tmp_path)] == ["completed"]
    assert manifest_of(runtime, second)["reused"] == 0
    assert f"Answers of batch {first.batch_id} are not taken again" in caplog.text


def test_a_spool_whose_file_was_cut_off(provider, runtime, tmp_path):
    """What is left of an answer is none."""
    first = run(runtime, said("a", "b"), REUSE, "monday")
    place = tmp_path / "spool" / first.batch_id / "part-00000.results.jsonl"
    place.write_bytes(place.read_bytes()[:50])
    second = run(runtime, said("a", "b"), REUSE, "tuesday")
    assert [row["status"] for row in results(runtime, second, tmp_path)] == ["completed"] * 2
    assert manifest_of(runtime, second)["reused"] == 0


def test_parts_applied_by_themselves(runtime, provider, emulator, tmp_path):
    """Each row is in one file, whichever part it hangs on, rounds included."""
    run(runtime, said("x", "y"), REUSE, "monday")
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1], batches=1))
    given = said("a", "x", "b", "a", "c", "d", "b", "e", "y", "f")
    batch = start(runtime, given, REUSE, "tuesday")
    fetch_batch_status(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id, may_fetch=False)
    found = []
    for part in batch.first_parts:
        while not advance_part(runtime, batch.batch_id, part.number).is_fetched:
            fetch_batch_status(runtime, batch.batch_id)
    for part in batch.first_parts:
        share = apply_part(runtime, batch.batch_id, part.number, folder(tmp_path / "out"))
        found += read_rows(share.part.result_uri)
    assert sorted(row["shelf"] for row in found) == list(range(10))
    assert {row["status"] for row in found} == {"completed"}
    assert runtime.store.get_batch(batch.batch_id).applied_at is not None


def test_a_part_leaves_the_others_alone_though_rows_are_shared(runtime, tmp_path):
    """Those who work on different parts do not do each other's work; the rows that hang on several come last."""
    batch = start(runtime, said("a", "b", "c", "d", "e", "f", "g", "h", "a", "h"))
    fetch_batch_status(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id, may_fetch=False)
    first, second, shared = sorted(batch.first_parts, key=lambda part: part.is_shared)
    assert shared.is_shared
    share = advance_part(runtime, batch.batch_id, second.number)
    assert share.is_fetched
    fetched = {part.number for part in share.batch.parts if part.results_fetched_at is not None}
    assert fetched == {second.number, shared.number}
    with pytest.raises(InvalidBatchError, match=f"results of part {shared.number} .* were not fetched"):
        apply_part(runtime, batch.batch_id, shared.number, folder(tmp_path / "out"))
    share = apply_part(runtime, batch.batch_id, second.number, folder(tmp_path / "out"))
    assert [row["shelf"] for row in read_rows(share.part.result_uri)] == [4, 5, 6, 7]
    assert (share.batch.completed_count, share.batch.failed_count) == (5, 0)
    assert advance_part(runtime, batch.batch_id, shared.number).is_fetched
    share = apply_part(runtime, batch.batch_id, shared.number, folder(tmp_path / "out"))
    assert [row["shelf"] for row in read_rows(share.part.result_uri)] == [8, 9]
    assert runtime.store.get_batch(batch.batch_id).applied_at is None
    apply_part(runtime, batch.batch_id, first.number, folder(tmp_path / "out"))
    applied = runtime.store.get_batch(batch.batch_id)
    assert applied.applied_at is not None
    assert (applied.completed_count, applied.failed_count) == (10, 0)


def statements_to_advance(runtime, size):
    """Count what the store is asked while all parts of a batch are brought forward that has two rows of each text."""
    texts, asked = [f"{size} {n}" for n in range(size)], []
    batch = start(runtime, said(*texts, *texts), run=f"run {size}", round_policy=RoundPolicy(max_rounds=0))
    fetch_batch_status(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id, may_fetch=False)
    event.listen(runtime.store._engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    for part in batch.first_parts:
        while not advance_part(runtime, batch.batch_id, part.number).is_fetched:
            fetch_batch_status(runtime, batch.batch_id)
    return len(asked)


def test_many_parts_of_doubles_cost_each_the_same(emulator, store, tmp_path):
    """One of them brings all others forward, not each; also where rows fail that no round repeats any more."""
    emulator.state.faults.rows.append(RowFault(kind="overloaded", rows=[1]))
    with runtime_of("openai", emulator.url, store, tmp_path, limits={"max_requests": 2}) as runtime:
        few, many = statements_to_advance(runtime, 8), statements_to_advance(runtime, 24)
    assert many < 4 * few


def test_a_round_that_another_task_opened_meanwhile_is_waited_for(runtime, emulator, tmp_path):
    """Whoever was about to write the doubles, or all rows, tries again instead of failing for good."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[0], batches=1))
    batch = start(runtime, said("a", "b", "a"))
    fetch_batch_status(runtime, batch.batch_id)
    batch = fetch_batch_results(runtime, batch.batch_id)
    shared = next(part for part in batch.first_parts if part.is_shared)
    assert find_share(runtime, batch.batch_id, shared.number).is_fetched
    assert open_round(runtime, batch)
    with pytest.raises(InvalidBatchError, match="were not fetched") as of_part:
        apply_part(runtime, batch.batch_id, shared.number, folder(tmp_path / "out"))
    with pytest.raises(InvalidBatchError, match="were not fetched") as of_batch:
        results(runtime, batch, tmp_path)
    assert of_part.value.retryable
    assert of_batch.value.retryable
    batch = finish(runtime, batch)
    assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["completed"] * 3


def test_rows_that_went_out_again_while_their_doubles_were_written(runtime, emulator, tmp_path, monkeypatch):
    """The doubles are written once more, with what came of it."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[0], batches=1))
    batch = start(runtime, said("a", "b", "a"))
    fetch_batch_status(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id, may_fetch=False)
    shared = next(part for part in batch.first_parts if part.is_shared)
    assert advance_part(runtime, batch.batch_id, shared.number).is_fetched
    mark, seen = runtime.store.mark_part_applied, []

    def mark_after_a_retry(*args):
        if not seen:
            seen.append(read_rows(args[4])[0]["status"])
            retry_failed(runtime, batch.batch_id)
            finish(runtime, advance_batch(runtime, batch.batch_id))
        return mark(*args)

    monkeypatch.setattr(runtime.store, "mark_part_applied", mark_after_a_retry)
    share = apply_part(runtime, batch.batch_id, shared.number, folder(tmp_path / "out"))
    assert seen == ["failed"]
    assert [(row["shelf"], row["status"]) for row in read_rows(share.part.result_uri)] == [(2, "completed")]
    assert share.batch.failed_count == 0


def test_doubles_of_many_parts_on_object_storage(runtime, tmp_path, monkeypatch):
    """The results of a part are not downloaded once more for each row that is the same as one of it."""
    storage = MemoryFileSystem()
    remote = dataclasses.replace(runtime, spool=Folder(storage, "/doubles", "memory://doubles"))
    texts = [f"text {n}" for n in range(32)]
    given = said(*texts, *(texts[n * 5 % 32] for n in range(64)))
    batch = run(remote, given)
    get_file, copied = storage.get_file, []
    monkeypatch.setattr(storage, "get_file", lambda path, *given: copied.append(path) or get_file(path, *given))
    found = results(remote, batch, tmp_path)
    assert all(row["output"] == found[n * 5 % 32]["output"] for n, row in enumerate(found[32:]))
    assert len(copied) == 8
    storage.rm("/doubles", recursive=True)


def test_doubles_whose_results_are_gone_from_the_spool(runtime, tmp_path, monkeypatch):
    """The error names the file."""
    monkeypatch.setattr(apply, "MAX_OPEN_PARTS", 1)
    batch = run(runtime, said("a", "b", "c", "d", "e", "e", "a"))
    shared = next(part.number for part in batch.parts if part.is_shared)
    (tmp_path / "spool" / batch.batch_id / results_file(0)).unlink()
    with pytest.raises(InvalidBatchError, match=f"put {results_file(0)} back"):
        apply_part(runtime, batch.batch_id, shared, folder(tmp_path / "out"))


def broken_off(given, after):
    yield from given[:after]
    raise RuntimeError("the worker dies")


def test_an_attempt_that_broke_off_while_it_read(provider, runtime, emulator, tmp_path):
    """The next one finds each row where the first one put it, and the parts that were sent are not sent again."""
    run(runtime, said("x", "y", "z"), REUSE, "monday")
    creates = emulator.state.creates[provider]
    given = said("a", "x", "b", "a", "c", "d", "e", "y", "b", "f", "g", "h", "i", "z", "a", "j")
    for after in (9, 12):
        with pytest.raises(RuntimeError, match="dies"):
            start(runtime, broken_off(given, after), REUSE, "tuesday")
    batch = run(runtime, given, REUSE, "tuesday")
    found = results(runtime, batch, tmp_path)
    assert [row["shelf"] for row in found] == list(range(16))
    assert {row["status"] for row in found} == {"completed"}
    assert sum(part.request_count for part in batch.parts if not part.is_shared) == 10
    assert emulator.state.creates[provider] == creates + 3
    by_text = {row["prompt"]: answer["output"] for row, answer in zip(given, found, strict=True)}
    assert all(answer["output"] == by_text[row["prompt"]] for row, answer in zip(given, found, strict=True))


def test_answers_that_were_there_before_their_doubles_were_read(provider, runtime, tmp_path):
    """What a sweep, or somebody by hand, fetched meanwhile is handed on all the same."""
    given = said("a", "b", "c", "d", "e", "a", "b")
    with pytest.raises(RuntimeError, match="dies"):
        start(runtime, broken_off(given, 5))
    part = fetch_now(runtime, runtime.store.find_by_claim(CLAIM).batch_id).parts[0]
    assert part.results_fetched_at is not None
    batch = run(runtime, given)
    assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["completed"] * 7
    assert (batch.completed_count, batch.failed_count) == (7, 0)


def test_doubles_of_a_row_that_was_canceled_before_its_part_was_whole(emulator, store, tmp_path):
    """They fail as it would have: none waits for what is not there."""
    with runtime_of("openai", emulator.url, store, tmp_path, limits={"max_requests": 3}) as runtime:

        def canceled_at_its_end():
            yield from said("a", "b", "c", "d", "d", "a", "d", "d")
            cancel_batch(runtime, store.find_by_claim(CLAIM).batch_id)

        batch = finish(runtime, start(runtime, canceled_at_its_end()))
        assert batch.is_cut_short
        assert [(row["shelf"], row["reason"]) for row in results(runtime, batch, tmp_path)] == [
            (number, "canceled") for number in (0, 1, 2, 4, 5, 6)
        ]
        assert (batch.completed_count, batch.failed_count) == (0, 6)


def applied_by_parts(runtime, batch, tmp_path):
    fetch_batch_status(runtime, batch.batch_id)
    found = []
    for part in advance_batch(runtime, batch.batch_id, may_fetch=False).first_parts:
        assert advance_part(runtime, batch.batch_id, part.number).is_fetched
    for part in batch.first_parts:
        share = apply_part(runtime, batch.batch_id, part.number, folder(tmp_path / "out"))
        found += read_rows(share.part.result_uri)
    return sorted((row["shelf"], row["status"]) for row in found)


def test_answers_that_were_lost_while_an_attempt_broke_off(runtime, tmp_path):
    """Their rows are sent, so that they lie between those of a part before them; each is applied once."""
    first = run(runtime, said("x"), REUSE, "monday")
    results(runtime, first, tmp_path)
    given = said("a", "x", "b", "c", "d", "e", "f", "g")
    with pytest.raises(RuntimeError, match="dies"):
        start(runtime, broken_off(given, 6), REUSE)
    assert delete_spool(runtime.store, runtime.spool, runtime.store.get_batch(first.batch_id), runtime.clock())
    batch = start(runtime, given, REUSE)
    assert [(part.first_row, part.last_row) for part in batch.parts] == [(0, 4), (1, 7)]
    assert applied_by_parts(runtime, batch, tmp_path) == [(number, "completed") for number in range(8)]


def test_answers_that_came_while_an_attempt_broke_off(runtime, tmp_path):
    """Their rows lie between those that others took; each is applied once."""
    run(runtime, said("v", "w", "x", "y", "z"), REUSE, "monday")
    given = said("a", "b", "c", "d", "e", "v", "w", "e", "x", "y", "z", "f")
    with pytest.raises(RuntimeError, match="dies"):
        start(runtime, broken_off(given, 10), REUSE)
    run(runtime, said("e"), REUSE, "tuesday")
    batch = start(runtime, given, REUSE)
    assert [(part.first_row, part.last_row) for part in batch.parts if part.is_shared] == [(4, 10), (5, 8)]
    assert applied_by_parts(runtime, batch, tmp_path) == [(number, "completed") for number in range(12)]


def test_an_attempt_that_broke_off_as_it_wrote_a_part_of_answers(runtime, store, tmp_path, monkeypatch):
    """What it left in the spool is not taken for the results of a part that gets the number later."""
    first = run(runtime, said("v", "w", "x", "y", "z"), REUSE, "monday")
    results(runtime, first, tmp_path)
    given = said("a", "b", "c", "d", "e", "v", "w", "x", "y", "z", "f")
    add_part = type(store).add_part

    def away(store, batch, new):
        if new.model == SHARED:
            raise StoreUnavailableError("the store does not answer")
        return add_part(store, batch, new)

    with monkeypatch.context() as patched, pytest.raises(StoreUnavailableError):
        patched.setattr(type(store), "add_part", away)
        start(runtime, given, REUSE)
    assert delete_spool(store, runtime.spool, store.get_batch(first.batch_id), runtime.clock())
    batch = run(runtime, given, REUSE)
    assert [(part.round, part.request_count) for part in batch.parts] == [(0, 4), (0, 4), (0, 3)]
    assert {row["status"] for row in results(runtime, batch, tmp_path)} == {"completed"}


def test_another_input_after_an_attempt_that_broke_off(runtime):
    """Is seen by what the sent parts were made of."""
    given = said("a", "b", "a", "c", "d", "e")
    with pytest.raises(RuntimeError, match="dies"):
        start(runtime, broken_off(given, 6))
    with pytest.raises(InputChangedError):
        start(runtime, said("a", "a", "b", "c", "d", "e"))


def test_a_bad_row_after_shared_ones(provider, runtime, store):
    """Nothing is left of a batch of which nothing was sent."""
    with pytest.raises(InvalidRequestError, match="row 3"):
        start(runtime, [*said("a", "a", "b"), {"custom_id": "x", "prompt": ""}])
    assert store.find_by_claim(CLAIM) is None


def test_one_id_of_a_row_and_of_its_double(runtime):
    """Is refused like any other id that comes twice."""
    with pytest.raises(InvalidRequestError, match="rows 0 and 1 have the same custom_id 'one'"):
        start(runtime, [{"custom_id": "one", "prompt": "a"}, {"custom_id": "one", "prompt": "a"}])


def test_a_cancel_ends_those_that_wait_for_others(emulator_of, store, tmp_path):
    """What was reused is there all the same."""
    emulator = emulator_of()
    with runtime_of("anthropic", emulator.url, store, tmp_path) as runtime:
        run(runtime, said("x"), REUSE, "monday")
        object.__setattr__(emulator.settings, "progress", Progress.parse("polls:1000"))
        batch = start(runtime, said("a", "a", "x"), REUSE, "tuesday")
        cancel_batch(runtime, batch.batch_id)
        batch = finish(runtime, batch)
        assert batch.status is BatchStatus.CANCELED
        found = results(runtime, batch, tmp_path)
        assert [row["reason"] for row in found] == ["canceled", "canceled", None]


def test_a_create_that_is_refused_leaves_them_waiting(runtime, provider, emulator):
    """A retry sends it and they get their answers."""
    emulator.state.faults.http.append(HttpFault(route=f"{provider}.*create*", status=400))
    with pytest.raises(Exception, match="400"):
        start(runtime, said("a", "a"))
    batch = finish(runtime, start(runtime, said("a", "a")))
    assert runtime.store.count_entries(batch).completed == 2
