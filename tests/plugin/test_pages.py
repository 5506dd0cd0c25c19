"""The pages as Airflow's API server serves them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from sqlalchemy import text

from airflow_raif.domain.batch import SHARED, Claim
from airflow_raif.services.start import start_batch
from tests.browser import seed
from tests.support import defaults_of

KINDS = ("applied", "partial", "mapped", "by_hand", "hostile", "running", "started", "canceled", "pending")


def text_of(answer):
    assert answer.status_code == 200, answer.text
    return answer.text


def listed(page):
    return re.findall(r'id="batch-([0-9a-f]{32})"', page)


def test_the_list_shows_every_batch_newest_first(world, client_of):
    """One row a batch, with its status, Dag, rows and cost; chips count by status."""
    page = text_of(client_of("admin").get("/raif/"))
    assert listed(page) == [batch.batch_id for batch in sorted(world.batches.values(), key=lambda each: -each.id)]
    assert '<span class="badge in_progress">' in page
    assert re.search(r'<a id="status-canceled"[^>]*>canceled <span>1</span>', page)
    assert re.search(r"60 rows · 3\d % done · about 1 h \d+ min left", page)
    assert re.search(r'<a data-airflow [^>]*href="/dags/nightly_reviews">', page)


def test_filters_search_order_and_pages(world, client_of):
    """What the address asks for is what is shown, and the links to the next page keep it."""
    get = client_of("admin").get
    assert listed(text_of(get("/raif/?dag_id=tickets&status=ended"))) == [world.id("hostile"), world.id("mapped")]
    assert listed(text_of(get("/raif/?q=CANCELED"))) == [world.id("canceled")]
    assert listed(text_of(get("/raif/?failed=1&provider=openai"))) == [world.id("partial")]
    assert listed(text_of(get("/raif/?since=2020-01-01&until=2020-02-01&q=&model="))) == []
    by_cost = text_of(get("/raif/?sort=cost&limit=2"))
    dearest = sorted(world.batches.values(), key=lambda each: -(each.cost.batch or -1))
    assert listed(by_cost) == [batch.batch_id for batch in dearest[:2]]
    (following,) = re.findall(r'<a id="page-next" rel="next" href="(\?[^"]+)"', by_cost)
    assert "sort=cost" in following
    second = text_of(get(f"/raif/{following.replace('&amp;', '&')}&limit=2"))
    assert len(listed(second)) == 2
    (previous,) = re.findall(r'<a id="page-previous" rel="prev" href="(\?[^"]+)"', second)
    assert listed(text_of(get(f"/raif/{previous.replace('&amp;', '&')}&limit=2"))) == listed(by_cost)


@pytest.mark.parametrize(
    "query",
    ["status=done", "sort=price", "after=x", "map_index=many", "since=9999-12-31", "limit=100000", "q=" + "x" * 300],
)
def test_what_is_not_understood_is_said(client_of, query):
    """An address that somebody mistyped is told, with the name of what is wrong."""
    answer = client_of("admin").get(f"/raif/?{query}")
    assert answer.status_code == 422
    assert f"<p>{query.partition('=')[0]}: " in answer.text or "<p>0: " in answer.text


def test_days_and_times_say_that_they_are_utc(world, client_of):
    """Elsewhere the night's batch is one of yesterday."""
    get = client_of("admin").get
    for path in ("/raif/", "/raif/cost"):
        assert "Created from (UTC)<input" in text_of(get(path))
    page = text_of(get(f"/raif/batches/{world.id('applied')}"))
    assert re.search(r'<p class="legend"[^>]*>.*times in UTC', page)


