"""Actions: asked first, done once, written to the audit log, and by nobody else's pages."""

from __future__ import annotations

import re
import threading
import time

import pytest
from sqlalchemy import select

from airflow_raif.domain.batch import Claim
from airflow_raif.domain.money import Budget
from airflow_raif.domain.status import BatchStatus
from airflow_raif.emulator.faults import HttpFault
from airflow_raif.plugin import actions
from airflow_raif.store import EntriesWanted
from tests.browser import seed
from tests.plugin.conftest import ORIGIN, log_in
from tests.plugin.test_pages import text_of

SAME = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def running(world):
    """A batch that runs, new for each test."""
    return seed._running("openai_slow", seed.rows(3), Claim("tickets", f"run {time.monotonic_ns()}", "ask")).batch_id


def ask(client, batch_id, action):
    """Read an action's question; return it and the token of its form."""
    page = text_of(client.get(f"/raif/batches/{batch_id}/{action}"))
    (token,) = re.findall(r'name="token" value="([^"]+)"', page)
    return page, token


def act(client, batch_id, action, **headers):
    """Ask and answer with yes; return the page that is shown then."""
    _, token = ask(client, batch_id, action)
    answer = client.post(f"/raif/batches/{batch_id}/{action}", data={"token": token}, headers={**SAME, **headers})
    assert answer.status_code == 303, answer.text
    return text_of(client.get(answer.headers["location"]))


def audited(batch_id):
    """What Airflow's audit log has of a batch: event, user, Dag, run, task."""
    from airflow.models.log import Log
    from airflow.utils.session import create_session

    with create_session() as session:
        rows = session.scalars(select(Log).where(Log.extra.contains(batch_id)).order_by(Log.id)).all()
        return [(row.event, row.owner, row.dag_id, row.run_id, row.task_id) for row in rows]


def test_a_cancel_is_asked_done_and_written_down(world, client_of, running):
    """The question says what it costs; nothing happens before the answer; the provider is asked once."""
    server, client = world.servers["slow"], client_of("user")
    before = server.state.requests["openai.batches.cancel"]
    page, _ = ask(client, running, "cancel")
    assert "Rows that are done by then are paid" in page
    assert server.state.requests["openai.batches.cancel"] == before
    assert audited(running) == []
    page = act(client, running, "cancel")
    assert f'<p class="notice" role="status">Batch {running} is canceled.</p>' in page
    assert server.state.requests["openai.batches.cancel"] == before + 1
    claim = world.store.get_batch(running).claim
    assert audited(running) == [("raif_cancel_batch", "user", "tickets", claim.run_id, "ask")]
    assert client.get(f"/raif/batches/{running}/cancel").status_code == 409


def test_fetch_now_brings_in_what_has_ended(world, client_of):
    """A batch that runs is asked about; once it has ended its results are there."""
    batch_id = world.id("running")
    page = act(client_of("user"), batch_id, "fetch")
    assert "its results can be fetched when it has ended" in page
    page = act(client_of("user"), batch_id, "fetch")
    assert "Its task goes on" in page
    assert world.store.get_batch(batch_id).completed_count == 60
    assert "No answer" not in page


def test_expire_gives_a_batch_up(world, client_of, running):
    """What still runs is canceled."""
    page, _ = ask(client_of("op"), running, "expire")
    assert "what still runs is canceled" in page
    act(client_of("op"), running, "expire")
    assert world.store.get_batch(running).status is BatchStatus.CANCELED


def test_a_retry_over_a_budget_is_refused(world, client_of, with_runs):
    """Before anything is asked, with what it would cost and how the limit is raised."""
    batch = world.store.get_batch(world.id("partial"))
    world.store.set_budget(batch, Budget(max_cost=1))
    answer = client_of("user").get(f"/raif/batches/{batch.batch_id}/retry")
    world.store.set_budget(batch, batch.budget)
    assert answer.status_code == 409
    assert "is more than its max_cost of $0.000000000001 together" in answer.text
    assert "--max-cost" in answer.text


