"""A DAG author's own code for each result: each once, errors apart, and again only what a crash or an error left."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_raif.destinations import handler as handler_module
from airflow_raif.destinations.handler import BatchHandler
from airflow_raif.destinations.parquet import Parquet
from airflow_raif.domain.batch import Claim
from airflow_raif.domain.errors import HandlerError, PartialBatchError
from airflow_raif.emulator.faults import RowFault
from airflow_raif.hooks.batch import BatchHook
from airflow_raif.hooks.runtime import open_batch_runtime
from airflow_raif.operators.batch import ApplyBatchResultsOperator, BatchInferenceOperator, SubmitBatchOperator
from airflow_raif.services.retry import retry_failed

OPENAI = {"conn_id": "openai_default", "model": "gpt-5-nano"}
ROWS = [{"custom_id": f"row {n}", "prompt": f"prompt {n}", "n": n} for n in range(7)]
CALLS: list = []


class Recorder(BatchHandler):
    """Notes what it is called with."""

    def __init__(self):
        self.breaks_at = set()

    def on_entry(self, row):
        if row["n"] in self.breaks_at:
            raise LookupError(f"no shelf for {row['n']}")
        CALLS.append(row["n"])

    def on_batch_completion(self, manifest):
        CALLS.append(("completion", manifest["counts"]["completed"], manifest["result_uri"] is not None))

    def on_batch_success(self, manifest):
        CALLS.append("success")

    def on_batch_failure(self, manifest):
        CALLS.append("failure")


class Chunks(Recorder):
    """Takes several at once."""

    def on_chunk(self, rows):
        for row in rows:
            if row["n"] in self.breaks_at:
                raise LookupError("one of these")
        CALLS.append([row["n"] for row in rows])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    CALLS.clear()
    monkeypatch.setattr(handler_module, "CHUNK_ROWS", 3)


@pytest.fixture
def infer(emulator, providers, context):
    """Run a whole batch, or go on with it."""
    providers(emulator)

    def run(handler, **arguments):
        arguments = {"requests": ROWS, **arguments}
        return BatchInferenceOperator(
            task_id="t", **OPENAI, handler=handler, deferrable=False, poll_interval=0.01, **arguments
        ).execute(context)

    return run


THROUGH = [("completion", 7, True), "success"]


def noted(row):
    CALLS.append(row["n"])


@pytest.mark.parametrize(
    ("handler", "last"),
    [
        (Recorder, THROUGH),
        (Recorder(), THROUGH),
        (f"{__name__}.Recorder", THROUGH),
        (f"{__name__}:Recorder", THROUGH),
        (noted, []),
        (f"{__name__}.noted", []),
    ],
)
def test_each_result_then_the_batch_and_once(infer, emulator, handler, last):
    """In the order of the input; a clear of the task brings nothing again."""
    infer(handler)
    assert [*range(7), *last] == CALLS
    infer(handler)
    assert len(CALLS) == 7 + len(last)
    assert emulator.state.creates["openai"] == 1


def test_several_at_once(infer):
    """For who writes them in bulk."""
    infer(Chunks)
    assert [[0, 1, 2], [3, 4, 5], [6], *THROUGH] == CALLS


def test_an_error_is_its_rows_own(infer, emulator):
    """The others are taken, the task is to be retried, and the retry brings what is missing alone, then ends."""
    handler = Recorder()
    handler.breaks_at = {1, 5}
    with pytest.raises(HandlerError, match="could not take 2 of 7 results; the first is 'row 1': LookupError: no"):
        infer(handler)
    assert CALLS == [0, 2, 3, 4, 6]
    handler.breaks_at = {5}
    with pytest.raises(HandlerError, match="could not take 1 of 7 results; the first is 'row 5'"):
        infer(handler)
    handler.breaks_at = set()
    infer(handler)
    assert [0, 2, 3, 4, 6, 1, 5, *THROUGH] == CALLS
    assert emulator.state.creates["openai"] == 1


def test_a_handler_that_takes_a_row_apart(infer):
    """Has it to itself; an error names the row as it was."""

    def take(row):
        CALLS.append(row.pop("custom_id"))
        if len(CALLS) == 2:
            raise LookupError("no shelf")

    with pytest.raises(HandlerError, match="could not take 1 of 7 results; the first is 'row 1'"):
        infer(take)
    infer(take)
    assert [*(f"row {n}" for n in range(7)), "row 1"] == CALLS


def test_a_handler_that_can_take_nothing_is_stopped(infer, monkeypatch):
    """Not all of a million results are thrown at it; a retry goes on from there."""
    monkeypatch.setattr(handler_module, "MAX_FAILED", 2)
    handler = Recorder()
    handler.breaks_at = set(range(7))
    with pytest.raises(HandlerError, match="could not take 3 of 3 results"):
        infer(handler)
    handler.breaks_at = set()
    infer(handler)
    assert [*range(7), *THROUGH] == CALLS


def test_an_error_of_a_chunk_is_that_of_its_rows(infer):
    """They come again together."""
    handler = Chunks()
    handler.breaks_at = {4}
    with pytest.raises(HandlerError, match="could not take 3 of 7 results; the first is 'row 3'"):
        infer(handler)
    handler.breaks_at = set()
    infer(handler)
    assert [[0, 1, 2], [6], [3, 4, 5], *THROUGH] == CALLS


@pytest.mark.parametrize("place", ["on_entry", "on_batch_completion", "on_batch_success"])
def test_a_worker_that_dies_is_made_good(infer, monkeypatch, place):
    """What was going on is called again, of the results those of one chunk."""
    real, seen = getattr(Recorder, place), []

    def dies(self, given):
        seen.append(given)
        if len(seen) == 5 or place != "on_entry":
            monkeypatch.setattr(Recorder, place, real)
            raise KeyboardInterrupt
        real(self, given)

    monkeypatch.setattr(Recorder, place, dies)
    with pytest.raises(KeyboardInterrupt):
        infer(Recorder)
    infer(Recorder)
    again = {
        "on_entry": [0, 1, 2, 3, 3, 4, 5, 6],
        "on_batch_completion": [*range(7)],
        "on_batch_success": [*range(7), THROUGH[0]],
    }
    assert [*again[place], *THROUGH] == CALLS


def test_a_batch_that_fails_its_task(infer, emulator):
    """Its results are brought all the same, and it is told as failed."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[0, 1]))
    with pytest.raises(PartialBatchError, match="more failed than max_failed_fraction"):
        infer(Recorder, max_rounds=0, max_failed_fraction=0.1)
    assert [*range(7), ("completion", 5, True), "failure"] == CALLS


