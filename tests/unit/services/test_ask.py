"""Asking a provider about many batches: as few calls as can be, bounded whatever the account holds."""

from __future__ import annotations

import httpx
import msgspec
import pytest

from airflow_raif.adapters.http import AsyncHttpTransport
from airflow_raif.domain.errors import AuthenticationError, BatchNotFoundError
from airflow_raif.services.ask import ask
from tests.unit.services.account import Account, failing, of_batches, of_lists, waiting


async def answers_of(account, numbers):
    transport = account.transport()
    try:
        return await ask(account.adapter(), transport, waiting(numbers))
    finally:
        await transport.aclose()


def newest_first(start, stop):
    return range(stop - 1, start - 1, -1)


async def test_one_page_tells_of_all_on_it():
    """A hundred waiting batches cost one call."""
    account = Account(newest_first(0, 100))
    answers = await answers_of(account, range(100))
    assert (len(account.pages), account.singles) == (1, [])
    assert set(answers.states) == set(range(100))
    assert all(state.provider_batch_id == f"batch_{number}" for number, state in answers.states.items())


async def test_a_lone_batch_is_asked_for_by_id():
    """A page of strangers would cost more than the one call."""
    account = Account(newest_first(0, 100))
    assert set((await answers_of(account, [50])).states) == {50}
    assert (account.pages, account.singles) == ([], [50])


async def test_nobody_waits():
    """Nothing to ask about, nothing is asked."""
    account = Account(newest_first(0, 100))
    assert not (await answers_of(account, [])).states
    assert (account.pages, account.singles) == ([], [])


async def test_a_thousand_cost_ten_pages():
    """Calls grow with pages, not with batches, and strangers behind the last one are not read."""
    account = Account(newest_first(0, 3000))
    answers = await answers_of(account, range(2000, 3000))
    assert (len(account.pages), account.singles) == (10, [])
    assert len(answers.states) == 1000


async def test_the_last_one_is_not_looked_for_in_pages():
    """When one is left, a call for it is cheaper than the next page."""
    account = Account(newest_first(0, 1000))
    answers = await answers_of(account, [990, 980, 3])
    assert (len(account.pages), account.singles) == (1, [3])
    assert set(answers.states) == {990, 980, 3}


async def test_pages_older_than_every_wait_are_not_read():
    """What a list does not show is not looked for among batches that are older than any that waits."""
    hour = 3600
    account = Account(newest_first(0, 2000), known=range(9 * hour, 9 * hour + 40))
    answers = await answers_of(account, range(9 * hour, 9 * hour + 40))
    assert (len(account.pages), len(account.singles)) == (1, 40)
    assert len(answers.states) == 40


async def test_a_list_that_begins_with_the_oldest_is_read_on():
    """A compatible server may list the other way round; its first page then tells nothing about the rest."""
    hour = 3600
    account = Account([*range(450), *range(9 * hour, 9 * hour + 50)])
    answers = await answers_of(account, range(9 * hour, 9 * hour + 50))
    assert (len(account.pages), account.singles) == (5, [])
    assert len(answers.states) == 50


async def test_a_list_of_no_documented_order_is_read_on():
    """Google does not say in which order it lists: older batches on one page tell nothing about the next."""
    adapter = Account().adapter("gemini")
    parts = [msgspec.structs.replace(part, provider_batch_id=f"batches/{part.id}") for part in waiting(range(90, 93))]
    pages = {None: (range(50), "2020", "next"), "next": (range(90, 93), "2030", "")}

    def answer(request):
        numbers, year, token = pages[request.url.params.get("pageToken")]
        operations = [
            {"name": f"batches/{number}", "metadata": {"createTime": f"{year}-01-01T00:00:{59 - at:02}Z"}}
            for at, number in enumerate(numbers)
        ]
        return httpx.Response(200, json={"operations": operations, "nextPageToken": token})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        answers = await ask(adapter, AsyncHttpTransport(adapter, client=client), parts)
    assert set(answers.states) == {90, 91, 92}


async def test_pages_of_strangers_are_given_up():
    """Reading on costs never more than asking for each would have."""
    account = Account(newest_first(1000, 9000), known=range(5))
    answers = await answers_of(account, range(5))
    assert (len(account.pages), sorted(account.singles)) == (4, [0, 1, 2, 3, 4])
    assert len(answers.states) == 5


async def test_a_list_without_end_is_given_up():
    """A server whose cursor leads nowhere keeps nobody, and single calls are bounded; the rest comes next time."""
    account = Account(newest_first(5000, 5100), known=range(200))
    account.is_endless = True
    answers = await answers_of(account, range(200))
    assert len(account.pages) == 50
    assert account.singles == list(range(64))
    assert account.most_at_once <= 8
    assert set(answers.states) == set(range(64))
    assert answers.postponed == {f"ours-{number}" for number in range(64, 200)}
    assert not answers.unanswered


