"""``airflow raif batches retry``, ``resume`` and ``expire`` of batches that no task made."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from airflow_raif.domain.batch import Claim
from airflow_raif.domain.money import Budget, picodollars
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks.runtime import open_batch_runtime, open_runtime
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_now
from airflow_raif.services.runtime import utc_now
from airflow_raif.services.submit import submit_batch
from tests.support import MODELS, PROVIDERS, defaults_of, rows


@pytest.fixture
def command(raif_command):
    return lambda *words, answer="": raif_command("batches", *words, answer=answer)


@pytest.fixture
def world(emulator_of, providers, raif_store):
    """An emulator whose batches end when the test says so, behind the default connections."""
    emulator = emulator_of(progress=Progress.parse("polls:1000"))
    providers(emulator)
    emulator.end_all = lambda: object.__setattr__(emulator.settings, "progress", Progress.parse("immediate"))
    return emulator


def made(provider="openai", count=3, claim=None):
    with open_runtime(f"{provider}_default", MODELS[provider]) as runtime:
        return create_batch(runtime, rows(count), defaults=defaults_of(provider), claim=claim)


def submitted(provider="openai", count=3, claim=None):
    batch = made(provider, count, claim)
    with open_batch_runtime(batch.batch_id) as (runtime, _):
        return submit_batch(runtime, batch.batch_id)


def fetched(world, kind="errored", **claim):
    """A batch that is over, one of its three rows failed."""
    world.state.faults.rows.append(RowFault(kind=kind, rows=[1], batches=1))
    batch = submitted(**claim)
    world.end_all()
    with open_batch_runtime(batch.batch_id) as (runtime, _):
        return fetch_now(runtime, batch.batch_id)


def test_retry_says_what_it_costs_and_asks(world, raif_store, command):
    """Without a yes nothing is done; with it rows are pending, and nothing was sent from here."""
    batch = fetched(world)
    refused = command("retry", batch.batch_id, answer="n\n")
    assert (refused.code, refused.out) == (1, "")
    assert "Have 1 failed row (1 errored; about 0.000" in refused.err
    assert raif_store.get_batch(batch.batch_id) == batch
    assert "say --yes to be asked nothing" in command("retry", batch.batch_id).err
    done = command("retry", batch.batch_id, answer="y\n")
    assert done.code == 0
    assert f"Round 1 of batch {batch.batch_id} has 1 row, which go out again." in done.out
    assert "No task made it: BatchHook.advance_batch sends them" in done.out
    assert raif_store.get_batch(batch.batch_id).parts[1].is_unsent
    assert world.state.creates["openai"] == 1
    again = command("retry", batch.batch_id, "--yes")
    assert again.code == 1
    assert "its failed rows can be retried once it has ended" in again.err


def test_retry_dry_run_for_scripts(world, raif_store, command):
    """Counts, money as exact text, and the tasks that would be cleared; nothing is changed."""
    batch = fetched(world)
    plan = json.loads(command("retry", batch.batch_id, "--dry-run", "-o", "json").out)
    assert plan == {
        "entry_count": 1,
        "counts": {"errored": 1},
        "cost": plan["cost"],
        "standard_cost": plan["standard_cost"],
        "covers_answers": True,
        "tasks": [],
    }
    assert 0 < float(plan["cost"]) < float(plan["standard_cost"])
    assert "Would go out again: 1 failed row (" in command("retry", batch.batch_id, "--dry-run").out
    assert raif_store.get_batch(batch.batch_id) == batch


def test_retry_of_chosen_rows(world, raif_store, command):
    """By reason; with a higher limit for those that were cut off; the JSON is the batch with what was done."""
    batch = fetched(world, kind="truncated")
    none = command("retry", batch.batch_id, "--yes", "--reason", "errored", "--reason", "refused")
    assert (none.code, none.out) == (1, "")
    assert "no row of batch" in none.err
    done = command("retry", batch.batch_id, "--yes", "--reason", "truncated", "--max-tokens", "900", "-o", "json")
    shape = json.loads(done.out)
    assert (done.code, shape["status"], shape["next_step"]) == (0, "in_progress", "send")
    assert shape["cleared_tasks"] == []
    assert "has 1 row, which go out again" in shape["message"]
    assert shape["parts"][1]["request_count"] == 1


def test_retry_over_a_budget_needs_a_higher_one(world, raif_store, command):
    """The refusal tells what to say; what was said is the batch's limit from then on."""
    batch = raif_store.set_budget(fetched(world), Budget(max_cost=1))
    for words in (("--dry-run",), ("--yes",), ("--yes", "--max-cost", "0.000001")):
        refused = command("retry", batch.batch_id, *words)
        assert (refused.code, refused.out) == (1, "")
        assert "is more than its max_cost of $0.00000" in refused.err
        assert "together, and nothing is sent" in refused.err
    assert raif_store.get_batch(batch.batch_id) == batch
    assert command("retry", batch.batch_id, "--yes", "--max-cost", "1.5").code == 0
    assert raif_store.get_batch(batch.batch_id).budget.max_cost == picodollars("1.5")


