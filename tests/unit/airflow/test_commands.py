"""``airflow raif batches``: the real parser, a real store and an emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta

import pytest

from airflow_raif.cli import shown
from airflow_raif.domain.batch import Claim, PartState
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault, RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks.runtime import open_batch_runtime, open_runtime
from airflow_raif.services.create import create_batch
from airflow_raif.services.runtime import utc_now
from airflow_raif.services.submit import submit_batch
from airflow_raif.store import NewBatch, NewPart
from tests.support import MODELS, PROVIDERS, defaults_of, later, rows

HOSTILE = "[bold red]pwned[/] \x1b[2J\x07 [/nope] \u202egnp.exe\nnext"


@pytest.fixture
def command(raif_command):
    """Run a command about batches; return its exit code and what it wrote."""
    return lambda *words, answer="": raif_command("batches", *words, answer=answer)


@pytest.fixture
def running(emulator_of, providers):
    """An emulator whose batches do not end, behind the default connections."""
    emulator = emulator_of(progress=Progress.parse("polls:1000"))
    providers(emulator)
    return emulator


def made(provider="openai", count=3, claim=None):
    """Create a batch; nothing is sent."""
    with open_runtime(f"{provider}_default", MODELS[provider]) as runtime:
        return create_batch(runtime, rows(count), defaults=defaults_of(provider), claim=claim)


def submitted(provider="openai", count=3, claim=None):
    batch = made(provider, count, claim)
    with open_batch_runtime(batch.batch_id) as (runtime, _):
        return submit_batch(runtime, batch.batch_id)


def sent_at_the_provider(batch, *, batch_of_requests=None):
    """Create a batch's part at the provider, as a worker does that dies before it reads the reply; return its id."""
    with open_batch_runtime(batch.batch_id) as (runtime, batch):
        part = batch.parts[0]
        if part.intent_at is None:
            runtime.store.record_intent(part.id, utc_now())
        spooled = runtime.spooled_part(batch_of_requests or batch, part)
        input_ref = runtime.adapter.upload(runtime.transport, spooled)
        return runtime.adapter.create(runtime.transport, spooled, input_ref).provider_batch_id


def parts_of(raif_store, batch):
    return raif_store.get_batch(batch.batch_id).parts


def test_the_installed_command(running, raif_store, tmp_path):
    """``airflow raif batches`` is there, its JSON is JSON alone, and it fails without a traceback."""
    batch = submitted()
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "airflow", "raif", "batches", *words],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip

    listed = run("list", "-o", "json")
    assert listed.returncode == 0, listed.stderr
    assert [each["batch_id"] for each in json.loads(listed.stdout)] == [batch.batch_id]
    unknown = run("show", "0" * 32)
    assert unknown.returncode == 1
    assert unknown.stdout == ""
    assert f"the store knows no batch '{'0' * 32}'" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_what_is_held_back_is_shown_and_can_be_canceled(running, raif_store, command):
    """Nothing of it is at the provider, and that is no doubt; a cancel makes no call."""
    running.state.faults.http.append(HttpFault(route="openai.batches.create", status=429))
    batch = submitted()
    assert "held back: the queue is full" in command("show", batch.batch_id).out
    assert command("cancel", batch.batch_id, "--yes").out == f"Batch {batch.batch_id} is canceled.\n"
    assert "held back" not in command("show", batch.batch_id).out
    assert running.state.requests["openai.batches.cancel"] == 0


def test_list_takes_filters_and_shows_the_newest_first(running, raif_store, command):
    """Status, provider and Dag narrow the list, ``--limit`` shortens it."""
    first = submitted("openai", claim=Claim("nightly", "run 1", "ask", 2))
    second = submitted("anthropic", claim=Claim("hourly", "run 1", "ask"))
    third = made("gemini")

    def ids(*words):
        return [each["batch_id"] for each in json.loads(command("list", "-o", "json", *words).out)]

    newest_first = [third.batch_id, second.batch_id, first.batch_id]
    assert ids() == newest_first
    assert ids("--limit", "2") == newest_first[:2]
    assert ids("--status", "pending") == [third.batch_id]
    assert ids("--provider", "anthropic") == [second.batch_id]
    assert ids("--provider", "google") == [third.batch_id]
    assert ids("--dag-id", "nightly") == [first.batch_id]
    assert ids("--dag-id", "nightly", "--status", "pending") == []
    table = command("list").out
    assert "nightly run 1 ask [2]" in table
    assert all(each in table for each in newest_first)


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--status", "done"],
        ["list", "--limit", "0"],
        ["list", "--limit", "many"],
        ["list", "-o", "yaml"],
        ["adopt", "b", "first", "id"],
        ["resend", "b"],
        ["nothing"],
    ],
)
def test_wrong_usage_ends_with_2(raif_home, command, words):
    """What cannot be understood is not done in part."""
    assert command(*words).code == 2


