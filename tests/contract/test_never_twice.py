"""A create is sent once: lost replies and crashes are looked up, and only what is known not to exist is sent again."""

from __future__ import annotations

from email.utils import formatdate
from time import time

import pytest

from airflow_raif.domain.errors import (
    AmbiguousSubmitError,
    InvalidBatchError,
    ProviderError,
    TransientProviderError,
    UnavailableError,
)
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.services.apply import apply_results
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_batch_results
from airflow_raif.services.find import LIST_LAG_SECONDS
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.start import start_batch
from airflow_raif.services.submit import submit_batch
from tests.support import (
    CLAIM,
    PROVIDERS,
    answer_with,
    defaults_of,
    folder,
    later,
    read_rows,
    rows,
    runtime_of,
    through,
)

pytestmark = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture
def emulator(emulator_of):
    return emulator_of(progress=Progress.parse("polls:1000"))


@pytest.fixture
def runtime(provider, emulator, store, tmp_path):
    with runtime_of(provider, emulator.url, store, tmp_path) as opened:
        yield opened


def fault(emulator, provider, **values):
    emulator.state.faults.http.append(HttpFault(route=f"{provider}.batches.create", **values))


def test_lost_reply_is_looked_up_and_adopted(provider, runtime, emulator):
    """The provider created the batch, the reply never came: the batch is found, not made again."""
    fault(emulator, provider, drop="after")
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    batch = submit_batch(runtime, batch.batch_id)
    (at_provider,) = emulator.state.batches[provider]
    assert batch.parts[0].provider_batch_id == at_provider
    assert emulator.state.creates[provider] == 1


def test_crash_between_the_call_and_its_record(provider, runtime, emulator, store):
    """A worker that died after the call leaves its intent; the retry adopts what the call made."""
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider), claim=CLAIM)
    (part,) = batch.parts
    spooled = runtime.spooled_part(batch, part)
    input_ref = runtime.adapter.upload(runtime.transport, spooled)
    if input_ref:
        store.record_upload(part.id, input_ref)
    store.record_intent(part.id, runtime.clock())
    made = runtime.adapter.create(runtime.transport, spooled, input_ref)
    resumed = start_batch(runtime, lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
    assert resumed.parts[0].provider_batch_id == made.provider_batch_id
    assert emulator.state.creates[provider] == 1


def test_crash_before_the_call(provider, runtime, emulator, store):
    """An intent whose call never reached the provider is sent again."""
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider), claim=CLAIM)
    store.record_intent(batch.parts[0].id, runtime.clock())
    resumed = start_batch(later(runtime), lambda: rows(3), defaults=defaults_of(provider), claim=CLAIM)
    assert resumed.parts[0].provider_batch_id
    assert emulator.state.creates[provider] == 1


def test_call_that_never_arrived(provider, runtime, emulator):
    """A connection closed before the call took effect: found nowhere, the retry sends it."""
    fault(emulator, provider, drop="before")
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    with pytest.raises(TransientProviderError):
        submit_batch(runtime, batch.batch_id)
    assert emulator.state.creates[provider] == 0
    submit_batch(later(runtime), batch.batch_id)
    assert emulator.state.creates[provider] == 1


MINUTE, HOUR = 60, 3600


@pytest.mark.parametrize("ahead", [-3 * HOUR, -10 * MINUTE, 10 * MINUTE, 3 * HOUR])
def test_lost_reply_is_found_whatever_the_providers_clock_says(provider, emulator_of, store, tmp_path, ahead):
    """A provider whose clock is far off ours tells its time in every answer: its batch is found and not made again."""
    emulator = emulator_of(progress=Progress.parse("polls:1000"), clock=lambda: time() + ahead)
    fault(emulator, provider, drop="after")

    def with_its_date(request, response):
        response.headers["date"] = formatdate(emulator.settings.clock(), usegmt=True)

    with runtime_of(provider, emulator.url, store, tmp_path) as opened:
        runtime = through(opened, with_its_date)
        batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
        batch = submit_batch(runtime, batch.batch_id)
    assert [batch.parts[0].provider_batch_id] == list(emulator.state.batches[provider])


