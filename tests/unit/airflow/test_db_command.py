"""``airflow raif db``: where the tables are, and deleting what was kept long enough."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_raif.domain.batch import Claim
from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks.runtime import open_batch_runtime, open_runtime
from airflow_raif.hooks.spool import result_folder
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.fetch import fetch_now
from airflow_raif.services.runtime import utc_now
from airflow_raif.services.submit import submit_batch
from airflow_raif.store.tables import batch as batch_table
from airflow_raif.store.tables import entry, part
from tests.support import MODELS, defaults_of, rows


def test_check_says_where_the_tables_are(raif_store, raif_home, raif_command):
    """With 1 where they are of another revision, so that a script notices."""
    done = raif_command("db", "check", "-o", "json")
    shape = json.loads(done.out)
    assert (done.code, shape["is_ready"], shape["revision"]) == (0, True, shape["needed_revision"])
    assert shape["address"] == f"sqlite:///{raif_home}/raif.db"
    assert "is at revision" in raif_command("db", "check").out


def test_check_of_what_was_never_migrated(raif_home, raif_command, monkeypatch):
    """And what to run; then it is well."""
    monkeypatch.setenv("AIRFLOW__RAIF__SQL_ALCHEMY_CONN", f"sqlite:///{raif_home}/other.db")
    done = raif_command("db", "check", "-o", "json")
    assert (done.code, json.loads(done.out)["is_ready"]) == (1, False)
    assert "run `airflow raif db migrate`" in done.err
    assert raif_command("db", "migrate").code == 0
    assert raif_command("db", "check").code == 0


def test_check_of_an_address_that_is_none(raif_home, raif_command, monkeypatch):
    """One sentence, without the secret in it."""
    monkeypatch.setenv("AIRFLOW__RAIF__SQL_ALCHEMY_CONN", "mysql://me:secret@host/db")
    for words in (["check"], ["migrate"]):
        done = raif_command("db", *words)
        assert done.code == 1
        assert "the store runs on PostgreSQL or SQLite, not on 'mysql'" in done.err
        assert "secret" not in done.err + done.out


@pytest.fixture
def lived(emulator_of, providers, raif_store):
    """Batches in each state; they are as old as is said."""
    emulator = emulator_of(progress=Progress.parse("immediate"))
    providers(emulator)

    def live(until="applied", days=100, count=3, place=None):
        claim = Claim("dag", f"run {until} {days} {place}", "ask")
        with open_runtime("openai_default", MODELS["openai"]) as runtime:
            batch = create_batch(runtime, rows(count), defaults=defaults_of("openai"), claim=claim)
        steps = ("created", "sent", "fetched", "applied").index(until)
        with open_batch_runtime(batch.batch_id) as (runtime, _):
            if steps > 0:
                submit_batch(runtime, batch.batch_id)
            if steps > 1:
                fetch_now(runtime, batch.batch_id)
            if steps > 2:
                apply_results(runtime, batch.batch_id, result_folder(place, batch.batch_id))
        at = utc_now() - timedelta(days=days)
        times = ["created_at"] + ["results_fetched_at"] * (steps > 1) + ["applied_at"] * (steps > 2)
        with raif_store._engine.begin() as connection:
            where = batch_table.c.batch_id == batch.batch_id
            connection.execute(batch_table.update().where(where).values(dict.fromkeys(times, at)))
        return raif_store.get_batch(batch.batch_id)

    return live


def ids(raif_store):
    with raif_store._engine.begin() as connection:
        return set(connection.scalars(batch_table.select().with_only_columns(batch_table.c.batch_id)))


def left(raif_store, table):
    with raif_store._engine.begin() as connection:
        return len(connection.execute(table.select()).all())


def test_clean_only_says_what_it_would_do(lived, raif_store, raif_command):
    """Until it is told to; what is young, was never applied, or runs, is kept and told of."""
    old, young = lived(), lived(days=10)
    unapplied, running, unsent = lived("fetched"), lived("sent"), lived("created")
    done = raif_command("db", "clean", "--older-than", "90d")
    assert done.code == 0
    assert "Would be deleted: 2 batches of 6 requests, with their spools and rows; say --yes" in done.out
    assert "pays for it" in done.out
    assert "Kept: 2 batches as old, of which not all results were fetched and applied." in done.out
    shape = json.loads(raif_command("db", "clean", "--older-than", "90d", "-o", "json").out)
    assert shape == {
        "older_than_seconds": 90 * 86400,
        "is_dry_run": True,
        "found": {"batch_count": 2, "request_count": 6},
        "deleted": {"batch_count": 0, "request_count": 0},
        "kept_unapplied_count": 2,
        "failures": [],
    }
    assert ids(raif_store) == {each.batch_id for each in (old, young, unapplied, running, unsent)}


def test_clean_deletes_rows_and_spools(lived, raif_store, raif_home, raif_command, monkeypatch):
    """Entry by entry in chunks, whole; the result file stays where it is."""
    monkeypatch.setattr("airflow_raif.services.clean.ENTRY_CHUNK", 2)
    old, young, unapplied, unsent = lived(count=5), lived(days=10), lived("fetched"), lived("created")
    result = Path(old.result_uri.removeprefix("file://"))
    done = raif_command("db", "clean", "--older-than", "90d", "--yes")
    assert (done.code, done.err) == (0, "")
    assert "Deleted: 2 batches of 8 requests." in done.out
    assert ids(raif_store) == {young.batch_id, unapplied.batch_id}
    assert (left(raif_store, part), left(raif_store, entry)) == (2, 6)
    assert {each.name for each in (raif_home / "spool").iterdir()} == {young.batch_id, unapplied.batch_id}
    assert result.exists()
    assert "Deleted: 0 batches of 0 requests." in raif_command("db", "clean", "--older-than", "90d", "--yes").out
    assert unsent.batch_id not in ids(raif_store)


def test_clean_of_results_and_of_what_was_never_applied(lived, raif_store, raif_home, raif_command):
    """Both only if asked for; a file that an operator was told to write elsewhere is the user's."""
    elsewhere = raif_home / "theirs"
    mine, theirs, unapplied, running = lived(), lived(place=str(elsewhere)), lived("fetched"), lived("sent")
    words = ("--older-than", "90d", "--results", "--unapplied", "-o", "json")
    assert "result files" in raif_command("db", "clean", *words[:-2]).out
    shape = json.loads(raif_command("db", "clean", *words, "--yes").out)
    assert (shape["deleted"]["batch_count"], shape["kept_unapplied_count"]) == (3, 1)
    assert ids(raif_store) == {running.batch_id}
    assert not (raif_home / "results" / mine.batch_id).exists()
    assert (elsewhere / "results.jsonl").exists()
    assert {theirs.batch_id, unapplied.batch_id}.isdisjoint(ids(raif_store))