def test_hostile_text_is_shown_as_it_is(running, raif_store, command):
    """A provider's text sets no colour, clears no screen, and breaks no table."""
    batch = submitted()
    failed = PartState(provider_batch_id="x", status=BatchStatus.FAILED, raw_status="failed", error=HOSTILE)
    raif_store.record_states({batch.parts[0].id: failed}, utc_now())
    for words in (["show", batch.batch_id], ["list"]):
        written = command(*words)
        assert written.code == 0
        assert not {"\x1b", "\x07", "\u202e"} & set(written.out)
    shown = command("show", batch.batch_id).out
    assert "[bold red]pwned[/]" in shown
    assert batch.parts[0].provider_batch_id in shown
    (listed,) = json.loads(command("list", "-o", "json").out)
    assert listed["error"] == HOSTILE
    complaint = command("adopt", batch.batch_id, "0", HOSTILE)
    assert complaint.code == 1
    assert "\x1b" not in complaint.err


@pytest.mark.parametrize("provider", PROVIDERS)
def test_adopt_takes_what_a_lost_create_made(provider, running, raif_store, command):
    """The error names the commands; adopting one of the candidates lets the next attempt go on, nothing is sent."""
    batch = made(provider)
    ids = [sent_at_the_provider(batch) for _ in range(2)]
    with open_batch_runtime(batch.batch_id) as (runtime, _), pytest.raises(Exception, match="may be any of") as told:
        submit_batch(later(runtime), batch.batch_id)
    words = str(told.value).split("'airflow raif batches adopt ")[1].split(" <")[0].split()
    done = command("adopt", *words, ids[1])
    assert (done.code, done.err) == (0, "")
    assert ids[1] in done.out
    (part,) = parts_of(raif_store, batch)
    assert part.provider_batch_id == ids[1]
    assert part.status in (BatchStatus.SUBMITTED, BatchStatus.IN_PROGRESS)
    assert running.state.creates[provider] == 2


@pytest.mark.parametrize("provider", PROVIDERS)
def test_adopt_refuses_what_cannot_be_the_part(provider, running, raif_store, command):
    """Unknown ids, batches that another part holds, other marks and other counts; the part stays in doubt."""
    batch, other, larger = made(provider), submitted(provider), made(provider, 4)
    sent_at_the_provider(batch)
    stranger = sent_at_the_provider(larger)
    unknown = {"openai": "batch_nope", "anthropic": "msgbatch_nope", "gemini": "batches/nope"}[provider]

    def complaint(provider_batch_id, part="0"):
        done = command("adopt", batch.batch_id, part, provider_batch_id)
        assert (done.code, done.out) == (1, "")
        return done.err

    assert f"{provider} does not know '{unknown}'" in complaint(unknown)
    taken = other.parts[0].provider_batch_id
    assert f"{taken} is part 0 of batch {other.batch_id} already" in complaint(taken)
    why = "it has 4 requests, not 3" if provider == "anthropic" else f"carries the mark 'raif-{larger.batch_id}-0'"
    assert f"{stranger} cannot be part 0 of batch {batch.batch_id}: " in complaint(stranger)
    assert why in complaint(stranger)
    assert "has no part 1, only 0" in complaint(stranger, part="1")
    assert parts_of(raif_store, batch)[0].provider_batch_id is None
    running.state.faults.http.append(HttpFault(route=f"{provider}.batches.get", status=401, times=-1))
    assert "check the connection's password" in complaint(stranger)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_adopt_reads_the_results_of_an_ended_batch(provider, emulator, providers, raif_store, command):
    """The ids in the results tell whose an ended batch is, where no mark does."""
    providers(emulator)
    batch, other = made(provider), made(provider)
    stranger, mine = sent_at_the_provider(other), sent_at_the_provider(batch)
    refused = command("adopt", batch.batch_id, "0", stranger)
    assert refused.code == 1
    if provider == "anthropic":
        assert f"its results are of other requests, such as '{other.batch_id[:16]}-" in refused.err
    assert command("adopt", batch.batch_id, "0", mine).code == 0
    assert parts_of(raif_store, batch)[0].provider_batch_id == mine
    assert command("fetch", batch.batch_id).code == 0
    assert raif_store.count_entries(batch).completed == 3


