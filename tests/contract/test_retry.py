"""Retry by hand: failed rows of a batch that is over go out again, at a price that is told, and nothing else does."""

from __future__ import annotations

import dataclasses

import pytest

from airflow_raif.domain.errors import BudgetExceededError, CanceledBatchError, ConfigurationError, InvalidBatchError
from airflow_raif.domain.money import Budget, dollars
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.usage import Cost
from airflow_raif.emulator.faults import RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.pricing.prices import PriceBook
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.apply import apply_results
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.fetch import fetch_now
from airflow_raif.services.outcome import check_outcome
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.resume import resume_batch
from airflow_raif.services.retain import delete_spool
from airflow_raif.services.retry import plan_retry, retry_failed
from airflow_raif.services.start import start_batch
from airflow_raif.spool.files import requests_file
from tests.support import CLAIM, MODELS, PROVIDERS, defaults_of, folder, read_rows, rows, runtime_of

NO_ROUNDS = RoundPolicy(max_rounds=0)


@pytest.fixture(params=PROVIDERS)
def provider(request):
    return request.param


@pytest.fixture
def runtime(provider, emulator, store, tmp_path):
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 4}) as opened:
        yield opened


def start(runtime, count=6, policy=NO_ROUNDS, **defaults):
    return start_batch(
        runtime,
        lambda: rows(count),
        defaults=defaults_of(runtime.adapter.name, **defaults),
        claim=CLAIM,
        round_policy=policy,
    )


def finish(runtime, batch, tmp_path):
    """Wait, advance and apply, as the batch's task does."""
    while True:
        fetch_batch_status(runtime, batch.batch_id)
        if advance_batch(runtime, batch.batch_id).status.is_terminal:
            return apply_results(runtime, batch.batch_id, folder(tmp_path / "out"))


def sent(runtime, batch, number):
    return b"".join(runtime.folder(batch.batch_id).blocks(requests_file(number))()).splitlines()


def test_failed_rows_go_out_again_whatever_the_policy(provider, runtime, emulator, tmp_path):
    """As the bytes that were sent, in one part; the results are applied whole again, and nothing is sent by hand."""
    emulator.state.faults.rows += [
        RowFault(kind="errored", rows=[1], batches=2),
        RowFault(kind="refused", rows=[0], batches=1),
    ]
    batch = finish(runtime, start(runtime), tmp_path)
    before = batch.usage
    plan = plan_retry(runtime, batch.batch_id)
    assert (plan.entry_count, plan.counts) == (3, {"errored": 2, "refused": 1})
    assert runtime.store.get_batch(batch.batch_id) == batch
    again = retry_failed(runtime, batch.batch_id)
    assert again.status is BatchStatus.IN_PROGRESS
    assert emulator.state.creates[provider] == 2
    assert [(part.round, part.request_count) for part in again.parts] == [(0, 4), (0, 2), (1, 3)]
    first, second = sent(runtime, batch, 0), sent(runtime, batch, 1)
    assert sent(runtime, batch, 2) == [first[0], first[1], second[1]]
    done = finish(runtime, again, tmp_path)
    assert [row["status"] for row in read_rows(done.result_uri)] == ["completed"] * 6
    assert emulator.state.creates[provider] == 3
    assert done.usage.output_tokens > before.output_tokens
    assert done.applied_at > batch.applied_at
    with pytest.raises(InvalidBatchError, match=f"no row of batch {batch.batch_id} failed"):
        retry_failed(runtime, batch.batch_id)


def test_only_the_reasons_that_are_given(provider, runtime, emulator, tmp_path):
    """The others stay failed; reasons that nothing failed for, or that there are none of, are told."""
    emulator.state.faults.rows += [
        RowFault(kind="errored", rows=[1], batches=1),
        RowFault(kind="refused", rows=[0], batches=1),
    ]
    batch = finish(runtime, start(runtime, 3), tmp_path)
    with pytest.raises(InvalidBatchError, match="only 1 errored, 1 refused"):
        plan_retry(runtime, batch.batch_id, ["expired"])
    with pytest.raises(InvalidBatchError, match="rows do not fail as 'lost'; the reasons are canceled, errored"):
        retry_failed(runtime, batch.batch_id, ["errored", "lost"])
    assert retry_failed(runtime, batch.batch_id, ["errored"]).parts[1].request_count == 1
    done = finish(runtime, batch, tmp_path)
    assert [row["status"] for row in read_rows(done.result_uri)] == ["failed", "completed", "completed"]


def test_what_was_cut_off_needs_a_higher_limit(provider, runtime, emulator, tmp_path):
    """It would be cut off again at the same price."""
    emulator.state.faults.rows.append(RowFault(kind="truncated", rows=[0], batches=1))
    batch = finish(runtime, start(runtime, 3), tmp_path)
    with pytest.raises(InvalidBatchError, match="only 1 truncated; give a higher limit of output tokens"):
        plan_retry(runtime, batch.batch_id)
    with pytest.raises(InvalidBatchError, match="would be cut off again; give a higher limit"):
        plan_retry(runtime, batch.batch_id, ["truncated"])
    with pytest.raises(InvalidBatchError, match="as high a limit already"):
        retry_failed(runtime, batch.batch_id, truncated_max_tokens=500)
    assert runtime.store.get_batch(batch.batch_id) == batch
    retry_failed(runtime, batch.batch_id, truncated_max_tokens=900)
    assert b"900" in sent(runtime, batch, 1)[0]
    done = finish(runtime, batch, tmp_path)
    assert [row["status"] for row in read_rows(done.result_uri)] == ["completed"] * 3


