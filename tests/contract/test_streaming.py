"""A large batch is submitted while its input is read; whatever breaks that off, the next attempt goes on after it."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from airflow_raif.domain.errors import (
    AuthenticationError,
    DuplicateCustomIdError,
    InputChangedError,
    InvalidRequestError,
    RaifError,
    TransientProviderError,
)
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.services import row_files
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.apply import apply_part, apply_results
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.fingerprint import fingerprint_rows
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.resume import resume_batch
from airflow_raif.services.start import start_batch
from airflow_raif.store import AttemptLostError
from tests.support import CLAIM, PROVIDERS, defaults_of, folder, later, read_rows, rows, runtime_of

OTHER_MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-pro"}
BAD = {"custom_id": "bad", "prompt": 7}


@pytest.fixture(params=PROVIDERS)
def provider(request):
    return request.param


@pytest.fixture
def emulator(emulator_of):
    return emulator_of(progress=Progress.parse("polls:1000"))


@pytest.fixture
def open_with(provider, emulator, store, tmp_path):
    def open_runtime(**limits):
        return runtime_of(provider, emulator.url, store, tmp_path, limits=limits)

    return open_runtime


@pytest.fixture
def runtime(open_with):
    """A part holds two requests."""
    with open_with(max_requests=2) as opened:
        yield opened


def start(runtime, given, **values):
    defaults = defaults_of(runtime.adapter.name, **values.pop("defaults", {}))
    return start_batch(runtime, lambda: given, defaults=defaults, claim=CLAIM, **values)


def break_off(runtime, given, error=InvalidRequestError, **values):
    """Start a batch whose input ends with a bad row; return the error."""
    with pytest.raises(error) as told:
        start(runtime, [*given, BAD], **values)
    return told.value


def end(emulator, runtime, batch, tmp_path):
    """Let the provider finish; return the result rows."""
    object.__setattr__(emulator.settings, "progress", Progress())
    fetch_batch_status(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id)
    assert batch.status is BatchStatus.ENDED
    return read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri)


def test_parts_are_submitted_while_the_input_is_read(provider, runtime, emulator, tmp_path):
    """Each part goes out as soon as the row after it came, and its rows come back in order."""
    created = []

    def watched():
        for row in rows(7):
            created.append(emulator.state.creates[provider])
            yield row

    batch = start(runtime, watched())
    assert created == [0, 0, 0, 1, 1, 2, 2]
    assert [part.request_count for part in batch.parts] == [2, 2, 2, 1]
    assert emulator.state.creates[provider] == 4
    found = end(emulator, runtime, batch, tmp_path)
    assert [(row["custom_id"], row["shelf"], row["status"]) for row in found] == [
        (f"row {n}", n, "completed") for n in range(7)
    ]


def test_a_batch_of_one_part_is_read_whole_before_it_is_submitted(provider, open_with, emulator, store):
    """A bad row in it costs nothing, and so does one in several models' only parts."""
    given = [{"prompt": f"p{n}", **({"model": OTHER_MODELS[provider]} if n % 2 else {})} for n in range(8)]
    with open_with(max_requests=4) as runtime:
        break_off(runtime, given)
        assert store.find_by_claim(CLAIM) is None
        break_off(runtime, rows(4))
    assert store.find_by_claim(CLAIM) is None
    assert sum(emulator.state.requests.values()) == 0


def test_creating_alone_sends_nothing(provider, runtime, emulator):
    """The hook's create is only that, however many parts there are."""
    batch = create_batch(runtime, rows(9), defaults=defaults_of(provider))
    assert len(batch.parts) == 5
    assert sum(emulator.state.requests.values()) == 0


