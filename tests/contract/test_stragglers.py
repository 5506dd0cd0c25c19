"""Stragglers: the last few entries go through the synchronous API, each once, and never twice."""

from __future__ import annotations

from datetime import timedelta
from operator import itemgetter

import pytest

from airflow_raif.domain.errors import AuthenticationError, TransientProviderError, UnavailableError
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.apply import apply_results
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.start import start_batch
from airflow_raif.services.stragglers import LOST_AFTER
from airflow_raif.spool.files import answer_file
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

#: Route of the synchronous API.
CALL = {"openai": "openai.responses", "anthropic": "anthropic.messages.create", "gemini": "gemini.models.generate"}
EMBED = {
    "openai": ("/v1/embeddings", "text-embedding-3-small", "openai.embeddings"),
    "gemini": ("asyncBatchEmbedContent", "gemini-embedding-001", "gemini.models.embed"),
}
FEW = RoundPolicy(synchronous_stragglers=2)


@pytest.fixture(params=PROVIDERS)
def provider(request):
    return request.param


@pytest.fixture
def runtime(provider, emulator, store, tmp_path, no_backoff):
    with runtime_of(provider, emulator.url, store, tmp_path) as opened:
        yield opened


def ended(runtime, count, policy=FEW, **defaults):
    """A batch whose first round has ended and was not fetched."""
    provider = runtime.adapter.name
    batch = start_batch(
        runtime, lambda: rows(count), defaults=defaults_of(provider, **defaults), claim=CLAIM, round_policy=policy
    )
    fetch_batch_status(runtime, batch.batch_id)
    return batch


def results(runtime, batch, tmp_path):
    return read_rows(apply_results(runtime, batch.batch_id, folder(tmp_path / "out")).result_uri)


def lose(emulator, *positions, batches=1):
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=list(positions), batches=batches))


def fault(emulator, provider, **values):
    emulator.state.faults.http.append(HttpFault(route=CALL[provider], **values))


def test_the_last_few_are_asked_at_once_and_at_list_price(provider, runtime, emulator, tmp_path):
    """Their answers are in the results like all others, and their cost is what the synchronous API takes."""
    lose(emulator, 1, 3)
    batch = advance_batch(runtime, ended(runtime, 5).batch_id)
    assert [(part.is_synchronous, part.request_count) for part in batch.parts] == [(False, 5), (True, 2)]
    assert emulator.state.creates[provider] == 1
    assert emulator.state.requests[CALL[provider]] == 2
    found = results(runtime, batch, tmp_path)
    assert [row["custom_id"] for row in found] == [f"row {n}" for n in range(5)]
    assert [row["status"] for row in found] == ["completed"] * 5
    assert all(row["output"] and row["usage"]["output_tokens"] for row in found)
    assert [row["cost"]["batch"] == row["cost"]["standard"] for row in found] == [False, True, False, True, False]
    assert batch.cost.batch == sum(part.cost.batch for part in batch.parts)


@pytest.mark.parametrize("provider", EMBED, indirect=True)
def test_embeddings_too(provider, runtime, emulator, tmp_path):
    """A vector that was lost comes from the synchronous endpoint."""
    endpoint, model, route = EMBED[provider]
    lose(emulator, 0)
    batch = advance_batch(runtime, ended(runtime, 2, endpoint=endpoint, model=model, max_tokens=None).batch_id)
    assert emulator.state.requests[route] == 1
    vectors = [row["output"] for row in results(runtime, batch, tmp_path)]
    assert len(vectors[0]) == len(vectors[1]) > 100


def test_more_than_a_few_go_out_as_a_batch(provider, runtime, emulator):
    """Half the price is worth a wait, when there are enough of them."""
    lose(emulator, 0, 1, 2)
    batch = advance_batch(runtime, ended(runtime, 5).batch_id)
    assert [(part.round, part.is_synchronous) for part in batch.parts] == [(0, False), (1, False)]
    assert emulator.state.requests[CALL[provider]] == 0


def test_what_is_left_after_the_last_round(provider, runtime, emulator, tmp_path):
    """Few enough after all rounds: they are asked at once; more are left as they are."""
    lose(emulator, 0, 1, 2)
    policy = RoundPolicy(max_rounds=0, synchronous_stragglers=2)
    batch = advance_batch(runtime, ended(runtime, 5, policy).batch_id)
    assert len(batch.parts) == 1
    assert sorted({row["status"] for row in results(runtime, batch, tmp_path)}) == ["completed", "failed"]
    assert emulator.state.requests[CALL[provider]] == 0