def test_the_cost_is_that_of_the_rows_that_were_answered(provider, emulator, store, tmp_path):
    """The mean of their model, so about what the retry then costs."""
    emulator.state.faults.rows.append(RowFault(kind="errored", fraction=0.5, batches=1))
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        batch = finish(runtime, start(runtime, 100), tmp_path)
        plan = plan_retry(runtime, batch.batch_id)
        assert (plan.entry_count, plan.covers_answers, plan.cost.is_estimated) == (50, True, True)
        assert plan.cost.batch == batch.cost.batch
        assert plan.cost.standard == 2 * plan.cost.batch
        retry_failed(runtime, batch.batch_id)
        done = finish(runtime, batch, tmp_path)
    assert done.cost.batch - batch.cost.batch == pytest.approx(plan.cost.batch, rel=0.3)


def test_the_cost_where_no_row_was_answered(provider, runtime, emulator, tmp_path):
    """That of the requests alone, and said to be; without a price it is unknown, not zero."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[0, 1, 2], batches=-1))
    batch = finish(runtime, start(runtime, 3), tmp_path)
    plan = plan_retry(runtime, batch.batch_id)
    assert not plan.covers_answers
    size = sum(len(line) for line in sent(runtime, batch, 0))
    price = runtime.prices.pricer(provider, MODELS[provider])
    assert plan.cost.batch == pytest.approx(price(type(batch.usage)(input_tokens=size // 4)).batch, rel=0.05)
    unpriced = dataclasses.replace(runtime, prices=NoPrices())
    assert plan_retry(unpriced, batch.batch_id).cost.batch is None
    with pytest.raises(ConfigurationError, match="not every price of its failed rows is known; put it into"):
        plan_retry(unpriced, batch.batch_id, max_cost=1)


def test_the_cost_where_every_answer_failed(provider, runtime, emulator, tmp_path):
    """What was billed tells what it costs, whatever became of it."""
    emulator.state.faults.rows.append(RowFault(kind="truncated", rows=[0, 1, 2], batches=-1))
    batch = finish(runtime, start(runtime, 3), tmp_path)
    plan = plan_retry(runtime, batch.batch_id, truncated_max_tokens=900)
    assert plan.covers_answers
    assert plan.cost.batch == batch.cost.batch > 0


def test_a_retry_that_brings_the_batch_over_its_budget(provider, runtime, emulator, tmp_path):
    """It is refused, and told why; a higher limit stays the batch's own."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[0, 1], batches=-1))
    priced = dataclasses.replace(runtime, prices=PriceBook({MODELS[provider]: {"input": 1000, "output": 1000}}))
    batch = finish(priced, start(priced, 4), tmp_path)
    each = batch.cost.batch // 2
    priced.store.set_budget(batch, Budget(each * 3, expected_output_tokens=7))
    told = rf"cost \{dollars(each * 2)} so far, and its 2 failed rows would cost about \{dollars(each * 2)} more; that"
    for refused in (plan_retry, retry_failed):
        with pytest.raises(BudgetExceededError, match=rf"{told} is more than its max_cost of \{dollars(each * 3)}"):
            refused(priced, batch.batch_id)
    with pytest.raises(BudgetExceededError, match=f"'airflow raif batches retry {batch.batch_id} --max-cost'"):
        retry_failed(priced, batch.batch_id, max_cost=each * 4 - 1)
    assert priced.store.get_batch(batch.batch_id).status is BatchStatus.ENDED
    assert retry_failed(priced, batch.batch_id, max_cost=each * 4).budget == Budget(each * 4, 7)
    batch = finish(priced, batch, tmp_path)
    assert (batch.failed_count, batch.budget.max_cost) == (2, each * 4)


class NoPrices(PriceBook):
    """Knows no model."""

    def pricer(self, provider, model):
        return lambda _: Cost()


def test_a_batch_that_is_not_over(provider, emulator_of, store, tmp_path):
    """Running, or ended and not fetched: the error says what comes first."""
    emulator = emulator_of(progress=Progress.parse("polls:2"))
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[0], batches=-1))
    with runtime_of(provider, emulator.url, store, tmp_path) as runtime:
        batch = start(runtime, 3)
        with pytest.raises(InvalidBatchError, match="can be retried once it has ended"):
            retry_failed(runtime, batch.batch_id)
        while not fetch_batch_status(runtime, batch.batch_id).is_terminal:
            pass
        with pytest.raises(InvalidBatchError, match="were not fetched; fetch them first"):
            retry_failed(runtime, batch.batch_id)
        assert fetch_now(runtime, batch.batch_id).results_fetched_at is not None
        assert retry_failed(runtime, batch.batch_id).parts[1].is_unsent