def test_a_retry_tells_its_cost_and_leaves_the_sending_to_a_worker(world, client_of, with_runs):
    """Failed rows become pending, the task is cleared, and nothing is sent from here."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    batch_id, server = world.id("partial"), world.servers["faulty"]
    creates = server.state.creates["openai"]
    failed = world.store.get_batch(batch_id).failed_count
    assert failed > 0
    page, _ = ask(client_of("user"), batch_id, "retry")
    assert re.search(rf"{failed} failed rows go out again \(.*\)\. About \$0\.\d+\.", page)
    assert "These tasks are cleared, and so run again: ask." in page
    page = act(client_of("user"), batch_id, "retry")
    assert re.search(rf"Round 1 of batch {batch_id} has {failed} rows?, which go", page)
    assert server.state.creates["openai"] == creates
    batch = world.store.get_batch(batch_id)
    assert (batch.failed_count, batch.status) == (0, BatchStatus.IN_PROGRESS)
    with create_session() as session:
        where = (TaskInstance.dag_id == "product_tags", TaskInstance.run_id == seed.RUN, TaskInstance.task_id == "ask")
        assert session.scalar(select(TaskInstance.state).where(*where)) is None
    assert client_of("user").get(f"/raif/batches/{batch_id}/retry").status_code == 409


def test_a_retry_without_a_task_is_refused(world, client_of):
    """Airflow does not know the run: that is said before anything is asked."""
    answer = client_of("user").get(f"/raif/batches/{world.id('canceled')}/retry")
    assert answer.status_code == 409
    assert "any more" in answer.text


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, "good"),
        ({"Sec-Fetch-Site": "cross-site"}, "good"),
        ({"Sec-Fetch-Site": "same-site"}, "good"),
        ({"Sec-Fetch-Site": "none"}, "good"),
        ({"Origin": "https://evil.example"}, "good"),
        ({"Origin": "null"}, "good"),
        ({"Origin": "http://airflow.test.evil.example"}, "good"),
        (SAME, ""),
        (SAME, "nonsense"),
        (SAME, "of another user"),
        (SAME, "of another action"),
        (SAME, "of another batch"),
        ({}, ""),
    ],
    ids=str,
)
def test_no_other_page_makes_a_user_act(world, client_of, running, headers, token):
    """Wrong origins, and forms that we did not make for just this, get 403 and do nothing."""
    made = {
        "good": lambda: ask(client_of("user"), running, "cancel")[1],
        "of another user": lambda: ask(client_of("op"), running, "cancel")[1],
        "of another action": lambda: ask(client_of("user"), running, "fetch")[1],
        "of another batch": lambda: ask(client_of("user"), world.id("started"), "cancel")[1],
    }
    value = made[token]() if token in made else token
    answer = client_of("user").post(f"/raif/batches/{running}/cancel", data={"token": value}, headers=headers)
    assert answer.status_code == 403, answer.text
    assert not world.store.get_batch(running).status.is_terminal
    assert audited(running) == []


def test_a_proxy_that_asks_by_another_name(world, client_of, running):
    """The browser, which alone knows what page it is on, says that the form is ours; without that, names must agree."""
    _, token = ask(client_of("user"), running, "cancel")
    address, inside = f"/raif/batches/{running}/cancel", {"Host": "api-server:8080", "Origin": ORIGIN}
    post = client_of("user").post
    assert post(address, data={"token": token}, headers=inside).status_code == 403
    assert post(address, data={"token": token}, headers={**inside, "Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_a_form_is_good_for_an_hour(client_of, running, monkeypatch):
    """Then it has to be asked again."""
    _, token = ask(client_of("user"), running, "cancel")
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda now=time.time: now() + 3700)
    answer = client_of("user").post(f"/raif/batches/{running}/cancel", data={"token": token}, headers=SAME)
    assert answer.status_code == 403
    assert "too old" in answer.text


def test_a_note_is_ours_alone(client_of, running):
    """No address makes a page say something that we did not."""
    page = text_of(client_of("user").get(f"/raif/batches/{running}?done=Your+session+ended%2C+log+in+at+evil"))
    assert "evil" not in re.sub(r"<[^>]*>", "", page)
    assert 'class="notice"' not in page


def test_a_viewer_cannot_act(world, client_of, running):
    """Neither with a form of their own making, nor with one of somebody else's."""
    _, token = ask(client_of("user"), running, "cancel")
    answer = client_of("viewer").post(f"/raif/batches/{running}/cancel", data={"token": token}, headers=SAME)
    assert answer.status_code == 403
    assert audited(running) == []