@pytest.mark.parametrize("ahead", [-10 * MINUTE, 10 * MINUTE])
@pytest.mark.parametrize("date", [None, "yesterday"])
def test_lost_reply_is_found_where_the_provider_tells_no_time(provider, emulator_of, store, tmp_path, ahead, date):
    """Without a usable Date the lookup reaches back much further, since a missed batch is paid twice."""
    emulator = emulator_of(progress=Progress.parse("polls:1000"), clock=lambda: time() + ahead)
    fault(emulator, provider, drop="after")

    def with_date(request, response):
        response.headers.pop("date", None)
        if date:
            response.headers["date"] = date

    with runtime_of(provider, emulator.url, store, tmp_path) as opened:
        runtime = through(opened, with_date)
        batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
        batch = submit_batch(runtime, batch.batch_id)
    assert [batch.parts[0].provider_batch_id] == list(emulator.state.batches[provider])


def test_a_list_that_lags_is_waited_for(provider, runtime, emulator):
    """What was created a moment ago may not be listed yet, so a part is not sent again before that can be known."""
    fault(emulator, provider, drop="after")
    is_hidden = True

    def hide(request, response):
        if request.method == "GET" and is_hidden:
            answer_with(response, b'{"data": []}')

    lagging = through(runtime, hide)
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    for _ in range(2):
        with pytest.raises(UnavailableError, match="does not list it.* Nothing was sent again. Retry the task") as told:
            submit_batch(lagging, batch.batch_id)
        assert LIST_LAG_SECONDS - 10 < told.value.retry_after <= LIST_LAG_SECONDS
    is_hidden = False
    batch = submit_batch(later(lagging), batch.batch_id)
    assert [batch.parts[0].provider_batch_id] == list(emulator.state.batches[provider])


def test_a_reply_that_cannot_be_read_is_a_lost_one(provider, runtime, emulator):
    """A proxy's page instead of the provider's answer: the batch was made, and is found."""

    def garble(request, response):
        if request.method == "POST" and "files" not in request.url.path:
            answer_with(response, b"<html>welcome</html>")

    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    batch = submit_batch(through(runtime, garble), batch.batch_id)
    assert [batch.parts[0].provider_batch_id] == list(emulator.state.batches[provider])


@pytest.mark.parametrize(("status", "error"), [(500, UnavailableError), (401, AmbiguousSubmitError)])
def test_a_lookup_that_fails_stops_and_says_so(provider, runtime, emulator, store, status, error):
    """The part stays as it was, nothing is sent again, and the retry looks it up."""
    fault(emulator, provider, drop="after")
    emulator.state.faults.http.append(HttpFault(route=f"{provider}.batches.list", status=status, times=-1))
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    for attempt in (runtime, later(runtime)):
        with pytest.raises(error) as told:
            submit_batch(attempt, batch.batch_id)
        assert f"the reply to creating part 0 of batch {batch.batch_id} at {provider} was lost" in str(told.value)
        assert f"looking it up failed: {provider} answered {status}" in str(told.value)
        assert "Nothing was sent again." in str(told.value)
        assert ("Retry the task" in str(told.value)) is told.value.retryable
        assert store.get_batch(batch.batch_id).parts[0].intent_at is not None
    emulator.state.faults.http.clear()
    batch = submit_batch(later(runtime), batch.batch_id)
    assert [batch.parts[0].provider_batch_id] == list(emulator.state.batches[provider])


@pytest.mark.parametrize("status", [500, 503])
def test_create_is_never_repeated_by_itself(provider, runtime, emulator, status):
    """An error reply to a create is not followed by a second create in the same attempt."""
    fault(emulator, provider, status=status, retry_after=0)
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    with pytest.raises(TransientProviderError):
        submit_batch(runtime, batch.batch_id)
    assert emulator.state.requests[f"{provider}.batches.create"] == 1
    submit_batch(later(runtime), batch.batch_id)
    assert emulator.state.creates[provider] == 1


def test_several_candidates_stop_with_a_clear_error(provider, runtime, emulator, store):
    """When the provider has two batches that may be the lost one, nothing more is sent."""
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    (part,) = batch.parts
    spooled = runtime.spooled_part(batch, part)
    input_ref = runtime.adapter.upload(runtime.transport, spooled)
    store.record_intent(part.id, runtime.clock())
    for _ in range(2):
        runtime.adapter.create(runtime.transport, spooled, input_ref)
    with pytest.raises(AmbiguousSubmitError, match="may be any of") as told:
        submit_batch(later(runtime), batch.batch_id)
    for at_provider in emulator.state.batches[provider].values():
        created = formatdate(at_provider.created_at)[17:25]
        assert f"{at_provider.id} (created" in str(told.value)
        assert created in str(told.value)
    assert f"'airflow raif batches adopt {batch.batch_id} 0 <provider batch id>'" in str(told.value)
    assert f"'airflow raif batches resend {batch.batch_id} 0'" in str(told.value)
    assert not told.value.retryable
    assert emulator.state.creates[provider] == 2


