"""What people do on the pages, in this machine's Chromium, within Airflow's own UI and by themselves."""

from __future__ import annotations

import re
from importlib.metadata import version

import httpx
import pytest
from packaging.version import Version
from playwright.sync_api import expect

from tests.browser import seed
from tests.browser.serve import Served

IS_OLD = Version(version("apache-airflow")) < Version("3.3")
RUN = f"/dags/nightly_reviews/runs/{seed.RUN}"
#: Pages of every kind: the batch's name, and what follows in its address.
PAGES = {
    "list": ("", "/raif/"),
    "cost": ("", "/raif/cost"),
    "batch": ("partial", ""),
    "running": ("running", ""),
    "hostile": ("hostile", ""),
    "unknown": ("unknown", ""),
    "entry": ("hostile", "/entries/0"),
    "retry": ("partial", "/retry"),
    "cancel": ("started", "/cancel"),
    "missing": ("", f"/raif/batches/{'0' * 32}"),
}


def open_page(window, name):
    batch, rest = PAGES[name]
    status = 404 if name == "missing" else 200
    return window.open_batch(batch, rest, status) if batch else window.open(rest, status)


def call(served: Served, path, user="op", method="POST", body=None):
    """Call an API of the server, as somebody elsewhere."""
    headers = {"Authorization": f"Bearer {served.token(user)}"}
    return httpx.request(method, f"{served.url}{path}", headers=headers, json=body, timeout=60)


def audit_log(served: Served, event):
    answer = call(served, f"/api/v2/eventLogs?event={event}", "admin", "GET").raise_for_status()
    return answer.json()["event_logs"]


def later(page):
    """Let the time go by after which a page asks again."""
    page.clock.fast_forward(11_000)


def tab_to(page, selector):
    """Press Tab until an element has the focus, and see that it shows."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"the keyboard does not come to {selector}")


def shown_batches(page):
    return [each.removeprefix("batch-") for each in page.eval_on_selector_all(
        "#live a[id^=batch-]", "(found) => found.map((each) => each.id)"
    )]  # fmt: skip


class TestInAirflow:
    """The pages where people find them: in frames of Airflow's UI."""

    def test_the_list_is_under_browse(self, open_window, served):
        window = open_window()
        page = window.open("/")
        page.get_by_role("button", name="Browse").click()
        page.get_by_role("menuitem", name="LLM batches").click()
        frame = window.frame()
        assert set(shown_batches(frame)) == set(served.batches.values())
        frame.locator(f"#batch-{served.batches['partial']}").click()
        expect(frame.locator("h1")).to_contain_text(served.batches["partial"])

    @pytest.mark.skipif(IS_OLD, reason="before 3.3 Airflow's UI forgets where in a frame one was")
    def test_a_batch_comes_back_after_a_reload(self, open_window, served):
        window = open_window()
        page = window.open("/plugin/raif")
        window.frame().locator(f"#batch-{served.batches['partial']}").click()
        expect(page).to_have_url(re.compile(served.batches["partial"]))
        page.reload()
        expect(window.frame().locator("h1")).to_contain_text(served.batches["partial"])

    @pytest.mark.parametrize(
        ("address", "title"),
        [("/dags/nightly_reviews", "Batches of nightly_reviews"), (RUN, f"run {seed.RUN}"), (f"{RUN}/tasks/ask", "")],
        ids=["dag", "run", "task"],
    )
    def test_tabs_show_the_batches_of_a_dag_a_run_and_a_task(self, open_window, served, address, title):
        window = open_window()
        window.open(address).get_by_role("link", name="LLM batches").click()
        frame = window.frame()
        if title:
            expect(frame.locator("h1")).to_contain_text(title)
            expect(frame.locator(f"#batch-{served.batches['applied']}")).to_be_visible()
            expect(frame.locator(f"#batch-{served.batches['partial']}")).to_have_count(0)
        else:
            expect(frame.locator("h1")).to_contain_text(served.batches["applied"])

    def test_a_link_to_a_task_leaves_the_frame(self, open_window, served):
        window = open_window()
        page = window.open("/plugin/raif")
        row = window.frame().locator("tr", has=window.frame().locator(f"#batch-{served.batches['applied']}"))
        row.get_by_role("link", name="ask").click()
        expect(page).to_have_url(re.compile(r"/dags/nightly_reviews/runs/.+/tasks/ask"))
        expect(page.get_by_role("link", name="LLM batches")).to_be_visible()

    def test_the_look_follows_airflows_switch(self, open_window):
        window = open_window()
        page = window.open("/plugin/raif")
        frame = window.frame()
        ground = "getComputedStyle(document.body).backgroundColor"
        light = frame.evaluate(ground)
        page.get_by_role("button", name="User").click()
        page.get_by_role("menuitem", name="Appearance").hover()
        page.get_by_text("Dark Mode").click()
        expect(frame.locator("html")).to_have_class("dark")
        assert frame.evaluate(ground) != light
        page.get_by_role("button", name="User").click()
        page.get_by_role("menuitem", name="Appearance").hover()
        page.get_by_text("Follow System Setting").click()
        expect(frame.locator("html")).to_have_class("light")

    @pytest.mark.skipif(IS_OLD, reason="before 3.3 the simple auth manager forgets where one came from")
    def test_who_is_not_logged_in_is_asked_to_and_comes_back(self, open_window, served):
        window = open_window(user=None)
        page = window.open_batch("applied")
        page.locator("input[name=username]").fill("viewer")
        page.locator("input[name=password]").fill("viewer")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_contain_text(served.batches["applied"])