def test_the_tab_of_a_task_shows_its_batch(world, client_of):
    """One batch is shown at once, of several or none the list; Airflow leaves names in braces that it has none for."""
    get = client_of("admin").get
    one = get("/raif/task?dag_id=nightly_reviews&run_id=running&task_id=ask&map_index=%7BMAP_INDEX%7D")
    assert one.headers["location"] == f"/raif/batches/{world.id('running')}"
    mapped = get("/raif/task", params={"dag_id": "tickets", "run_id": seed.RUN, "task_id": "ask", "map_index": 2})
    assert mapped.headers["location"] == f"/raif/batches/{world.id('mapped')}"
    assert len(listed(text_of(get("/raif/task?dag_id=product_tags&task_id=ask")))) == 3
    assert len(listed(text_of(get("/raif/task?dag_id=product_tags&task_id=ask&limit=1")))) == 1
    assert len(listed(text_of(get("/raif/task?dag_id=product_tags&task_id=ask&status=canceled")))) == 1
    first = text_of(get("/raif/task?dag_id=product_tags&task_id=ask&limit=2"))
    (following,) = re.findall(r'<a id="page-next" rel="next" href="(\?[^"]+)"', first)
    assert len(listed(text_of(get(f"/raif/task{following.replace('&amp;', '&')}")))) == 1
    assert "No batch is like this" in text_of(get("/raif/task?dag_id=nobody&task_id=ask"))


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_page(world, client_of, name):
    """Every kind of batch has one, with its status and its rows."""
    page = text_of(client_of("admin").get(f"/raif/batches/{world.id(name)}"))
    batch = world.store.get_batch(world.id(name))
    assert f'<span class="badge {batch.status}">' in page
    assert f"<dt>Rows</dt><dd>{batch.request_count}</dd>" in page


def test_a_batch_page_tells_what_failed_and_where_the_time_went(world, client_of):
    """Failures by reason and message, the life of each part to scale, entries with tokens and cost."""
    page = text_of(client_of("admin").get(f"/raif/batches/{world.id('partial')}"))
    reasons = world.store.failures_of(world.store.get_batch(world.id("partial"))).reasons
    for reason, number in reasons.items():
        assert f"{reason} <span>{number}</span>" in page
    assert "Emulated invalid request." in page
    assert page.count('<td class="life">') == 3
    assert re.search(r'aria-label="waiting at the provider [^"]*, ended, not fetched [^"]*, fetched, not applied', page)
    assert page.count("review-000") == 50
    assert "?start=50#entries" in page
    failed = text_of(client_of("admin").get(f"/raif/batches/{world.id('partial')}?status=failed"))
    assert len(re.findall("badge entry-failed", failed)) == sum(reasons.values())
    assert "badge entry-completed" not in failed
    one = text_of(client_of("admin").get(f"/raif/batches/{world.id('partial')}?custom_id=review-00007&reason="))
    assert re.findall(r"<bdi>(review-\d+)</bdi>", one) == ["review-00007"]


def test_an_entry_shows_request_and_answer(world, client_of):
    """Both come from their places in the spool; one that is gone is told as that."""
    get = client_of("admin").get
    page = text_of(get(f"/raif/batches/{world.id('partial')}/entries/30"))
    assert "Great shoes, slow delivery. (30)" in page
    assert '<h2 id="answer">Answer</h2>' in page
    assert "&#34;status_code&#34;: 200" in page
    pending = text_of(get(f"/raif/batches/{world.id('pending')}/entries/3"))
    assert "There is none yet." in pending
    assert get(f"/raif/batches/{world.id('pending')}/entries/20").status_code == 404
    spool = world.home / "spool" / world.id("mapped")
    (spool / "part-00000.results.jsonl").rename(spool / "away")
    try:
        gone = text_of(get(f"/raif/batches/{world.id('mapped')}/entries/3"))
    finally:
        (spool / "away").rename(spool / "part-00000.results.jsonl")
    assert "The spool does not have it any more." in gone
    assert "The box came open" in text_of(get(f"/raif/batches/{world.id('mapped')}/entries/4"))


def test_a_spool_that_cannot_be_read_is_told(world, client_of):
    """Whatever the file system says, in a page and in JSON."""
    file = world.home / "spool" / world.id("mapped") / "part-00000.results.jsonl"
    file.rename(file.with_suffix(".away"))
    file.mkdir()
    try:
        for path in (f"/raif/batches/{world.id('mapped')}", f"/raif/api/batches/{world.id('mapped')}"):
            answer = client_of("admin").get(f"{path}/entries/3/result" if "api" in path else f"{path}/entries/3")
            assert answer.status_code == 503
            assert "The spool cannot be read now (IsADirectoryError)" in answer.text
    finally:
        file.rmdir()
        file.with_suffix(".away").rename(file)


