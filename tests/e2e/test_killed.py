"""Real Airflow on PostgreSQL, its processes killed, frozen and restarted: runs succeed, batches are paid once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from airflow.triggers.base import BaseTrigger

from airflow_raif.demo.components import processes_of
from tests.e2e.cluster import Cluster, Provider, eventually
from tests.support import PROVIDERS

pytestmark = [pytest.mark.e2e, pytest.mark.postgres]
THREE, ONE, MAPPED = "three_tasks", "one_task", "mapped"
tells_kills = pytest.mark.skipif(
    not hasattr(BaseTrigger, "on_kill"), reason="this Airflow tells no trigger that its task was ended (3.3 does)"
)


@pytest.fixture(scope="module")
def provider_of() -> Iterator:
    """Emulated providers: one for each case that must not see another's batches."""
    with ExitStack() as stack:
        made = {}

        def provider(name: str, case: str) -> Provider:
            return made[name, case]

        for case in ("killed", "cleared", "ended", "frozen", "asleep", "restarted", "backfilled"):
            for name in PROVIDERS if case == "killed" else ("openai",):
                is_cut = name == "openai" and case in ("killed", "ended")
                made[name, case] = Provider(name, f"{name}_{case}", part_rows=20 if is_cut else 1000)
                stack.enter_context(made[name, case].server)
        provider.all = list(made.values())  # type: ignore[attr-defined]
        yield provider