class TestByKeyboard:
    """Everything in the list without a mouse."""

    def test_search_filter_sort_and_pages(self, open_window, served):
        page = open_window().open("/raif/?limit=3")
        newest = [served.batches[name] for name in ("to_cancel", "to_retry", "unknown")]
        assert shown_batches(page) == newest
        tab_to(page, "#page-next")
        page.keyboard.press("Enter")
        expect(page.locator("#page-previous")).to_be_visible()
        assert shown_batches(page) == [served.batches[name] for name in ("pending", "canceled", "started")]
        tab_to(page, "#page-previous")
        page.keyboard.press("Enter")
        expect(page.locator(f"#batch-{newest[0]}")).to_be_visible()
        assert shown_batches(page) == newest

    def test_a_search_an_order_and_a_status(self, open_window, served):
        page = open_window().open("/raif/")
        tab_to(page, "input[name=q]")
        page.keyboard.type("product_tags")
        page.keyboard.press("Enter")
        expect(page.locator("#status-all")).to_contain_text("4")
        assert shown_batches(page) == [served.batches[name] for name in ("to_cancel", "pending", "canceled", "partial")]
        tab_to(page, "#sort-cost")
        page.keyboard.press("Enter")
        expect(page.locator("th[aria-sort=descending] #sort-cost")).to_be_visible()
        assert shown_batches(page)[0] == served.batches["partial"]
        tab_to(page, "#status-pending")
        page.keyboard.press("Enter")
        expect(page.locator("#status-pending[aria-current]")).to_be_visible()
        assert shown_batches(page) == [served.batches["pending"]]

    def test_filters_are_unfolded_and_chosen(self, open_window, served):
        page = open_window().open("/raif/")
        tab_to(page, "summary")
        page.keyboard.press("Enter")
        tab_to(page, "select[name=provider]")
        page.keyboard.type("gemini")
        tab_to(page, "form button")
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("provider=gemini"))
        assert shown_batches(page) == [served.batches[name] for name in ("started", "mapped")]

    def test_the_focus_stays_when_a_list_updates_itself(self, open_window, served):
        window = open_window()
        window.page.clock.install()
        page = window.open("/raif/")
        tab_to(page, "tbody a[data-airflow]")
        where = page.evaluate("document.activeElement.href")
        page.evaluate("document.querySelector('#live').dataset.old = 'yes'")
        later(page)
        expect(page.locator("#live[data-old]")).to_have_count(0)
        assert page.evaluate("document.activeElement.href") == where