@pytest.mark.parametrize(
    "words",
    [
        ["--reason", "lost"], ["--max-tokens", "0"], ["--max-tokens", "many"], ["--max-cost", "0"],
        ["--max-cost", "much"], ["-o", "yaml"],
    ],
)  # fmt: skip
def test_wrong_usage_of_retry_ends_with_2(raif_home, command, words):
    assert command("retry", "b", *words).code == 2


@pytest.mark.parametrize("provider", PROVIDERS)
def test_expire_asks_then_cancels_and_fetches_what_finished(provider, world, raif_store, command):
    """Until it has stopped it is not through, and a second call brings the results in."""
    batch = submitted(provider)
    assert command("expire", batch.batch_id).code == 1
    assert world.state.requests[f"{provider}.batches.cancel"] == 0
    first = command("expire", batch.batch_id, "--yes")
    assert world.state.requests[f"{provider}.batches.cancel"] == 1
    if first.code:
        assert "was told to stop. Fetch it when it has stopped" in first.err
    last = command("expire", batch.batch_id, "--yes")
    assert last.code == 0
    assert f"Batch {batch.batch_id} is canceled, results of 1 of 1 parts are here." in last.out
    assert raif_store.get_batch(batch.batch_id).results_fetched_at is not None
    assert world.state.requests[f"{provider}.batches.cancel"] == 1


def test_expire_of_what_was_never_sent(world, raif_store, command):
    """There is nothing to give up, and nothing was paid."""
    batch = made()
    done = command("expire", batch.batch_id, "--yes")
    assert done.code == 1
    assert "it was never submitted" in done.err
    assert raif_store.get_batch(batch.batch_id).status is BatchStatus.PENDING


@pytest.mark.parametrize("provider", PROVIDERS)
def test_resume_finds_what_a_lost_create_made(provider, world, raif_store, command):
    """It is adopted where a mark tells it; where only time and size do, a person decides."""
    batch = made(provider)
    with open_batch_runtime(batch.batch_id) as (runtime, batch):
        part = batch.parts[0]
        spooled = runtime.spooled_part(batch, part)
        input_ref = runtime.adapter.upload(runtime.transport, spooled)
        raif_store.record_upload(part.id, input_ref)
        raif_store.record_intent(part.id, utc_now() - timedelta(minutes=20))
        made_id = runtime.adapter.create(runtime.transport, spooled, input_ref).provider_batch_id
    done = command("resume", batch.batch_id)
    if provider == "anthropic":
        assert done.code == 1
        assert f"'airflow raif batches adopt {batch.batch_id} 0 <provider batch id>'" in done.err
        world.end_all()
        with open_batch_runtime(batch.batch_id) as (runtime, _):
            runtime.transport.send(runtime.adapter.get_request(made_id))
        done = command("resume", batch.batch_id)
    assert (done.code, done.err) == (0, "")
    assert f"made {made_id}; it was adopted." in done.out
    assert raif_store.get_batch(batch.batch_id).parts[0].provider_batch_id == made_id
    assert world.state.creates[provider] == 1