def test_adopt_of_a_part_that_is_not_in_doubt(running, raif_store, command):
    """A part with an id keeps it, and one that was never sent can be none of the provider's without its mark."""
    batch, pending, other = submitted(), made("anthropic"), made("anthropic")
    refused = command("adopt", batch.batch_id, "0", "batch_1")
    assert f"part 0 of batch {batch.batch_id} is {batch.parts[0].provider_batch_id} already" in refused.err
    stranger = sent_at_the_provider(other)
    assert "nothing was ever sent for the part" in command("adopt", pending.batch_id, "0", stranger).err


@pytest.mark.parametrize("provider", PROVIDERS)
def test_resend_has_the_next_attempt_send_the_part(provider, running, raif_store, command):
    """By a person's word the create made nothing, and is sent again, once."""
    batch = made(provider)
    raif_store.record_intent(batch.parts[0].id, utc_now())
    early = command("resend", batch.batch_id, "0", "--yes")
    assert early.code == 1
    assert "may still be on its way" in early.err
    raif_store.clear_intent(batch.parts[0].id, parts_of(raif_store, batch)[0].intent_at)
    raif_store.record_intent(batch.parts[0].id, utc_now() - timedelta(minutes=10))
    refused = command("resend", batch.batch_id, "0", answer="n\n")
    assert (refused.code, refused.out) == (1, "")
    assert "it is paid twice" in refused.err
    assert parts_of(raif_store, batch)[0].intent_at is not None
    assert command("resend", batch.batch_id, "0").code == 1
    assert command("resend", batch.batch_id, "0", answer="y\n").code == 0
    assert parts_of(raif_store, batch)[0].intent_at is None
    with open_batch_runtime(batch.batch_id) as (runtime, _):
        submit_batch(runtime, batch.batch_id)
    assert running.state.creates[provider] == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_part_that_is_to_stop_is_settled_in_either_way(provider, running, raif_store, command):
    """A cancel that cannot tell what a lost create made says so; adopted it is canceled, or taken as never sent."""
    known, unknown = made(provider, 2), made(provider, 4)
    at_provider = sent_at_the_provider(known)
    raif_store.record_intent(unknown.parts[0].id, utc_now() - timedelta(minutes=20))
    running.state.faults.http.append(HttpFault(route=f"{provider}.batches.list", status=401, times=-1))
    for batch in (known, unknown):
        refused = command("cancel", batch.batch_id, "--yes")
        assert refused.code == 1
        assert f"'airflow raif batches adopt {batch.batch_id} 0 <provider batch id>'" in refused.err
    adopted = command("adopt", known.batch_id, "0", at_provider)
    assert (adopted.code, adopted.out) == (0, f"Part 0 is {at_provider} and was told to stop.\n")
    assert running.state.batches[provider][at_provider].status == "canceling"
    resent = command("resend", unknown.batch_id, "0", answer="y\n")
    assert (resent.code, resent.out) == (0, "Part 0 is canceled.\n")
    assert "it runs on unseen" in resent.err
    assert running.state.creates[provider] == 1


def test_resend_of_a_part_after_one_that_was_never_whole(running, raif_store, command):
    """Its attempt died while it filled parts of several models; what it sent is found by its number, not its place."""
    batch = raif_store.create_batch(
        NewBatch(
            batch_id="b" * 32, provider="openai", conn_id="openai_default", model=MODELS["openai"], endpoint="/e",
            claim=None, spool_uri="file:///s", output_schema=None, metadata={}, created_at=utc_now(),
        )
    )  # fmt: skip
    for number in (0, 2):
        part = raif_store.add_part(batch, NewPart(number=number, model="m", request_count=1, request_bytes=9))
        raif_store.record_intent(part.id, utc_now() - timedelta(minutes=10))
    assert "has no part 1, only 0, 2" in command("resend", batch.batch_id, "1", "--yes").err
    done = command("resend", batch.batch_id, "2", "--yes")
    assert (done.code, done.out) == (0, "Part 2 is sent by the next attempt. Clear the task to go on.\n")
    assert [part.intent_at is None for part in parts_of(raif_store, batch)] == [False, True]