class TestABatch:
    """The page of a batch and its entries."""

    def test_its_parts_its_failures_and_an_entry_that_failed(self, open_window, served):
        page = open_window().open_batch("partial")
        life = page.locator(".timeline .life svg")
        expect(life).to_have_count(3)
        for line in life.all():
            drawn = line.locator("rect:not(.track)").all()
            ends = [float(each.get_attribute("x")) + float(each.get_attribute("width")) for each in drawn]
            assert len(ends) >= 3, "it waited, ended and was fetched"
            assert ends == sorted(ends)
            assert 0 < ends[-1] <= 100
        failures = page.locator("section[aria-labelledby=failures] tbody tr")
        assert [each.split("\t")[0] for each in failures.all_inner_texts()] == ["errored", "truncated", "refused"]
        expect(page.locator("#reason-truncated")).to_contain_text("9")
        page.locator("#reason-truncated").click()
        entries = page.locator("section[aria-labelledby=entries] tbody tr")
        expect(entries).to_have_count(9)
        link = entries.first.get_by_role("link")
        asked = next(row for row in seed.rows(600) if row["custom_id"] == link.inner_text())
        link.click()
        expect(page.locator(".problem")).to_contain_text("cut off at its token limit")
        expect(page.locator("section[aria-labelledby=request] pre")).to_contain_text(asked["prompt"])

    def test_an_entrys_request_and_answer(self, open_window):
        page = open_window().open_batch("applied")
        page.get_by_role("link", name="review-00004").click()
        expect(page.locator("section[aria-labelledby=request] pre")).to_contain_text(seed.rows(5)[4]["prompt"])
        answer = page.locator("section[aria-labelledby=answer] pre").inner_text()
        assert answer.strip()
        expect(page.locator("section[aria-labelledby=result] pre")).to_contain_text(answer)

    def test_entries_go_by_pages(self, open_window):
        page = open_window().open_batch("applied")
        page.locator("a[rel=next]").click()
        expect(page.get_by_role("link", name="review-00050")).to_be_visible()
        page.locator("a[rel=prev]").click()
        expect(page.get_by_role("link", name="review-00000")).to_be_visible()

    def test_a_running_batch_updates_itself(self, open_window, served):
        """Somebody else's looks at the provider show on an open page; what was unfolded stays so."""
        window = open_window()
        window.page.clock.install()
        page = window.open_batch("running")
        figures, badge = page.locator(".figures"), page.locator(".head .badge")
        expect(badge).to_have_text("in progress")
        expect(figures).to_contain_text("198")
        page.locator("#live summary").click()
        address = f"/raif/api/batches/{served.batches['running']}/fetch"
        call(served, address).raise_for_status()
        later(page)
        expect(figures).to_contain_text("399")
        expect(page.locator("#live details[open]")).to_have_count(1)
        call(served, address).raise_for_status()
        later(page)
        expect(badge).to_have_text("ended")
        expect(figures).to_contain_text(re.compile(r"Completed\s*600"))
        first = page.locator("section[aria-labelledby=entries] tbody tr").first
        expect(first.locator(".badge")).to_have_text("completed")

    def test_cancel_asks_first_and_is_written_down(self, open_window, served):
        """In the frame of Airflow's UI, whose sandbox has to allow the form."""
        window = open_window(user="op")
        window.open("/plugin/raif")
        page = window.frame()
        page.locator(f"#batch-{served.batches['to_cancel']}").click()
        page.locator("#action-cancel").click()
        expect(page.locator("h1")).to_have_text("Cancel?")
        expect(page.locator(".question")).to_contain_text("are paid")
        page.get_by_role("link", name="No, go back").click()
        expect(page.locator(".head .badge")).to_have_text("in progress")
        assert audit_log(served, "raif_cancel_batch") == []
        page.locator("#action-cancel").click()
        # A lone "Cancel" would read as the way out of the question.
        page.get_by_role("button", name="Yes, cancel").click()
        expect(page.get_by_role("status")).to_be_visible()
        expect(page.locator(".head .badge")).to_have_text(re.compile("canceling|canceled"))
        (row,) = audit_log(served, "raif_cancel_batch")
        assert (row["owner"], row["dag_id"], row["task_id"]) == ("op", "product_tags", "ask")
        assert served.batches["to_cancel"] in row["extra"]

    def test_a_retry_says_what_it_costs_and_clears_the_task(self, open_window, served):
        task = f"/api/v2/dags/tickets/dagRuns/{seed.RUN}/taskInstances/ask"
        call(served, task, "admin", "PATCH", {"new_state": "success"}).raise_for_status()
        page = open_window(user="user").open_batch("to_retry")
        page.locator("#action-retry").click()
        question = page.locator(".question")
        expect(question).to_contain_text("3 failed rows go out again (3 errored)")
        expect(question).to_contain_text(re.compile(r"About \$0\.\d*[1-9]"))
        expect(question).to_contain_text("ask")
        page.get_by_role("button", name="Yes, retry failed rows").click()
        expect(page.get_by_role("status")).to_be_visible()
        expect(page.locator(".figures")).to_contain_text(re.compile(r"Failed\s*0"))
        assert call(served, task, "admin", "GET").json()["state"] is None
        (row,) = audit_log(served, "raif_retry_batch")
        assert (row["owner"], row["dag_id"]) == ("user", "tickets")


