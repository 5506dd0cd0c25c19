"""Who sees and does what, with Airflow's simple auth manager and with FAB's, where rights are given Dag by Dag."""

from __future__ import annotations

import re
import subprocess
import sys
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.plugin.conftest import World, log_in
from tests.plugin.test_pages import listed, text_of

PAGES = ("/raif/", "/raif/task?dag_id=d&task_id=t", "/raif/cost", "/raif/batches/{}", "/raif/batches/{}/entries/0",
         "/raif/batches/{}/cancel")  # fmt: skip
API = ("/raif/api/batches", "/raif/api/batches/counts", "/raif/api/costs", "/raif/api/metrics",
       "/raif/api/openapi.json", "/raif/api/batches/{}", "/raif/api/batches/{}/failures",
       "/raif/api/batches/{}/entries", "/raif/api/batches/{}/entries/0",
       "/raif/api/batches/{}/entries/0/request")  # fmt: skip


def test_who_is_not_logged_in_is_sent_to_log_in(world, client_of):
    """Pages lead there and back; the API, and a page that updates itself, say 401."""
    get = client_of(None).get
    for path in PAGES:
        answer = get(path.format(world.id("applied")))
        assert answer.status_code == 302
        # Airflow 3.2 goes on at its start page.
        assert re.fullmatch(r"/auth/login(\?next=%2Fraif%2F.*)?", answer.headers["location"])
    assert get("/raif/", headers={"HX-Request": "true"}).status_code == 401
    for path in API:
        answer = get(path.format(world.id("applied")))
        assert (answer.status_code, answer.json()) == (401, {"detail": "Not authenticated"})
    assert client_of(None).post(f"/raif/api/batches/{world.id('applied')}/cancel").status_code == 401


def test_a_token_that_is_none(world, client_of):
    """Neither as a cookie nor in a header."""
    client = log_in(world.app, None)
    assert client.get("/raif/", headers={"Authorization": "Bearer nonsense"}).status_code == 403
    client.cookies.set("_token", "nonsense")
    assert client.get("/raif/").status_code in (302, 403)


def test_who_logs_in_comes_back_to_what_was_searched_for(client_of):
    """A form writes a blank as a plus, and a run's plus as an escape; both are what they were."""
    answer = client_of(None).get("/raif/?q=two+words&run_id=manual__2026-11-30T01%3A00%3A00%2B00%3A00")
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    # Airflow 3.2 goes on at its start page.
    for address in asked.get("next", []):
        assert parse_qs(urlsplit(address).query) == {
            "q": ["two words"],
            "run_id": ["manual__2026-11-30T01:00:00+00:00"],
        }


@pytest.mark.parametrize(("role", "may_act", "sees_by_hand"), [
    ("admin", True, True), ("op", True, True), ("user", True, False), ("viewer", False, False),
])  # fmt: skip
def test_roles_of_the_simple_auth_manager(world, client_of, role, may_act, sees_by_hand):
    """A viewer sees, a user acts; what no Dag made is for those who may use its connection."""
    client = client_of(role)
    shown = listed(text_of(client.get("/raif/")))
    assert (world.id("by_hand") in shown) is sees_by_hand
    assert set(shown) >= {world.id(name) for name in ("applied", "running", "canceled")}
    assert client.get(f"/raif/batches/{world.id('by_hand')}").status_code == (200 if sees_by_hand else 403)
    page = text_of(client.get(f"/raif/batches/{world.id('running')}"))
    assert ('id="action-cancel"' in page) is may_act
    assert client.get(f"/raif/batches/{world.id('running')}/cancel").status_code == (200 if may_act else 403)
    assert client.get(f"/raif/batches/{world.id('applied')}/entries/0").status_code == 200
    costs = client.get("/raif/api/costs?by=dag").json()["costs"]
    assert (None in [row["group"]["dag"] for row in costs]) is sees_by_hand


def test_batches_of_a_dag_that_airflow_has_forgotten(world, client_of):
    """They are there for those who may read any Dag."""
    from sqlalchemy import text

    with world.store._transaction() as connection:
        connection.execute(
            text("UPDATE raif_batch SET dag_id = 'long gone' WHERE batch_id = :id"), {"id": world.id("canceled")}
        )
    try:
        assert listed(text_of(client_of("viewer").get("/raif/?dag_id=long+gone"))) == [world.id("canceled")]
        assert client_of("viewer").get(f"/raif/batches/{world.id('canceled')}").status_code == 200
    finally:
        with world.store._transaction() as connection:
            connection.execute(
                text("UPDATE raif_batch SET dag_id = 'product_tags' WHERE batch_id = :id"), {"id": world.id("canceled")}
            )