def test_resend_refuses_what_was_sent_or_never_was(running, raif_store, command):
    """Only a create in doubt can be taken for lost."""
    batch, pending = submitted(), made()
    assert "already" in command("resend", batch.batch_id, "0", "--yes").err
    refused = command("resend", pending.batch_id, "0", "--yes")
    assert refused.code == 1
    assert "was never sent" in refused.err


@pytest.mark.parametrize("provider", PROVIDERS)
def test_cancel_asks_first(provider, running, raif_store, command):
    """Without a yes nothing is canceled; with it the provider is asked, and what it says is told."""
    batch = submitted(provider)
    assert command("cancel", batch.batch_id).code == 1
    assert running.state.requests[f"{provider}.batches.cancel"] == 0
    done = command("cancel", batch.batch_id, "--yes", "-o", "json")
    assert json.loads(done.out)["parts"][0]["status"] == "canceled"
    assert running.state.requests[f"{provider}.batches.cancel"] == 1
    again = command("cancel", batch.batch_id, "--yes")
    assert again.code == 1
    assert "is canceled and cannot be canceled" in again.err


def test_fetch_brings_in_the_results_of_an_ended_batch(emulator, providers, raif_store, command):
    """Answers come in and are accounted for; a second fetch does nothing."""
    providers(emulator)
    batch = submitted()
    for _ in range(2):
        done = command("fetch", batch.batch_id, "-o", "json")
        assert (done.code, done.err) == (0, "")
        assert json.loads(done.out)["counts"]["completed"] == 3
    assert raif_store.get_batch(batch.batch_id).results_fetched_at is not None
    assert emulator.state.requests["openai.files.content"] == 1


def test_show_says_why_rows_failed(emulator, providers, raif_store, command):
    """By reason and message, as the batch's page does: a person on a terminal need not open the results for it."""
    emulator.state.faults.rows += [RowFault(kind="refused", rows=[0]), RowFault(kind="errored", rows=[1, 2])]
    providers(emulator)
    batch = submitted()
    command("fetch", batch.batch_id)
    told = command("show", batch.batch_id).out
    assert told.index("Emulated invalid request") < told.index("I'm sorry, but I can't help with that.")
    assert "message" not in command("show", submitted(claim=Claim("dag", "run", "ask")).batch_id).out


def test_ids_stay_whole_in_a_narrow_terminal(running, raif_store, command, monkeypatch):
    """They are what the next command is given; a folded one cannot be copied."""
    batch = submitted(claim=Claim("a_dag_with_a_long_name", "scheduled__2026-11-30T00:00:00+00:00", "ask"))
    monkeypatch.setattr(shown, "WIDTH", 110)
    (part,) = parts_of(raif_store, batch)
    for words, whole in ((["list"], batch.batch_id), (["show", batch.batch_id], part.provider_batch_id)):
        lines = command(*words).out.splitlines()
        assert any(f" {whole} " in line for line in lines)
        assert max(map(len, lines)) <= 110


def test_fetch_of_a_running_batch(running, raif_store, command):
    """What has not ended has no results, and the answer says so."""
    batch = submitted()
    done = command("fetch", batch.batch_id)
    assert (done.code, done.out) == (1, "")
    assert "its results can be fetched when it has ended" in done.err


def test_a_missing_connection_is_one_sentence(running, raif_store, command, monkeypatch):
    """Errors of the set-up are told as such, without a traceback."""
    batch = submitted()
    monkeypatch.delenv("AIRFLOW_CONN_OPENAI_DEFAULT")
    monkeypatch.setattr("airflow.sdk.BaseHook.get_connection", _not_found)
    done = command("cancel", batch.batch_id, "--yes")
    assert done.code == 1
    assert done.err.startswith("there is no connection 'openai_default'")


def _not_found(conn_id):
    from airflow.sdk.exceptions import AirflowNotFoundException

    raise AirflowNotFoundException(conn_id)