def test_an_entry_of_a_provider_that_is_not_there_any_more(world, client_of):
    """Its package was uninstalled: request and result are shown as they are."""
    batch = world.store.get_batch(world.id("applied"))

    def rename(provider):
        with world.store._transaction() as connection:
            statement = text("UPDATE raif_batch SET provider = :provider WHERE id = :id")
            connection.execute(statement, {"provider": provider, "id": batch.id})

    rename("gone")
    try:
        page = text_of(client_of("admin").get(f"/raif/batches/{batch.batch_id}/entries/30"))
    finally:
        rename(batch.provider)
    assert "Great shoes, slow delivery. (30)" in page
    assert "Result as received" in page


def test_a_large_request_is_shown_in_part(world, client_of, monkeypatch):
    """Of what is long only the beginning is read."""
    monkeypatch.setattr("airflow_raif.plugin.payload.SHOWN_BYTES", 40)
    monkeypatch.setattr("airflow_raif.plugin.payload.PARSED_BYTES", 40)
    page = text_of(client_of("admin").get(f"/raif/batches/{world.id('partial')}/entries/30"))
    assert "bytes, of which the beginning is shown" in page
    assert "slow delivery" not in page


def test_rows_that_are_the_same_as_others_are_of_no_model(world, client_of):
    """The cost page names them as what they are."""
    batch = world.store.get_batch(world.id("partial"))
    with world.store._transaction() as connection:
        statement = text("UPDATE raif_part SET model = :model WHERE batch_key = :id AND number = 0")
        connection.execute(statement, {"model": SHARED, "id": batch.id})
    try:
        page = text_of(client_of("admin").get("/raif/cost"))
    finally:
        with world.store._transaction() as connection:
            connection.execute(statement, {"model": batch.parts[0].model, "id": batch.id})
    assert "<bdi>answers of other rows</bdi>" in page


@pytest.mark.parametrize("path", ["", "/entries/0", "?status=completed"])
def test_hostile_text_shows_as_text(world, client_of, path):
    """Markup is escaped; what would turn or move other text is made visible, also in JSON."""
    page = text_of(client_of("admin").get(f"/raif/batches/{world.id('hostile')}{path}"))
    assert "&lt;script&gt;alert(&#39;raif&#39;)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "[U+202E]txt.exe" in page
    assert not {"\u202e", "\u2066", "\x1b"} & set(page)
    assert not re.search(r'href="\s*javascript:', page)


def test_hostile_words_of_a_provider_and_a_model(world, client_of):
    """A model's name and errors of a batch, a part and an entry are as hostile as an answer."""
    words = "</bdi><script>alert(1)</script>\u202e"
    batch = world.store.get_batch(world.id("started"))
    with world.store._transaction() as connection:
        for table, key in (("raif_batch", "id"), ("raif_part", "batch_key")):
            connection.execute(
                text(f"UPDATE {table} SET model = :words, error = :words WHERE {key} = :id"),
                {"words": words, "id": batch.id},
            )
        connection.execute(
            text("UPDATE raif_entry SET status = 'failed', reason = 'errored', error = :words WHERE batch_key = :id"),
            {"words": words, "id": batch.id},
        )
    for path in (
        f"/raif/batches/{batch.batch_id}",
        "/raif/",
        "/raif/cost",
        f"/raif/batches/{batch.batch_id}/entries/0",
    ):
        page = text_of(client_of("admin").get(path))
        assert "<script>alert" not in page
        assert "\u202e" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;[U+202E]" in page


def test_costs_of_days_dags_models_and_providers(world, client_of):
    """At batch price beside list price; what cost nothing is not there, and other days are others."""
    page = text_of(client_of("admin").get("/raif/cost"))
    for words in ("nightly_reviews", "product_tags", "made by hand", "claude-haiku-4-5", "anthropic", "By provider"):
        assert words in page
    assert page.count('<rect class="spot"') == 30
    assert "No batch of these days" in text_of(client_of("admin").get("/raif/cost?since=2020-01-01&until=2020-01-05"))
    only = text_of(client_of("admin").get("/raif/cost?dag_id=product_tags"))
    assert "nightly_reviews" not in only
    (day,) = re.findall(r'<th scope="row" data-label="Day"><a href="/raif/\?([^"]+)"', only)
    assert "dag_id=product_tags" in day