def test_batches_of_others_are_not_adopted(provider, runtime, emulator, store):
    """A batch of the same size that belongs to another batch of ours is not mistaken for the lost one."""
    other = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    submit_batch(runtime, other.batch_id)
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    store.record_intent(batch.parts[0].id, runtime.clock())
    batch = submit_batch(later(runtime), batch.batch_id)
    assert batch.parts[0].provider_batch_id != store.get_batch(other.batch_id).parts[0].provider_batch_id
    assert emulator.state.creates[provider] == 2


def test_two_creates_of_a_size_whose_replies_are_out(provider, runtime, emulator, store):
    """What runs may be either's where nothing marks it: neither takes it until the other knows its own."""
    other = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    spooled = runtime.spooled_part(other, other.parts[0])
    store.record_intent(other.parts[0].id, runtime.clock())
    made = runtime.adapter.create(runtime.transport, spooled, runtime.adapter.upload(runtime.transport, spooled))
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    store.record_intent(batch.parts[0].id, runtime.clock())
    if not runtime.adapter.has_tag:
        with pytest.raises(UnavailableError, match=f"{made.provider_batch_id}.*part 0 of batch {other.batch_id}"):
            submit_batch(later(runtime), batch.batch_id)
    store.record_submitted(other.parts[0].id, made, runtime.clock())
    batch = submit_batch(later(runtime), batch.batch_id)
    assert batch.parts[0].provider_batch_id not in (None, made.provider_batch_id)
    assert emulator.state.creates[provider] == 2


def test_two_creates_of_a_size_that_both_arrived(provider, runtime, emulator, store):
    """As long as the replies may come to other attempts, who cannot tell them apart tries again."""
    pairs = []
    for _ in range(2):
        batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
        spooled = runtime.spooled_part(batch, batch.parts[0])
        store.record_intent(batch.parts[0].id, runtime.clock())
        pairs.append(
            (
                batch,
                runtime.adapter.create(runtime.transport, spooled, runtime.adapter.upload(runtime.transport, spooled)),
            )
        )
    (batch, made), (other, other_made) = pairs
    if not runtime.adapter.has_tag:
        with pytest.raises(UnavailableError, match="may be any of") as told:
            submit_batch(runtime, batch.batch_id)
        assert made.provider_batch_id in str(told.value)
        assert other_made.provider_batch_id in str(told.value)
        with pytest.raises(AmbiguousSubmitError, match="may be any of"):
            submit_batch(later(runtime), batch.batch_id)
    store.record_submitted(other.parts[0].id, other_made, runtime.clock())
    batch = submit_batch(later(runtime), batch.batch_id)
    assert batch.parts[0].provider_batch_id == made.provider_batch_id
    assert emulator.state.creates[provider] == 2


def test_ended_stranger_of_the_same_size_is_not_adopted(provider, emulator_of, store, tmp_path):
    """Of an ended batch the ids in its results tell whose it is."""
    emulator = emulator_of()
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        stranger = create_batch(runtime, rows(3), defaults=defaults_of(provider))
        spooled = runtime.spooled_part(stranger, stranger.parts[0])
        made = runtime.adapter.create(runtime.transport, spooled, runtime.adapter.upload(runtime.transport, spooled))
        runtime.transport.send(runtime.adapter.get_request(made.provider_batch_id))
        batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
        store.record_intent(batch.parts[0].id, runtime.clock())
        batch = submit_batch(later(runtime), batch.batch_id)
    assert batch.parts[0].provider_batch_id != made.provider_batch_id
    assert emulator.state.creates[provider] == 2


def test_refused_create_leaves_the_part_submittable(provider, runtime, emulator):
    """A 400 to the create is no doubt: nothing was made."""
    fault(emulator, provider, status=400)
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    with pytest.raises(ProviderError) as caught:
        submit_batch(runtime, batch.batch_id)
    assert not caught.value.retryable
    submit_batch(runtime, batch.batch_id)
    assert emulator.state.creates[provider] == 1