#: Rights of FAB's users; each may also log in.
FAB_ROLES = {
    # Reads one Dag and its logs.
    "reader": [("can_read", "DAG:product_tags"), ("can_read", "Task Logs"), ("can_read", "Task Instances")],
    # Reads one Dag, not its logs.
    "blind": [("can_read", "DAG:product_tags"), ("can_read", "Task Instances")],
    # Edits one Dag, reads another.
    "editor": [
        ("can_read", "DAG:product_tags"), ("can_edit", "DAG:product_tags"), ("can_read", "DAG:tickets"),
        ("can_edit", "DAG Runs"), ("can_edit", "Task Instances"), ("can_read", "Task Instances"),
        ("can_read", "Task Logs"),
    ],
    # Has no rights at all.
    "nobody": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def fab(world: World, configured: pytest.MonkeyPatch, make_app) -> World:
    """The same batches behind FAB's auth manager; the last in this module, since it takes the place of the other."""
    pytest.importorskip("airflow.providers.fab", reason="FAB's provider is not installed")
    configured.setenv(
        "AIRFLOW__CORE__AUTH_MANAGER", "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
    )
    configured.setenv("AIRFLOW__FAB__AUTH_RATE_LIMITED", "False")
    subprocess.run([sys.executable, "-m", "airflow", "fab-db", "migrate"], check=True, capture_output=True)
    app = make_app()
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.providers.fab.www.app import create_app as make_flask

    with make_flask(enable_plugins=False).app_context():
        manager = get_auth_manager().security_manager
        for name, rights in FAB_ROLES.items():
            role = manager.add_role(name)
            for action, resource in rights:
                manager.add_permission_to_role(role, manager.create_permission(action, resource))
            manager.add_user(name, name, name, f"{name}@example.com", role, password=name)
    return World(app, world.store, world.batches, world.servers, world.home)


@pytest.fixture(scope="module")
def fab_client(fab: World):
    clients = {}

    def client(user: str):
        if user not in clients:
            clients[user] = log_in(fab.app, user)
        return clients[user]

    return client


def of_dag(world, *dag_ids):
    return {
        batch.batch_id for batch in world.batches.values() if batch.claim is not None and batch.claim.dag_id in dag_ids
    }


def test_fab_lists_only_what_may_be_read(fab, fab_client):
    """In pages, counts and costs alike: nothing of another Dag is there, not even its number."""
    for user, dags in (("reader", ["product_tags"]), ("editor", ["product_tags", "tickets"]), ("nobody", [])):
        client, seen = fab_client(user), of_dag(fab, *dags)
        assert set(listed(text_of(client.get("/raif/")))) == seen
        assert {each["batch_id"] for each in client.get("/raif/api/batches").json()["batches"]} == seen
        assert sum(client.get("/raif/api/batches/counts").json()["counts"].values()) == len(seen)
        told = re.findall(r"^raif_batches\{.*\} (\d+)$", client.get("/raif/api/metrics").text, re.MULTILINE)
        assert sum(map(int, told)) == len(seen)
        costs = client.get("/raif/api/costs?by=dag").json()["costs"]
        assert {row["group"]["dag"] for row in costs} == set(dags)
        assert client.get("/raif/api/costs?dag_id=nightly_reviews").json()["costs"] == []
        assert listed(text_of(client.get("/raif/?dag_id=nightly_reviews"))) == []


def test_fab_refuses_batches_of_other_dags(fab, fab_client):
    """By page and by API: the batch, its entries, its payloads and its actions."""
    for path in (*PAGES[3:], *API[5:]):
        answer = fab_client("reader").get(path.format(fab.id("applied")))
        assert answer.status_code == 403, path
    posted = fab_client("reader").post(f"/raif/api/batches/{fab.id('applied')}/fetch")
    assert posted.status_code == 403


def test_fab_shows_payloads_to_who_may_read_logs(fab, fab_client):
    """Without that right a user sees the batch, but no prompt, no answer and no message about either."""
    batch_id = fab.id("partial")
    reader, blind = fab_client("reader"), fab_client("blind")
    assert "slow delivery" in text_of(reader.get(f"/raif/batches/{batch_id}/entries/30"))
    assert "Emulated invalid request." in text_of(reader.get(f"/raif/batches/{batch_id}"))
    page = text_of(blind.get(f"/raif/batches/{batch_id}"))
    assert "Emulated invalid request." not in page
    assert "/entries/" not in page
    assert blind.get(f"/raif/batches/{batch_id}/entries/30").status_code == 403
    for which in ("request", "result"):
        assert blind.get(f"/raif/api/batches/{batch_id}/entries/30/{which}").status_code == 403
        assert reader.get(f"/raif/api/batches/{batch_id}/entries/30/{which}").status_code == 200
    failures = blind.get(f"/raif/api/batches/{batch_id}/failures").json()
    assert failures["reasons"]
    assert failures["groups"] == []
    entries = blind.get(f"/raif/api/batches/{batch_id}/entries?status=failed").json()["entries"]
    assert {entry["error"] for entry in entries} == {None}


def test_fab_lets_only_editors_act(fab, fab_client):
    """On the Dag that they may edit, not on one that they may read."""
    tags, tickets = fab.id("canceled"), fab.id("started")
    assert 'id="action-' not in text_of(fab_client("reader").get(f"/raif/batches/{tags}"))
    assert fab_client("reader").get(f"/raif/batches/{tags}/retry").status_code == 403
    assert 'id="action-retry"' in text_of(fab_client("editor").get(f"/raif/batches/{tags}"))
    assert 'id="action-' not in text_of(fab_client("editor").get(f"/raif/batches/{tickets}"))
    assert fab_client("editor").get(f"/raif/batches/{tickets}/cancel").status_code == 403
    details = fab_client("editor").get(f"/raif/api/batches/{tickets}").json()
    assert details["actions"] == []


def test_fab_sends_who_is_not_logged_in_to_its_own_page(fab):
    """With the way back."""
    answer = log_in(fab.app, None).get("/raif/cost")
    assert answer.status_code == 302
    # Airflow 3.2 goes on at its start page.
    assert re.search(r"/auth/login/(\?next=%2Fraif%2Fcost)?$", answer.headers["location"])