def test_a_bad_row_keeps_what_was_submitted_before_it(provider, runtime, emulator, store, tmp_path):
    """The error tells what goes on; once the row is mended the next attempt goes on after it and pays nothing twice."""
    error = break_off(runtime, rows(5))
    batch = store.find_by_claim(CLAIM)
    assert error.row == 5
    assert str(error).startswith("row 5 has the prompt 7")
    assert f"2 parts of batch {batch.batch_id} with 4 requests were submitted before; they go on" in str(error)
    assert "a clear of the task goes on after them" in str(error)
    assert emulator.state.creates[provider] == 2
    assert (batch.spooled_at, len(batch.parts)) == (None, 2)
    whole = start(runtime, rows(8))
    assert whole.batch_id == batch.batch_id
    assert [part.request_count for part in whole.parts] == [2, 2, 2, 2]
    assert emulator.state.creates[provider] == 4
    assert whole.fingerprint == fingerprint_rows(runtime, rows(8), defaults=defaults_of(provider))
    assert start(runtime, rows(8)).batch_id == batch.batch_id
    found = end(emulator, runtime, whole, tmp_path)
    assert [(row["custom_id"], row["shelf"], row["status"]) for row in found] == [
        (f"row {n}", n, "completed") for n in range(8)
    ]
    assert emulator.state.creates[provider] == 4


def test_a_doubled_id_far_below_keeps_what_was_submitted(provider, runtime, emulator):
    """The id of a row of an earlier part is known, also when that part was written by an earlier attempt."""
    for _ in range(2):
        with pytest.raises(DuplicateCustomIdError, match="rows 0 and 4 have the same custom_id 'row 0'"):
            start(runtime, [*rows(4), {"custom_id": "row 0", "prompt": "x"}, *rows(9)[6:]])
        assert emulator.state.creates[provider] == 2
    assert start(runtime, rows(5)).request_count == 5
    assert emulator.state.creates[provider] == 3


@pytest.mark.parametrize("what", ["row", "order", "shorter", "defaults", "model"])
def test_an_input_that_changed_before_the_break(provider, runtime, emulator, store, what):
    """It is refused, or by option the parts are canceled and all of it is submitted anew."""
    break_off(runtime, rows(5))
    first = store.find_by_claim(CLAIM)
    given, values = rows(6), {}
    if what == "row":
        given[1]["prompt"] = "changed"
    elif what == "order":
        given[2:4] = given[3:1:-1]
    elif what == "shorter":
        given = given[:3]
    else:
        values["defaults"] = {"max_tokens": 77} if what == "defaults" else {"model": OTHER_MODELS[provider]}
    told = "the input changed since part [01] of batch .* was made of it.*Restore the rows, in their order"
    with pytest.raises(InputChangedError, match=told):
        start(runtime, given, **values)
    assert emulator.state.creates[provider] == 2
    assert emulator.state.requests[f"{provider}.batches.cancel"] == 0
    second = start(runtime, given, on_input_change="resubmit", **values)
    assert second.batch_id != first.batch_id
    assert second.request_count == len(given)
    assert emulator.state.requests[f"{provider}.batches.cancel"] == 2
    assert emulator.state.creates[provider] == 2 + len(second.parts)


def test_what_was_given_up_ends_and_its_answers_stay(provider, runtime, emulator, store, tmp_path):
    """The parts of an input that changed end as a batch of their own, whose answers can be applied."""
    break_off(runtime, rows(5))
    first = store.find_by_claim(CLAIM)
    emulator.state.faults.done_at_cancel = 0.5
    start(runtime, rows(6)[1:], on_input_change="resubmit")
    fetch_batch_status(runtime, first.batch_id)
    batch = fetch_batch_results(runtime, first.batch_id)
    assert (batch.status, batch.request_count) == (BatchStatus.CANCELED, 4)
    found = read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri)
    assert [row["custom_id"] for row in found] == [f"row {n}" for n in range(4)]
    done = ["failed", "failed"] if provider == "gemini" else ["completed", "failed"]
    assert [row["status"] for row in found] == done * 2


def test_a_change_of_the_input_before_anything_was_submitted(provider, runtime, emulator, store):
    """Nothing was paid, so the new input is a new batch."""
    emulator.state.faults.http.append(HttpFault(route=f"{provider}.*create*", status=401))
    break_off(runtime, rows(3), AuthenticationError)
    assert store.find_by_claim(CLAIM) is None
    assert start(runtime, rows(3)[1:]).request_count == 2


def test_parts_keep_their_requests_when_the_limits_change(provider, runtime, open_with, emulator, store, tmp_path):
    """What was submitted under other limits is found again; the rest is cut by the new ones."""
    break_off(runtime, rows(5))
    with open_with(max_requests=3) as other:
        batch = start(other, rows(9))
        assert [part.request_count for part in batch.parts] == [2, 2, 3, 2]
        assert len(end(emulator, other, batch, tmp_path)) == 9
    assert emulator.state.creates[provider] == 4