def test_requests_that_are_gone(provider, runtime, emulator, store, tmp_path):
    """Deleted by us, or by somebody: there is nothing that could be sent."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[1], batches=-1))
    batch = finish(runtime, start(runtime), tmp_path)
    runtime.folder(batch.batch_id).rename(requests_file(1), "away")
    with pytest.raises(InvalidBatchError, match=r"requests of part 1 are not in the spool.*put part-00001"):
        retry_failed(runtime, batch.batch_id)
    delete_spool(store, runtime.spool, batch, runtime.clock())
    with pytest.raises(InvalidBatchError, match="its requests with it; trigger a new run"):
        retry_failed(runtime, batch.batch_id)


def test_of_two_at_the_same_time_one_retries(provider, runtime, emulator, tmp_path, monkeypatch):
    """The other is told, and leaves no file behind."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[1], batches=1))
    batch = finish(runtime, start(runtime, 3), tmp_path)
    open_round, opened = type(runtime.store).open_round, []

    def behind_another(store, *given):
        if not opened:
            opened.append(True)
            retry_failed(runtime, batch.batch_id)
        return open_round(store, *given)

    monkeypatch.setattr(type(runtime.store), "open_round", behind_another)
    with pytest.raises(InvalidBatchError, match="another process took the batch up at the same time"):
        retry_failed(runtime, batch.batch_id)
    assert [(part.round, part.request_count) for part in runtime.store.get_batch(batch.batch_id).parts][1:] == [(1, 1)]
    assert not [name for name in runtime.folder(batch.batch_id).names() if name.endswith(".draft")]


def test_the_input_may_have_changed_since(provider, runtime, emulator, tmp_path):
    """Its task goes on with the retry, though what was applied may have changed what the query finds."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[1], batches=1))
    batch = finish(runtime, start(runtime, 3), tmp_path)
    retry_failed(runtime, batch.batch_id)
    again = start_batch(
        runtime, lambda: rows(2), defaults=defaults_of(provider), claim=CLAIM, on_input_change="resubmit"
    )
    assert again.batch_id == batch.batch_id
    fetch_batch_status(runtime, batch.batch_id)
    advance_batch(runtime, batch.batch_id)
    assert resume_batch(runtime, CLAIM, lambda: "other").batch_id == batch.batch_id
    done = finish(runtime, batch, tmp_path)
    assert [row["status"] for row in read_rows(done.result_uri)] == ["completed"] * 3
    assert emulator.state.creates[provider] == 2


def canceled(runtime, emulator, tmp_path):
    """A batch that was canceled while one of its two parts ran, its results applied, and the task failed."""
    batch = start(runtime)
    with pytest.raises(CanceledBatchError):
        cancel_batch(runtime, batch.batch_id)
        check_outcome(runtime, finish(runtime, batch, tmp_path), max_failed_fraction=1.0)
    return runtime.store.get_batch(batch.batch_id)


def test_what_was_canceled_goes_out_again(provider, emulator_of, store, tmp_path):
    """Somebody changed their mind: what was answered is kept, the task goes on with it, and does not start anew."""
    emulator = emulator_of(progress=Progress.parse("polls:1000"))
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 4}) as runtime:
        batch = canceled(runtime, emulator, tmp_path)
        with pytest.raises(InvalidBatchError, match="together with those that were canceled; add that reason"):
            retry_failed(runtime, batch.batch_id, ["errored"])
        retry_failed(runtime, batch.batch_id)
        assert resume_batch(runtime, CLAIM, lambda: "changed").batch_id == batch.batch_id
        object.__setattr__(emulator.settings, "progress", Progress.parse("immediate"))
        done = finish(runtime, batch, tmp_path)
        assert [row["status"] for row in read_rows(done.result_uri)] == ["completed"] * 6
        check_outcome(runtime, done, max_failed_fraction=0.0)
        assert resume_batch(runtime, CLAIM, lambda: batch.fingerprint).batch_id == batch.batch_id
        assert emulator.state.creates[provider] == 4


def test_a_retry_that_is_canceled_too(provider, emulator_of, store, tmp_path):
    """Then the batch was canceled, as before: its task fails, and a clear starts a new one."""
    emulator = emulator_of(progress=Progress.parse("polls:1000"))
    with runtime_of(provider, emulator.url, store, tmp_path, limits={"max_requests": 4}) as runtime:
        batch = canceled(runtime, emulator, tmp_path)
        retry_failed(runtime, batch.batch_id)
        advance_batch(runtime, batch.batch_id)
        cancel_batch(runtime, batch.batch_id)
        done = finish(runtime, batch, tmp_path)
        with pytest.raises(CanceledBatchError):
            check_outcome(runtime, done, max_failed_fraction=1.0)
        assert resume_batch(runtime, CLAIM, lambda: "changed") is None
        with pytest.raises(InvalidBatchError, match="has given it up and goes on with a new one"):
            retry_failed(runtime, batch.batch_id)