def test_what_the_provider_refuses_is_told(world, client_of, running):
    """With its reason, and it was still written down who asked for it."""
    world.servers["slow"].state.faults.http.append(HttpFault(route="openai.batches.get", status=401))
    _, token = ask(client_of("user"), running, "fetch")
    answer = client_of("user").post(f"/raif/batches/{running}/fetch", data={"token": token}, headers=SAME)
    assert answer.status_code == 502
    assert "<h1>The provider refused</h1>" in answer.text
    assert "good-key" not in answer.text
    assert [event for event, *_ in audited(running)] == ["raif_fetch_batch"]


def test_a_long_action_goes_on_behind_the_page(world, client_of, running, monkeypatch):
    """The page comes back before it is through, other pages are answered meanwhile, and a second click joins it."""
    monkeypatch.setattr(actions, "WAIT_SECONDS", 0.2)
    fault = HttpFault(route="openai.batches.get", hold="before", times=-1)
    faults = world.servers["slow"].state.faults.http
    faults.append(fault)
    gets = world.servers["slow"].state.requests["openai.batches.get"]
    try:
        page = act(client_of("user"), running, "fetch")
        assert "Fetch now goes on; this page shows what comes of it." in page
        assert "goes on" in act(client_of("user"), running, "fetch")
        assert world.servers["slow"].state.requests["openai.batches.get"] == gets + 1
    finally:
        faults.remove(fault)
    actions._AT_WORK[running, "fetch"].result(timeout=30)
    assert client_of("user").get(f"/raif/batches/{running}").status_code == 200


def test_how_a_long_action_failed_is_in_the_audit_log(world, client_of, running, monkeypatch):
    """Nobody waits for its end any more, so it is written down."""
    told, write = threading.Event(), actions.write_audit_log

    def write_and_tell(user, event, claim, extra):
        write(user, event, claim, extra)
        if event.endswith("_failed"):
            told.set()

    monkeypatch.setattr(actions, "WAIT_SECONDS", 0)
    monkeypatch.setattr(actions, "write_audit_log", write_and_tell)
    world.servers["slow"].state.faults.http.append(HttpFault(route="openai.batches.get", status=401))
    act(client_of("user"), running, "fetch")
    assert told.wait(30)
    assert [event for event, *_ in audited(running)] == ["raif_fetch_batch", "raif_fetch_batch_failed"]


def test_actions_by_the_api(world, client_of, running):
    """With a token in the header; a cookie alone is not enough, whatever page asks."""
    address = f"/raif/api/batches/{running}/cancel"
    refused = client_of("user").post(address, headers=SAME)
    assert (refused.status_code, "Authorization header" in refused.json()["detail"]) == (403, True)
    client = log_in(world.app, None)
    token = client_of("user").cookies["_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    cross = client.post(address, headers={**bearer, "Origin": "https://evil.example"})
    assert cross.status_code == 403
    assert not world.store.get_batch(running).status.is_terminal
    done = client.post(address, headers=bearer)
    assert done.json() == {
        "is_done": True, "told": f"Batch {running} is canceled.", "tasks": [], "status": "canceled",
    }  # fmt: skip
    assert [event for event, *_ in audited(running)] == ["raif_cancel_batch"]
    again = client.post(address, headers=bearer)
    assert again.status_code == 409
    assert client.post(f"/raif/api/batches/{running}/explode", headers=bearer).status_code == 404
    viewer = {"Authorization": f"Bearer {client_of('viewer').cookies['_token']}"}
    assert client.post(f"/raif/api/batches/{running}/fetch", headers=viewer).status_code == 403
    entries, _, _ = world.store.list_entries(world.store.get_batch(running), EntriesWanted())
    assert len(entries) == 3