def test_submitted_batch_is_not_submittable(provider, runtime, emulator):
    """A second submit is refused."""
    batch = create_batch(runtime, rows(3), defaults=defaults_of(provider))
    submit_batch(runtime, batch.batch_id)
    with pytest.raises(InvalidBatchError, match="has nothing left to submit"):
        submit_batch(runtime, batch.batch_id)
    assert emulator.state.creates[provider] == 1


def test_batch_that_was_never_spooled_whole_is_made_anew(provider, runtime, emulator, store):
    """A worker that died while spooling leaves a batch that nothing can be sent of."""

    def breaks():
        yield from rows(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_batch(runtime, breaks(), defaults=defaults_of(provider), claim=CLAIM)
    assert store.find_by_claim(CLAIM) is None
    batch = start_batch(runtime, lambda: rows(2), defaults=defaults_of(provider), claim=CLAIM)
    assert batch.request_count == 2
    assert emulator.state.creates[provider] == 1


def test_half_submitted_batch_goes_on_where_it_stopped(provider, emulator, store, tmp_path):
    """Parts that were sent are not sent again when a later one failed."""
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 2}) as runtime:
        fault(emulator, provider, status=500, skip=1)
        with pytest.raises(TransientProviderError):
            start_batch(runtime, lambda: rows(5), defaults=defaults_of(provider), claim=CLAIM)
        assert emulator.state.creates[provider] == 1
        batch = start_batch(later(runtime), lambda: rows(5), defaults=defaults_of(provider), claim=CLAIM)
    assert [part.request_count for part in batch.parts] == [2, 2, 1]
    assert emulator.state.creates[provider] == 3


def test_cancel_then_start_again(provider, runtime, emulator, store):
    """A canceled batch keeps its finished rows and gives its claim to a new batch."""
    emulator.state.faults.done_at_cancel = 0.5
    first = start_batch(runtime, lambda: rows(4), defaults=defaults_of(provider), claim=CLAIM)
    cancel_batch(runtime, first.batch_id)
    assert fetch_batch_status(runtime, first.batch_id) is BatchStatus.CANCELED
    second = start_batch(runtime, lambda: rows(4), defaults=defaults_of(provider), claim=CLAIM)
    assert second.batch_id != first.batch_id
    done = store.count_entries(store.get_batch(first.batch_id))
    assert done.completed == (0 if provider == "gemini" else 2)
    assert done.reasons == {"canceled": 4 - done.completed}


def test_cancel_of_what_cannot_be_canceled(provider, runtime, store):
    """Neither a batch that was never submitted nor a terminal one."""
    batch = create_batch(runtime, rows(2), defaults=defaults_of(provider))
    with pytest.raises(InvalidBatchError, match="was never submitted and cannot be canceled"):
        cancel_batch(runtime, batch.batch_id)
    submit_batch(runtime, batch.batch_id)
    cancel_batch(runtime, batch.batch_id)
    fetch_batch_status(runtime, batch.batch_id)
    with pytest.raises(InvalidBatchError, match="is canceled and cannot be canceled"):
        cancel_batch(runtime, batch.batch_id)


def test_results_of_a_running_batch_are_not_fetched(provider, runtime):
    """Fetch and apply before the end are refused."""
    batch = create_batch(runtime, rows(2), defaults=defaults_of(provider))
    submit_batch(runtime, batch.batch_id)
    with pytest.raises(InvalidBatchError, match="has not ended, poll it first"):
        fetch_batch_results(runtime, batch.batch_id)
    with pytest.raises(InvalidBatchError, match="fetch them first"):
        apply_results(runtime, batch.batch_id, runtime.spool)


def test_each_model_gets_a_part_of_its_own(provider, emulator_of, store, tmp_path):
    """A part holds one model, as the providers want it; the rows come back in input order all the same."""
    emulator = emulator_of()
    others = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-pro"}
    given = [{"prompt": f"p{n}", **({"model": others[provider]} if n % 2 else {})} for n in range(6)]
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        batch = create_batch(runtime, given, defaults=defaults_of(provider))
        submit_batch(runtime, batch.batch_id)
        fetch_batch_status(runtime, batch.batch_id)
        fetch_batch_results(runtime, batch.batch_id)
        batch = apply_results(runtime, batch.batch_id, folder(tmp_path / "out"))
    assert {part.model for part in batch.parts} == {defaults_of(provider).model, others[provider]}
    found = read_rows(batch.result_uri)
    assert [row["custom_id"] for row in found] == [str(n) for n in range(6)]
    assert [others[provider] in row["model"] for row in found] == [False, True] * 3