async def test_pages_are_bounded(monkeypatch):
    """However many wait, one time reads so many pages and no more."""
    monkeypatch.setattr("airflow_raif.services.ask.MAX_PAGES", 3)
    account = Account(newest_first(0, 1000))
    answers = await answers_of(account, range(1000))
    assert (len(account.pages), len(account.singles)) == (3, 64)
    assert (len(answers.states), len(answers.postponed)) == (364, 636)


@pytest.mark.parametrize(
    "answer",
    [
        lambda: failing(400), lambda: failing(404), lambda: failing(403), lambda: failing(500), lambda: failing(302),
        lambda: httpx.Response(200, content=b"<html>"),
    ],
)  # fmt: skip
async def test_a_list_that_cannot_be_read(answer, caplog):
    """Each batch is asked for then, and the log says why."""
    account = Account(known=range(3))
    account.instead = of_lists(answer)
    answers = await answers_of(account, range(3))
    assert set(answers.states) == {0, 1, 2}
    assert (answers.failures, answers.unanswered) == ({}, set())
    assert "The list of openai cannot be read" in caplog.text


async def test_a_page_that_fails_half_way():
    """What the pages before it told is kept."""
    account = Account(newest_first(0, 300))
    account.instead = lambda request: failing(500) if "after=batch_200" in str(request.url) else None
    answers = await answers_of(account, range(190, 300))
    assert len(account.pages) == 2
    assert sorted(account.singles) == list(range(190, 200))
    assert len(answers.states) == 110


async def test_a_refused_key_fails_every_wait():
    """No further call is made with it."""
    account = Account(newest_first(0, 10))
    account.instead = lambda _: failing(401)
    answers = await answers_of(account, range(10))
    assert len(answers.failures) == 10
    assert all(isinstance(error, AuthenticationError) for error in answers.failures.values())
    assert account.singles == []


@pytest.mark.parametrize(("hint", "pause"), [("7", 7.0), ("999999", 3600.0), ("soon", 0.0)])
async def test_a_rate_limit_stops_all_calls(hint, pause):
    """Nothing fails; the hint is kept, up to an hour."""
    account = Account(newest_first(0, 10))
    account.instead = of_lists(lambda: failing(429, retry_after=hint))
    answers = await answers_of(account, range(10))
    assert answers.unanswered == {f"ours-{number}" for number in range(10)}
    assert (answers.pause, account.singles, answers.failures) == (pause, [], {})


async def test_a_rate_limit_on_a_single_call_stops_the_others(caplog):
    """Those whose turn had not come are not asked about; the log has one line, not one for each."""
    account = Account(known=range(100))
    account.instead = of_batches(range(100), lambda: failing(429, retry_after="7"))
    answers = await answers_of(account, range(100))
    assert len(account.singles) <= 8
    assert answers.unanswered == {f"ours-{number}" for number in range(100)}
    assert (answers.pause, answers.postponed) == (7.0, set())
    assert caplog.text.count("cannot be polled now") == 1


async def test_a_provider_that_is_away_is_not_asked_for_each():
    """With the list and the first single calls failing, the others are spared."""
    account = Account(known=range(60))
    account.instead = lambda _: failing(503)
    answers = await answers_of(account, range(60))
    assert len(account.singles) <= 16
    assert answers.unanswered == {f"ours-{number}" for number in range(60)}
    assert (answers.failures, answers.states, answers.postponed) == ({}, {}, set())


async def test_errors_of_some_do_not_touch_the_others():
    """Ten that always fail, one that is unknown: the other answers come."""
    account = Account(known=range(30))
    account.instead = lambda request: (
        of_lists(lambda: failing(404))(request) or of_batches(range(5, 15), lambda: failing(500))(request)
    )
    answers = await answers_of(account, [*range(30), 99])
    assert set(answers.states) == {*range(5), *range(15, 30)}
    assert answers.unanswered == {f"ours-{number}" for number in range(5, 15)}
    assert list(answers.failures) == ["ours-99"]
    assert isinstance(answers.failures["ours-99"], BatchNotFoundError)


async def test_an_answer_that_is_no_batch_is_asked_for_again():
    """A gateway's page in place of one state fails no wait."""
    account = Account()
    account.instead = lambda _: httpx.Response(200, content=b"<html>")
    answers = await answers_of(account, [1])
    assert (answers.unanswered, answers.failures) == ({"ours-1"}, {})


@pytest.mark.parametrize(("provider", "most"), [("openai", 100), ("anthropic", 1000), ("gemini", 100)])
def test_pages_as_large_as_they_are_worth(provider, most):
    """Anthropic gives up to 1,000 on a page; for a few batches that would be 500 KB for nothing."""
    adapter = Account().adapter(provider)
    sizes = [
        int(params.get("limit") or params["pageSize"])
        for count in (3, 5000)
        for params in [httpx.URL(adapter.list_request(None, count).path).params]
    ]
    assert sizes == [100, most]