def test_every_answer_says_what_a_browser_may_do_with_it(world, client_of):
    """No script or style but our files, no other host, no frame but Airflow's; and no page is kept anywhere."""
    get = client_of("admin").get
    for path in ("/raif/", f"/raif/batches/{world.id('partial')}", "/raif/nothing", "/raif/api/batches", "/raif/cost"):
        headers = get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'self'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/raif/", "/raif/cost", "/raif/batches/{}", "/raif/batches/{}/entries/0", "/raif/batches/{}/fetch"]
)
def test_pages_keep_to_that_policy(world, client_of, path):
    """Nothing inline, nothing from elsewhere."""
    page = text_of(client_of("admin").get(path.format(world.id("running"))))
    assert not re.search(r"<style|<script>|<[^>]*\s(style|on[a-z]+)=|=.javascript:|https?://", page)
    for address in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert address.startswith(("/raif/", "/dags/", "?", "#")), address


def test_files_are_kept_by_browsers(client_of):
    """Their addresses change with what is in them, so they are good for ever; nobody has to be logged in."""
    page = text_of(client_of("admin").get("/raif/"))
    addresses = re.findall(r'"(/raif/static/[^"]+\?v=[0-9a-f]{16})"', page)
    assert len(addresses) == 3
    for address in addresses:
        answer = client_of(None).get(address)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert client_of(None).get("/raif/static/../app.py").status_code in (401, 404)


def test_a_store_that_is_away_is_told(world, client_of, monkeypatch):
    """At once, not after the minutes that a worker waits; and the page is there again with the store."""
    monkeypatch.setenv("AIRFLOW__RAIF__SQL_ALCHEMY_CONN", "postgresql://raif:a-secret@127.0.0.1:9/raif")
    for path in ("/raif/", "/raif/api/batches"):
        answer = client_of("admin").get(path)
        assert answer.status_code == 503
        assert "does not answer" in answer.text
        assert "a-secret" not in answer.text
    monkeypatch.undo()
    assert client_of("admin").get("/raif/").status_code == 200


def test_no_batch_of_this_id(client_of):
    """An id that nobody has is not found; one that is none is not understood."""
    assert client_of("admin").get(f"/raif/batches/{'0' * 32}").status_code == 404
    assert client_of("admin").get("/raif/batches/nothing").status_code == 422


def test_nothing_is_built_before_the_first_request():
    """Airflow's other components import the plugin, and none of the pages."""
    code = "import sys, json, airflow_raif.plugin; print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "airflow_raif.plugin.mount" in loaded
    heavy = ("airflow_raif.plugin.app", "airflow_raif.store", "airflow_raif.services", "airflow.api_fastapi")
    assert [name for name in loaded if name.startswith(heavy)] == []


def test_airflow_shows_the_pages(world, client_of):
    """A nav entry, and tabs on Dag, run and task instance, each with an address of its own."""
    (plugin,) = [each for each in client_of("admin").get("/api/v2/plugins").json()["plugins"] if each["name"] == "raif"]
    views = {view["destination"]: view for view in plugin["external_views"]}
    assert set(views) == {"nav", "dag", "dag_run", "task_instance"}
    assert len({view["url_route"] for view in views.values()}) == 4
    assert views["nav"]["href"] == "/raif/"
    assert plugin["fastapi_apps"][0]["url_prefix"] == "/raif"


def test_a_batch_whose_input_is_still_read(world, client_of):
    """List, page and question have the rows of its parts so far."""
    get, seen = client_of("admin").get, {}

    def given():
        yield from seed.rows(55)
        (batch_id,) = listed(text_of(get("/raif/?run_id=read")))
        for path in ("/raif/?run_id=read", f"/raif/batches/{batch_id}", f"/raif/batches/{batch_id}/cancel"):
            seen[path] = text_of(get(path))
        raise OSError("the table is gone")

    with seed._open("openai_slow") as runtime, pytest.raises(OSError, match="the table is gone"):
        start_batch(runtime, given, defaults=defaults_of("openai"), claim=Claim("tickets", "read", "ask"))
    overview, page, question = seen.values()
    assert "50 rows" in overview
    assert "<dt>Rows</dt><dd>50</dd>" in page
    assert "of 50 rows at openai" in question