@pytest.mark.parametrize(("status", "calls"), [(400, 1), (404, 1), (500, 6), (502, 1)])
def test_a_refused_call_fails_its_entry_alone(provider, runtime, emulator, tmp_path, status, calls):
    """Only the provider's own fault is tried again; a gateway's may hide an answer that is paid."""
    lose(emulator, 1, 3)
    fault(emulator, provider, status=status, times=calls)
    batch = advance_batch(runtime, ended(runtime, 4).batch_id)
    found = results(runtime, batch, tmp_path)
    assert [row["status"] for row in found] == ["completed", "failed", "completed", "completed"]
    assert found[1]["reason"] == "errored"
    assert f"answered {status}" in found[1]["error"]["message"]
    assert emulator.state.requests[CALL[provider]] == calls + 1
    # Nothing is repeated after the synchronous API.
    assert len(batch.parts) == 2


def test_a_lost_answer_is_not_asked_for_again(provider, runtime, emulator, tmp_path):
    """It is paid, and a synchronous call cannot be looked up."""
    lose(emulator, 1)
    fault(emulator, provider, drop="after")
    batch = advance_batch(runtime, ended(runtime, 2).batch_id)
    assert emulator.state.requests[CALL[provider]] == 1
    found = results(runtime, batch, tmp_path)
    assert (found[1]["status"], found[1]["reason"]) == ("failed", "errored")
    assert "did not answer" in found[1]["error"]["message"]


def test_an_answer_that_is_no_json_fails_its_entry(provider, runtime, emulator, tmp_path):
    """A gateway's page in place of the answer."""
    lose(emulator, 1)
    batch = ended(runtime, 2)

    def spoil(request, response):
        if "batch" not in request.url.path and request.method == "POST":
            answer_with(response, b"<html>hello</html>")

    batch = advance_batch(through(runtime, spoil), batch.batch_id)
    row = results(runtime, batch, tmp_path)[1]
    assert row["reason"] == "errored"
    assert "no JSON" in row["error"]["message"]


@pytest.mark.parametrize("status", [429, 503, 529])
def test_an_outage_is_waited_out(provider, runtime, emulator, tmp_path, status):
    """Nothing is failed for it: the next attempt asks for what was not answered."""
    lose(emulator, 1, 3)
    batch = ended(runtime, 4)
    fault(emulator, provider, status=status, skip=1, times=-1)
    with pytest.raises(TransientProviderError, match=f"answered {status}"):
        advance_batch(runtime, batch.batch_id)
    answered = emulator.state.requests[CALL[provider]]
    emulator.state.faults.http.clear()
    batch = advance_batch(runtime, batch.batch_id)
    assert emulator.state.requests[CALL[provider]] == answered + 1
    assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["completed"] * 4


def test_a_key_that_is_not_accepted_costs_no_entry(provider, runtime, emulator, tmp_path):
    """The task fails; with the key mended the next attempt goes on."""
    lose(emulator, 1)
    batch = ended(runtime, 2)
    fault(emulator, provider, status=401)
    with pytest.raises(AuthenticationError):
        advance_batch(runtime, batch.batch_id)
    batch = advance_batch(runtime, batch.batch_id)
    assert [row["status"] for row in results(runtime, batch, tmp_path)] == ["completed"] * 2


def test_a_worker_killed_during_a_call(provider, runtime, emulator, tmp_path):
    """The call that may be paid is not made again: after a while its answer counts as lost; the others are made."""
    lose(emulator, 1, 3)
    batch = ended(runtime, 4)

    class KilledError(BaseException):
        pass

    def kill(request, response):
        if "batch" not in request.url.path and request.method == "POST":
            raise KilledError

    with pytest.raises(KilledError):
        advance_batch(through(runtime, kill), batch.batch_id)
    assert emulator.state.requests[CALL[provider]] == 1
    with pytest.raises(UnavailableError, match="on their way in another attempt"):
        advance_batch(runtime, batch.batch_id)
    assert emulator.state.requests[CALL[provider]] == 2
    batch = advance_batch(later(runtime, LOST_AFTER + timedelta(seconds=1)), batch.batch_id)
    assert emulator.state.requests[CALL[provider]] == 2
    found = sorted(results(runtime, batch, tmp_path), key=itemgetter("custom_id"))
    assert [row["status"] for row in found] == ["completed", "failed", "completed", "completed"]
    assert "may be paid" in found[1]["error"]["message"]


def test_answers_lie_in_the_spool_before_the_next_call(provider, runtime, emulator):
    """A kill between two calls loses no answer."""
    lose(emulator, 1, 3)
    batch = ended(runtime, 4)
    fault(emulator, provider, status=401, skip=1)
    with pytest.raises(AuthenticationError):
        advance_batch(runtime, batch.batch_id)
    assert runtime.folder(batch.batch_id).exists(answer_file(1, 0))
    advance_batch(runtime, batch.batch_id)
    assert emulator.state.requests[CALL[provider]] == 3