class TestHostileText:
    """Texts of models, users and providers are shown as texts."""

    @pytest.mark.parametrize(("name", "times"), [("list", 2), ("hostile", 2), ("unknown", 2), ("entry", 4)])
    def test_a_script_is_text_and_does_not_run(self, open_window, name, times):
        """It stands in custom_id, prompt, answer, task, model and error; the window fails the test if any ran."""
        window = open_window()
        page = open_page(window, name)
        assert page.locator("main").inner_text().count("<script>alert('raif')</script>") >= times
        assert page.locator("script:not([src]), img").count() == 0
        page.wait_for_load_state("networkidle")

    def test_a_script_that_gets_into_a_page_is_refused(self, open_window):
        """The policy is a second wall, and its breach is noticed."""
        window = open_window()
        page = window.open("/raif/")
        page.evaluate("""() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
        }""")
        assert page.evaluate("window.ran") is None
        assert "Content Security Policy" in window.complaints.pop()


class TestEverybody:
    """Small screens, and people who see, hear or point otherwise."""

    @pytest.mark.parametrize("name", PAGES)
    def test_a_phone_scrolls_down_only(self, open_window, name):
        window = open_window(width=320)
        open_page(window, name)
        window.page.eval_on_selector_all("details", "(found) => found.forEach((each) => { each.open = true; })")
        assert window.overflow() == 0

    @pytest.mark.parametrize("look", ["light", "dark"])
    def test_nothing_is_wrong_by_the_guidelines(self, open_window, look):
        window = open_window(look=look)
        found = {}
        for name in PAGES:
            open_page(window, name)
            if violations := window.violations():
                found[name] = violations
        assert found == {}


class TestRights:
    """What a page shows and lets do."""

    def test_a_viewer_sees_and_may_not_act(self, open_window, served):
        window = open_window(user="viewer")
        page = window.open("/raif/")
        assert served.batches["running"] in shown_batches(page)
        window.open_batch("mapped")
        expect(page.locator(".figures")).to_be_visible()
        expect(page.locator(".actions")).to_have_count(0)
        for action in ("cancel", "retry", "fetch", "expire"):
            window.open_batch("mapped", f"/{action}", 403)
            expect(page.locator("h1")).to_have_text("Not allowed")

    def test_a_form_of_another_site_does_nothing(self, open_window, served):
        window = open_window(user="op")
        page = window.page
        target = f"{served.url}/raif/batches/{served.batches['started']}/cancel"
        form = f'<form method="post" action="{target}"><button>Win a prize</button></form>'
        page.route("http://another.test/", lambda route: route.fulfill(content_type="text/html", body=form))
        page.goto("http://another.test/")
        window.expect_status(target, 403)
        page.get_by_role("button").click()
        expect(page.locator("h1")).to_have_text("Not allowed")
        expect(window.open_batch("started").locator(".head .badge")).to_have_text("in progress")
        assert window.complaints.pop() == "asked another host: http://another.test/"

    def test_who_has_no_rights_sees_nothing(self, open_window, served):
        window = open_window(user="nobody")
        page = window.open("/raif/")
        assert shown_batches(page) == []
        for rest in ("", "/entries/0", "/cancel"):
            window.open_batch("applied", rest, 403)
            expect(page.locator("h1")).to_have_text("Not allowed")
        page = window.open("/raif/cost")
        expect(page.locator(".empty")).to_be_visible()
        batch = f"/raif/api/batches/{served.batches['applied']}"
        for path in (batch, f"{batch}/entries", f"{batch}/entries/0/request"):
            assert call(served, path, "nobody", "GET").status_code == 403
        assert call(served, f"{batch}/cancel", "nobody").status_code == 403