def test_resume_of_a_create_that_made_nothing(world, raif_store, command):
    """Its task sends it again; nothing is sent from here."""
    batch = made()
    raif_store.record_intent(batch.parts[0].id, utc_now() - timedelta(minutes=20))
    done = command("resume", batch.batch_id)
    assert done.code == 0
    assert "The create of part 0, whose reply was lost, made nothing." in done.out
    assert raif_store.get_batch(batch.batch_id).parts[0].is_unsent
    assert world.state.creates["openai"] == 0


def test_resume_makes_a_cancel_again_and_fetches_what_ended(world, raif_store, command, no_backoff):
    """What was not heard is said again."""
    batch = submitted()
    world.state.faults.http.append(HttpFault(route="openai.batches.cancel", status=500, times=-1))
    assert command("cancel", batch.batch_id, "--yes").code == 1
    assert "a cancel was not heard" in command("show", batch.batch_id).out
    world.state.faults.http.clear()
    done = command("resume", batch.batch_id, "-o", "json")
    assert "The provider was told to stop it again" in json.loads(done.out)["message"]
    assert world.state.requests["openai.batches.cancel"] > 1
    done = command("resume", batch.batch_id)
    assert raif_store.get_batch(batch.batch_id).results_fetched_at is not None
    assert done.code == 0


def test_resume_of_what_runs_or_is_over(world, raif_store, command):
    """There is nothing to do, and nothing is done."""
    running = submitted()
    done = command("resume", running.batch_id)
    assert (done.code, done.err) == (0, "")
    assert "results of 0 of 1 parts are here." in done.out
    world.end_all()
    done = command("resume", running.batch_id)
    assert "The results of 1 part were fetched." in done.out
    assert "BatchHook.apply_batch_results writes them" in done.out


def test_a_task_that_airflow_does_not_know(world, raif_store, command, monkeypatch):
    """Nothing is changed, since nobody would go on with it."""
    batch = fetched(world, claim=Claim("gone", "run", "task"))
    monkeypatch.setattr("airflow_raif.hooks.by_hand.clear_task", _missing)
    done = command("retry", batch.batch_id, "--yes")
    assert done.code == 1
    assert "Airflow knows no task 'task' in run 'run' of Dag 'gone' any more" in done.err
    assert raif_store.get_batch(batch.batch_id) == batch


def _missing(claim, *, dry_run=False):
    from airflow_raif.domain.errors import TaskMissingError

    raise TaskMissingError(claim.dag_id, claim.run_id, claim.task_id)


def test_an_outage_is_one_sentence(world, raif_store, command, no_backoff):
    """And 1, so that a script notices."""
    batch = submitted()
    world.state.faults.http.append(HttpFault(route="openai.batches.get", status=503, times=-1))
    for words in (["fetch"], ["resume"], ["expire", "--yes"]):
        done = command(words[0], batch.batch_id, *words[1:])
        assert (done.code, done.out) == (1, "")
        assert "503" in done.err
        assert "Traceback" not in done.err
    assert not raif_store.get_batch(batch.batch_id).is_cancel_requested


def test_results_by_hand_are_what_its_own_code_goes_on_with(world, raif_store, command):
    """A hook's batch, retried by hand, is sent by its own next step."""
    batch = fetched(world)
    command("retry", batch.batch_id, "--yes")
    with open_batch_runtime(batch.batch_id) as (runtime, _):
        advance_batch(runtime, batch.batch_id)
    assert command("fetch", batch.batch_id).code == 0
    assert raif_store.count_entries(batch).completed == 3