async def later(row):
    """A coroutine, which nobody would run."""


class Yielding(BatchHandler):
    """A generator, likewise."""

    def on_chunk(self, rows):
        yield from rows


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (later, "does nothing when it is called, since its on_entry is a coroutine"),
        (Yielding, "does nothing when it is called, since its on_chunk is a coroutine or a generator"),
        ("no.such.module", "there is no handler at 'no.such.module'"),
        (f"{__name__}.nothing", "there is no handler at"),
        (f"{__name__}.ROWS", "is a list; give a BatchHandler or a function of one row"),
        (7, "is a int; give a BatchHandler"),
    ],
)
def test_a_handler_that_is_none_shows_before_anything_is_paid(infer, emulator, handler, message):
    """By name."""
    with pytest.raises(AirflowFailException, match=message):
        infer(handler)
    assert emulator.state.creates["openai"] == 0


@pytest.fixture
def apply(emulator, providers, connection, context):
    """Apply one part of a batch of three, as a mapped task does."""
    providers(emulator)
    connection(
        "openai_default", conn_type="raif_openai", password="good-key", host=f"{emulator.url}/v1",
        extra={"max_requests": 3},
    )  # fmt: skip

    def run(part, handler=Recorder, **arguments):
        batch = SubmitBatchOperator(task_id="s", **OPENAI, requests=ROWS, max_rounds=0).execute(context)
        BatchHook("openai_default").fetch_batch_status(batch["batch_id"])
        arguments = {"max_failed_fraction": 0.5, **arguments}
        return ApplyBatchResultsOperator(task_id="a", batch=batch, part=part, handler=handler, **arguments).execute(
            context
        )

    return run


def test_by_parts(apply):
    """Each task brings its own rows; the last one through brings the end, with the manifest of the whole batch."""
    for part in (2, 0, 1):
        apply(part)
    assert [6, 0, 1, 2, 3, 4, 5, *THROUGH] == CALLS
    for part in range(3):
        apply(part)
    assert len(CALLS) == 9