@pytest.fixture(scope="module")
def cluster(postgres, provider_of, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Every component, once for all cases."""
    cluster = Cluster(tmp_path_factory.mktemp("airflow"), Path(__file__).parent / "dags", postgres)
    try:
        cluster.migrate()
        cluster.start()
        cluster.wait_until_healthy()
        cluster.add_connections(provider_of.all)
        for dag_id in (THREE, ONE, MAPPED):
            cluster.wait_for_dag(dag_id)
        yield cluster
        assert not (cluster.home / "raif.db").exists(), "some process took the embedded file for the store"
    finally:
        cluster.stop()
    assert processes_of(cluster.home) == []


def polled_again(provider: Provider) -> None:
    """Wait until a triggerer has asked for every batch that runs at least twice more."""
    running = [(batch, batch.looks) for batch in provider.batches if not batch.is_terminal]
    assert running
    eventually(lambda: all(batch.looks > seen + 1 for batch, seen in running), f"polling at {provider.conn_id}")


def check(cluster: Cluster, dag_id: str, run_id: str, task_id: str, rows: int = 50) -> None:
    """A run succeeded, and every row it was given has its answer."""
    assert cluster.end_of(dag_id, run_id) == "success"
    found = cluster.rows(dag_id, run_id, task_id)
    assert [row["custom_id"] for row in found] == [f"row {n}" for n in range(rows)]
    assert {row["status"] for row in found} == {"completed"}


def test_killed_workers_and_triggerer(cluster, provider_of):
    """Workers killed while they submit, fetch and apply, the triggerer while they wait: one create for each part."""
    openai, anthropic, gemini = providers = [provider_of(name, "killed") for name in PROVIDERS]
    with ExitStack() as stack:
        # At openai the second of three parts is on its way.
        for each, when, skip in zip(providers, ("before", "after", "after"), (1, 0, 0), strict=True):
            stack.enter_context(each.holding("batches.create", when, skip))
            cluster.trigger(THREE, each.name, each)
        eventually(lambda: openai.calls("batches.create") == 2, "the create at openai")
        eventually(lambda: anthropic.creates and gemini.creates, "the other creates")
        # Task and supervisor, as when a host is lost; the task alone; the supervisor alone, so that the task goes on.
        cluster.kill_worker(cluster.until("running", THREE, "openai", "submit"))
        cluster.kill_worker(cluster.until("running", THREE, "anthropic", "submit"), supervisor=False)
        cluster.kill_worker(cluster.until("running", THREE, "gemini", "submit"), runner=False)
    cluster.until("deferred", THREE, "anthropic", "wait")
    cluster.kill("triggerer")
    cluster.start_component("triggerer")
    for each in providers:
        cluster.until("deferred", THREE, each.name, "wait")
    for each in providers:
        polled_again(each)
    with ExitStack() as stack:
        stack.enter_context(openai.holding("files.content", "before", skip=1))
        stack.enter_context(anthropic.holding("batches.results", "after"))
        stack.enter_context(cluster.holding_writes("raif_batch", "applied_at", "NEW.provider = 'gemini'"))
        for each in providers:
            each.finish()
        eventually(lambda: openai.calls("files.content") == 2, "the second download from openai")
        cluster.kill_worker(cluster.until("running", THREE, "openai", "wait"))
        eventually(lambda: anthropic.calls("batches.results"), "the download from anthropic")
        cluster.kill_worker(cluster.until("running", THREE, "anthropic", "wait"), supervisor=False)
        eventually(cluster.holds_a_write, "the end of gemini's apply")
        cluster.kill_worker(cluster.until("running", THREE, "gemini", "apply"))
    for each in providers:
        check(cluster, THREE, each.name, "apply")
    for name, task_id in (("openai", "submit"), ("anthropic", "submit"), ("gemini", "submit"), ("openai", "wait"),
                          ("anthropic", "wait"), ("gemini", "apply")):  # fmt: skip
        assert cluster.task(THREE, name, task_id)["try_number"] > 1, f"{task_id} of {name} did not feel the kill"
    assert [each.creates for each in providers] == [3, 1, 1]
    assert [each.cancels for each in providers] == [0, 0, 0]


@tells_kills
def test_clear_keeps_and_mark_failed_cancels(cluster, provider_of):
    """In three tasks, in one, in mapped ones: a clear keeps the batch, also after success, and mark-failed cancels."""
    openai = provider_of("openai", "cleared")
    waiting = [(THREE, "run", "wait"), (ONE, "run", "infer"), (MAPPED, "run", "infer", 0), (MAPPED, "run", "infer", 1)]
    for dag_id in (THREE, ONE, MAPPED):
        cluster.trigger(dag_id, "run", openai)
    first = [cluster.until("deferred", *task)["start_date"] for task in waiting]
    for dag_id, run_id, task_id, *_ in waiting[:3]:
        cluster.clear(dag_id, run_id, task_id)

    def wait_again():
        now = [cluster.task(*task) for task in waiting]
        return all(
            each["state"] == "deferred" and each["start_date"] > before for each, before in zip(now, first, strict=True)
        )

    eventually(wait_again, "the second deferrals")
    polled_again(openai)
    assert (openai.creates, openai.cancels) == (4, 0)
    for task in waiting[:3]:
        cluster.mark_failed(*task)
    eventually(lambda: openai.cancels == 3, "the cancellations")
    openai.finish()
    cluster.until("success", *waiting[3])
    # Airflow forgets a clear that comes in the moment in which its scheduler ends the run.
    assert cluster.end_of(MAPPED, "run") == "failed"
    cluster.clear(MAPPED, "run", "infer")
    # The one that succeeded finds its results again; the one whose batch was canceled makes a new one.
    cluster.until("success", *waiting[3])
    cluster.until("deferred", *waiting[2])
    assert openai.creates == 5
    openai.finish()
    assert cluster.end_of(MAPPED, "run") == "success"
    assert (openai.creates, openai.cancels) == (5, 3)


def test_a_task_that_is_ended_while_it_submits(cluster, provider_of):
    """Cleared, it goes on behind what was sent; marked failed, what was sent is canceled and no more is sent."""
    openai = provider_of("openai", "ended")
    with openai.holding("batches.create", "after", skip=1):
        cluster.trigger(ONE, "cleared", openai)
        eventually(lambda: openai.creates == 2, "the second of three creates")
        worker = cluster.worker_of(cluster.until("running", ONE, "cleared", "infer"))
        cluster.clear(ONE, "cleared", "infer")
        eventually(lambda: not worker.is_running(), "the end of the worker whose task was cleared")
    cluster.until("deferred", ONE, "cleared", "infer")
    assert (openai.creates, openai.cancels) == (3, 0)
    with openai.holding("batches.create", "after", skip=1):
        cluster.trigger(ONE, "failed", openai)
        eventually(lambda: openai.creates == 5, "the second of three creates")
        worker = cluster.worker_of(cluster.until("running", ONE, "failed", "infer"))
        cluster.mark_failed(ONE, "failed", "infer")
        eventually(lambda: not worker.is_running(), "the end of the worker whose task was marked failed")
    assert (openai.creates, openai.cancels) == (5, 2)
    assert cluster.end_of(ONE, "failed") == "failed"
    cluster.clear(ONE, "failed", "infer")
    cluster.until("deferred", ONE, "failed", "infer")
    assert (openai.creates, openai.cancels) == (8, 2)
    openai.finish()
    check(cluster, ONE, "cleared", "infer")
    check(cluster, ONE, "failed", "infer")


@pytest.mark.slow
@tells_kills
def test_a_frozen_triggerer_loses_its_lease(cluster, provider_of):
    """A triggerer that wakes after another took its triggers over cancels nothing, and takes over in its turn."""
    openai = provider_of("openai", "frozen")
    waiting = [(THREE, "frozen", "wait"), (ONE, "frozen", "infer"), (MAPPED, "frozen", "infer", 0)]
    for dag_id in (THREE, ONE, MAPPED):
        cluster.trigger(dag_id, "frozen", openai)
    for task in waiting:
        cluster.until("deferred", *task)
    polled_again(openai)
    with cluster.asleep("triggerer"):
        cluster.start_component("triggerer", "triggerer of another host")
        polled_again(openai)

    def kills_told():
        logs = cluster.home.glob("logs/*/run_id=frozen/**/*.log")
        return sum("invoking on_kill" in log.read_text(errors="replace") for log in logs)

    eventually(lambda: kills_told() == 4, "the first triggerer noticing what it lost")
    polled_again(openai)
    cluster.kill("triggerer of another host")
    polled_again(openai)
    openai.finish()
    check(cluster, THREE, "frozen", "apply")
    check(cluster, ONE, "frozen", "infer")
    assert cluster.end_of(MAPPED, "frozen") == "success"
    assert (openai.creates, openai.cancels) == (4, 0)


@pytest.mark.slow
def test_a_frozen_worker_is_given_up(cluster, provider_of):
    """A worker that wakes after the retry of its task submitted, in the middle of its create, cancels nothing."""
    openai = provider_of("openai", "asleep")
    with ExitStack() as asleep:
        with openai.holding("batches.create", "after"):
            cluster.trigger(THREE, "asleep", openai)
            eventually(lambda: openai.creates, "the create")
            frozen = asleep.enter_context(cluster.worker_asleep(cluster.until("running", THREE, "asleep", "submit")))
        cluster.until("deferred", THREE, "asleep", "wait")
    eventually(lambda: not frozen.is_running(), "the end of the worker that was given up")
    polled_again(openai)
    openai.finish()
    check(cluster, THREE, "asleep", "apply")
    assert (openai.creates, openai.cancels) == (1, 0)


@pytest.mark.slow
def test_scheduler_killed_and_databases_restarted(cluster, provider_of):
    """The scheduler killed during the wait, both databases crashed in the middle of the apply: the run succeeds."""
    openai = provider_of("openai", "restarted")
    cluster.trigger(THREE, "restarted", openai)
    cluster.until("deferred", THREE, "restarted", "wait")
    cluster.kill("scheduler")
    cluster.start_component("scheduler")
    with cluster.holding_writes("raif_entry", "status"):
        openai.finish()
        eventually(cluster.holds_a_write, "a worker in the middle of writing outcomes")
        cluster.postgres.stop(signal.SIGQUIT)
    cluster.postgres.start()

    def succeeded():
        cluster.revive()
        return cluster.run_state(THREE, "restarted") in ("success", "failed")

    eventually(succeeded, "the end of the run")
    check(cluster, THREE, "restarted", "apply")
    assert (openai.creates, openai.cancels) == (1, 0)


@pytest.mark.slow
def test_a_backfill_takes_up_what_was_paid(cluster, provider_of):
    """A second backfill of the same interval applies the batch of the first one and makes none."""
    openai = provider_of("openai", "backfilled")

    def backfill():
        day = "2026-01-01T00:00:00Z"
        body = {"dag_id": THREE, "from_date": day, "to_date": day, "dag_run_conf": openai.conf}
        cluster.call("POST", "/backfills", {**body, "reprocess_behavior": "completed"})

    def runs():
        found = cluster.call("GET", f"/dags/{THREE}/dagRuns?run_type=backfill")["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in found}

    backfill()
    eventually(lambda: openai.creates, "the create")
    openai.finish()
    (run_id,) = eventually(runs, "the run")
    check(cluster, THREE, run_id, "apply")
    started = cluster.task(THREE, run_id, "apply")["start_date"]
    # Only one of a DAG at a time.
    eventually(lambda: all(each["completed_at"] for each in cluster.backfills(THREE)), "the end of the first backfill")
    backfill()
    eventually(lambda: cluster.task(THREE, run_id, "apply")["start_date"] not in (None, started), "the second apply")
    check(cluster, THREE, run_id, "apply")
    assert list(runs()) == [run_id]
    assert openai.creates == 1