def test_several_models_go_on_each_in_its_parts(provider, runtime, emulator, store, tmp_path):
    """A model's part that was not whole at the break is written anew, in its old place."""
    other = OTHER_MODELS[provider]
    given = [{"custom_id": str(n), "prompt": f"p{n}", **({"model": other} if n in (1, 7) else {})} for n in range(9)]
    break_off(runtime, given[:6])
    assert [(part.number, part.model) for part in store.find_by_claim(CLAIM).parts] == [
        (0, defaults_of(provider).model),
        (2, defaults_of(provider).model),
    ]
    batch = start(runtime, given)
    assert [(part.model == other, part.request_count) for part in batch.parts] == [
        (False, 2), (True, 2), (False, 2), (False, 2), (False, 1)
    ]  # fmt: skip
    found = end(emulator, runtime, batch, tmp_path)
    assert [row["custom_id"] for row in found] == [str(n) for n in range(9)]
    assert [other in row["model"] for row in found] == [n in (1, 7) for n in range(9)]
    assert emulator.state.creates[provider] == 5


def test_an_outage_in_the_middle_does_not_stop_the_reading(provider, runtime, emulator):
    """The batch is whole all the same, and the next attempt submits what is left of it."""
    emulator.state.faults.http.append(HttpFault(route=f"{provider}.batches.create", status=503, skip=1))
    with pytest.raises(TransientProviderError):
        start(runtime, rows(7))
    batch = runtime.store.find_by_claim(CLAIM)
    assert batch.spooled_at is not None
    assert batch.request_count == 7
    assert emulator.state.creates[provider] == 1
    assert emulator.state.requests[f"{provider}.batches.create"] == 2
    batch = start(later(runtime), rows(7))
    assert all(part.provider_batch_id for part in batch.parts)
    assert emulator.state.creates[provider] == 4


def test_a_lost_reply_in_the_middle_is_looked_up(provider, runtime, emulator):
    """The part that was made is adopted while the reading goes on."""
    emulator.state.faults.http.append(HttpFault(route=f"{provider}.batches.create", drop="after", skip=1))
    batch = start(runtime, rows(7))
    assert [part.provider_batch_id for part in batch.parts] == list(emulator.state.batches[provider])


def test_a_kill_between_two_parts(provider, runtime, emulator, monkeypatch):
    """What the dead attempt wrote but did not submit is submitted once it is seen to be what the input holds."""
    monkeypatch.setattr("airflow_raif.services.start.submit_parts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr("airflow_raif.services.create._leave", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        start(runtime, rows(5))
    monkeypatch.undo()
    (part,) = (batch := runtime.store.find_by_claim(CLAIM)).parts
    runtime.store.record_intent(part.id, runtime.clock())
    again = start(later(runtime), rows(5))
    assert again.batch_id == batch.batch_id
    assert emulator.state.creates[provider] == 3
    assert [part.request_count for part in again.parts] == [2, 2, 1]


def test_a_batch_that_is_not_whole_is_not_over(provider, emulator_of, store, tmp_path):
    """When all that was submitted has ended there is more to come: nobody takes it for the whole."""
    emulator = emulator_of()
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 2}) as runtime:
        break_off(runtime, rows(5))
        batch_id = store.find_by_claim(CLAIM).batch_id
        assert fetch_batch_status(runtime, batch_id) is BatchStatus.IN_PROGRESS
        assert advance_batch(runtime, batch_id).status is BatchStatus.IN_PROGRESS
        assert fetch_batch_results(runtime, batch_id).results_fetched_at is None
        batch = start(runtime, rows(6))
        found = end(emulator, runtime, batch, tmp_path)
    assert (batch.batch_id, [row["status"] for row in found]) == (batch_id, ["completed"] * 6)
    assert emulator.state.creates[provider] == 3