def test_a_part_whose_rows_cannot_be_taken(apply):
    """Others are done with meanwhile; its retry brings what is missing, and the end."""
    handler = Recorder()
    handler.breaks_at = {4}
    with pytest.raises(HandlerError, match="could not take 1 of 3 results; the first is 'row 4'"):
        apply(1, handler)
    apply(0, handler)
    apply(2, handler)
    assert CALLS == [3, 5, 0, 1, 2, 6]
    handler.breaks_at = set()
    apply(1, handler)
    assert [3, 5, 0, 1, 2, 6, 4, *THROUGH] == CALLS


@pytest.mark.parametrize("place", ["on_batch_completion", "on_batch_success"])
def test_a_worker_that_dies_at_the_end_of_all_parts(apply, monkeypatch, place):
    """The retry of its own task calls the end again; those of others do not."""
    real = getattr(Recorder, place)

    def dies(self, given):
        monkeypatch.setattr(Recorder, place, real)
        raise KeyboardInterrupt

    apply(0)
    apply(1)
    monkeypatch.setattr(Recorder, place, dies)
    with pytest.raises(KeyboardInterrupt):
        apply(2)
    before = [*range(7), *THROUGH[: place == "on_batch_success"]]
    assert before == CALLS
    apply(0)
    apply(1)
    assert before == CALLS
    apply(2)
    assert [*before, *THROUGH] == CALLS


def test_the_batch_is_judged_as_a_whole(emulator, apply):
    """A part fails its own task by its own rows; the handler is told of the batch by all of them."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[0, 1], batches=1))
    with pytest.raises(PartialBatchError, match="part 0 of batch"):
        apply(0, max_failed_fraction=0.3)
    apply(1, max_failed_fraction=0.3)
    apply(2, max_failed_fraction=0.3)
    assert [*range(7), ("completion", 5, True), "success"] == CALLS


def test_a_destination_and_a_handler_by_parts(apply, tmp_path):
    """The file is written with each execution, the handler is called once."""
    for part in (0, 1, 2, 0):
        apply(part, destination=Parquet(f"{tmp_path}/out/rows.parquet"))
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert [*range(7), *THROUGH] == CALLS


def test_rows_that_were_sent_again_by_hand_come_alone(infer, emulator, raif_store):
    """Their new results, then the batch; what was brought before is not brought twice, however often that happens."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[1, 5], batches=2))
    infer(Recorder)
    assert [*range(7), ("completion", 5, True), "success"] == CALLS
    batch = raif_store.find_by_claim(Claim("dag", "run", "task"))
    for brought in ([1, 5, ("completion", 5, True)], [1, 5, ("completion", 7, True)]):
        emulator.state.faults.rows[0].rows = [0, 1]
        with open_batch_runtime(batch.batch_id) as (runtime, _):
            retry_failed(runtime, batch.batch_id)
        CALLS.clear()
        infer(Recorder)
        assert [*brought, "success"] == CALLS
    infer(Recorder)
    assert [*brought, "success"] == CALLS


def test_a_row_that_is_the_same_as_one_that_was_sent_again_comes_with_it(infer, emulator, raif_store):
    """Though nothing of its own was sent."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[1], batches=1))
    given = [{**row, "prompt": "prompt 1"} if row["n"] == 5 else row for row in ROWS]
    infer(Recorder, requests=given)
    assert [*range(7), ("completion", 5, True), "success"] == CALLS
    batch = raif_store.find_by_claim(Claim("dag", "run", "task"))
    with open_batch_runtime(batch.batch_id) as (runtime, _):
        retry_failed(runtime, batch.batch_id)
    CALLS.clear()
    infer(Recorder, requests=given)
    assert [1, 5, *THROUGH] == CALLS


def test_what_broke_off_before_rows_were_sent_again(infer, emulator, raif_store):
    """Rows that were brought to nobody come with those that were sent again, and what was raised for comes again."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[1], batches=1))
    handler = Recorder()
    handler.breaks_at = {2}
    with pytest.raises(HandlerError):
        infer(handler)
    batch = raif_store.find_by_claim(Claim("dag", "run", "task"))
    with open_batch_runtime(batch.batch_id) as (runtime, _):
        retry_failed(runtime, batch.batch_id)
    CALLS.clear()
    infer(Recorder())
    assert [1, 2, *THROUGH] == CALLS