def test_clean_goes_on_after_an_error(lived, raif_store, raif_command, monkeypatch):
    """A file system that fails for one batch costs no other; its row stays, and the next call deletes it."""
    from airflow_raif.spool.files import Folder

    first, second = lived(), lived(days=101)
    delete = Folder.delete
    monkeypatch.setattr(Folder, "delete", lambda self: _refuse() if first.batch_id in self.path else delete(self))
    done = raif_command("db", "clean", "--older-than", "90d", "--yes")
    assert done.code == 1
    assert f"Could not be deleted: 1 batch; the first: batch {first.batch_id}: PermissionError: no" in done.err
    assert ids(raif_store) == {first.batch_id}
    monkeypatch.undo()
    assert second.batch_id not in ids(raif_store)


def _refuse():
    raise PermissionError("no")


def test_a_batch_that_is_taken_up_meanwhile_is_kept(lived, raif_store):
    """Also one that was never sent: who is about to send it finds no part any more, or keeps it."""
    applied, unsent, sent = lived(), lived("created"), lived("created", days=101)
    assert raif_store.mark_applied(applied, "file:///other", utc_now())
    stale = raif_store.get_batch(applied.batch_id)
    stale.applied_at = utc_now()
    assert not raif_store.begin_deletion(stale, utc_now())
    raif_store.record_intent(sent.parts[0].id, utc_now())
    assert not raif_store.begin_deletion(sent, utc_now())
    assert raif_store.begin_deletion(unsent, utc_now())
    assert raif_store.record_intent(unsent.parts[0].id, utc_now()) is False


@pytest.mark.parametrize("words", [[], ["--older-than", "0d"], ["--older-than", "90"], ["--older-than", "yesterday"]])
def test_wrong_usage_of_clean_ends_with_2(raif_home, raif_command, words):
    assert raif_command("db", "clean", *words).code == 2