def test_all_parts_end_before_the_batch_is_whole(provider, emulator_of, store, tmp_path):
    """The batch is over in the moment that it is whole."""
    emulator = emulator_of()
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 2}) as runtime:
        break_off(runtime, rows(4) + rows(5)[4:])
        batch_id = store.find_by_claim(CLAIM).batch_id
        fetch_batch_status(runtime, batch_id)
        batch = start(runtime, rows(4))
    assert (batch.batch_id, batch.status, batch.request_count) == (batch_id, BatchStatus.ENDED, 4)
    assert emulator.state.creates[provider] == 2


def test_cancel_in_the_middle(provider, runtime, emulator, store):
    """What was submitted stops and is given to the attempt that read on; the next one starts a new batch."""

    def canceled():
        yield from rows(5)
        cancel_batch(runtime, store.find_by_claim(CLAIM).batch_id)
        yield from rows(9)[5:]

    known = []
    cut = start(
        runtime, canceled(), on_batch=lambda batch: known.append((batch.batch_id, dict(emulator.state.creates)))
    )
    ((batch_id, created),) = known
    assert not created
    assert (cut.batch_id, cut.request_count, cut.is_cut_short) == (batch_id, 4, True)
    assert fetch_batch_status(runtime, batch_id) is BatchStatus.CANCELED
    assert emulator.state.requests[f"{provider}.batches.cancel"] == 2
    assert start(runtime, rows(9)).batch_id != batch_id
    assert emulator.state.creates[provider] == 2 + 5


def test_a_canceled_batch_whose_delivery_broke_off_is_delivered_first(provider, runtime, emulator, store):
    """A retry goes on with it; once that is through, a new one may be made."""
    batch = start(runtime, rows(3))
    cancel_batch(runtime, batch.batch_id)
    assert fetch_batch_status(runtime, batch.batch_id) is BatchStatus.CANCELED
    fetched = fetch_batch_results(runtime, batch.batch_id)
    store.note_result(fetched, "file:///out")
    assert start(runtime, rows(3)).batch_id == batch.batch_id
    assert store.mark_applied(fetched, "file:///out", runtime.clock())
    assert start(runtime, rows(3)).batch_id != batch.batch_id


def test_a_batch_that_was_cut_short_and_had_expired_opens_no_round(provider, runtime, emulator, store):
    """Somebody canceled it, though its parts were over by then: the next attempt makes a new one."""
    emulator.state.faults.expire_after = 0.0
    object.__setattr__(emulator.settings, "progress", Progress())
    break_off(runtime, rows(5))
    cut = store.find_by_claim(CLAIM)
    for part in cut.parts:
        runtime.transport.send(runtime.adapter.get_request(part.provider_batch_id))
    cancel_batch(runtime, cut.batch_id)
    assert store.get_batch(cut.batch_id).status is BatchStatus.EXPIRED
    assert advance_batch(runtime, cut.batch_id).status is BatchStatus.EXPIRED
    assert emulator.state.creates[provider] == 2
    assert start(runtime, rows(5)).batch_id != cut.batch_id


def test_a_cancel_that_was_killed_in_the_middle_is_gone_on_with(provider, runtime, emulator, store):
    """It had cut the batch short and told the provider nothing: the next attempt does, then makes its own."""
    emulator.state.faults.done_at_cancel = 1.0
    break_off(runtime, rows(4))
    cut = store.find_by_claim(CLAIM)
    store.request_cancel(cut, runtime.clock())
    batch = start(runtime, rows(4))
    assert batch.batch_id != cut.batch_id
    assert emulator.state.requests[f"{provider}.batches.cancel"] == len(cut.parts)
    assert store.get_batch(cut.batch_id).results_fetched_at is not None


def test_what_waited_while_the_input_was_read_and_was_canceled_is_not_sent(provider, runtime, emulator, store):
    """The attempt that read on sends none of it, even if whoever cancels has told the provider nothing yet."""

    def canceled_halfway():
        yield from rows(5)
        store.request_cancel(store.find_by_claim(CLAIM), runtime.clock())
        yield from rows(7)[5:]

    with pytest.raises(AttemptLostError):
        create_batch(runtime, canceled_halfway(), defaults=defaults_of(provider), claim=CLAIM)
    cut = store.find_by_claim(CLAIM)
    assert cut.status is BatchStatus.CANCELED
    assert start(runtime, rows(7)).batch_id != cut.batch_id
    assert emulator.state.creates[provider] == 4


def test_rows_of_a_batch_that_was_cut_short_keep_their_columns(provider, open_with, emulator, store, tmp_path):
    """What was submitted has its rows' own columns, whichever attempt read them, and of whichever model they are."""
    emulator.state.faults.done_at_cancel = 1.0
    given = [row | ({"model": OTHER_MODELS[provider]} if n % 3 == 0 else {}) for n, row in enumerate(rows(30))]

    def canceled():
        yield from given[:25]
        cancel_batch(runtime, store.find_by_claim(CLAIM).batch_id)
        yield from given[25:]

    with open_with(max_requests=2) as runtime:
        break_off(runtime, given[:9])
    with open_with(max_requests=5) as runtime:
        batch = start(runtime, canceled())
        assert batch.is_cut_short
        object.__setattr__(emulator.settings, "progress", Progress())
        fetch_batch_status(runtime, batch.batch_id)
        fetch_batch_results(runtime, batch.batch_id)
        found = read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri)
    assert 9 < len(found) < 25
    assert [row["custom_id"] for row in found] == [f"row {row['shelf']}" for row in found]


def test_rows_that_changed_after_what_was_submitted_have_their_own_columns(
    provider, open_with, emulator, tmp_path, monkeypatch
):
    """Not those that an attempt which broke off had read in their place, and written into the spool already."""
    monkeypatch.setattr(row_files, "ROWS_PER_FILE", 3)
    given = rows(14)
    with open_with(max_requests=4) as runtime:
        break_off(runtime, given[:7])
        batch = start(runtime, given[:4] + given[6:])
        found = end(emulator, runtime, batch, tmp_path)
        shares = [apply_part(runtime, batch.batch_id, part.number, folder(tmp_path / "out")) for part in batch.parts]
    assert emulator.state.creates[provider] == 3
    assert [row["shelf"] for row in found] == [0, 1, 2, 3, *range(6, 14)]
    assert [row["custom_id"] for row in found] == [f"row {row['shelf']}" for row in found]
    assert [row for share in shares for row in read_rows(share.part.result_uri)] == found


@pytest.mark.parametrize("read", [1, 5, 6])
def test_an_attempt_that_was_taken_for_dead_stops(provider, runtime, emulator, store, tmp_path, read):
    """A second attempt takes over; the first, once it wakes, changes nothing and sends nothing."""
    reached, go_on = threading.Event(), threading.Event()
    ended = []

    def slow():
        for n, row in enumerate(rows(8)):
            if n == read:
                reached.set()
                go_on.wait(60)
            yield row

    def first():
        try:
            start(runtime, slow())
        except RaifError as error:
            ended.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    reached.wait(60)
    batch = start(runtime, rows(8))
    go_on.set()
    thread.join(60)
    (error,) = ended
    assert isinstance(error, AttemptLostError)
    assert error.retryable
    assert store.find_by_claim(CLAIM) == batch
    assert emulator.state.creates[provider] == 4
    found = end(emulator, runtime, batch, tmp_path)
    assert [(row["custom_id"], row["status"]) for row in found] == [(f"row {n}", "completed") for n in range(8)]


def test_an_attempt_whose_batch_was_discarded_writes_in_no_other(provider, runtime, emulator, store, tmp_path):
    """Its part is gone by the time it would be sent; what came in its place belongs to another attempt."""
    successors = []

    def overtaken():
        if not successors:
            assert resume_batch(runtime, CLAIM) is None
            successors.append(create_batch(runtime, rows(5), defaults=defaults_of(provider), claim=CLAIM))
        return False

    with pytest.raises(AttemptLostError):
        start(dataclasses.replace(runtime, is_ending=overtaken), rows(7))
    assert store.find_by_claim(CLAIM) == successors[0]
    assert emulator.state.creates[provider] == 0
    batch = start(runtime, rows(5))
    assert batch.batch_id == successors[0].batch_id
    assert emulator.state.creates[provider] == 3
    found = end(emulator, runtime, batch, tmp_path)
    assert [(row["custom_id"], row["status"]) for row in found] == [(f"row {n}", "completed") for n in range(5)]
