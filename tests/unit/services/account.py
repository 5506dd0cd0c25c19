"""An account at OpenAI with as many batches as a test wants, in the order it wants; real calls, no server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import httpx

from airflow_raif.adapters.http import AsyncHttpTransport
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.store import WaitingPart
from tests.support import settings_of

#: Unix seconds; batch number n was created n seconds later.
FIRST = 1_790_000_000


def waiting(numbers: Sequence[int]) -> list[WaitingPart]:
    """Parts that wait for the batches of these numbers, each the only one of a batch of ours."""
    return [
        WaitingPart(
            batch_id=f"ours-{number}", id=number, number=0, provider_batch_id=f"batch_{number}",
            intent_at=datetime.fromtimestamp(FIRST + number - 5, UTC), submitted_at=None,
        )
        for number in numbers
    ]  # fmt: skip


class Account:
    """Lists ``numbers`` in their order, knows ``known`` by id, and notes every call."""

    def __init__(self, numbers: Sequence[int] = (), known: Sequence[int] = ()) -> None:
        self.numbers = list(numbers)
        self.known = {*numbers, *known}
        self.pages: list[str] = []
        self.singles: list[int] = []
        self.most_at_once = self._at_once = 0
        #: Answers a call in place of the account.
        self.instead: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
        self.is_endless = False

    def adapter(self, provider: str = "openai"):
        return make_adapter(settings_of(provider, "http://127.0.0.1:9"))

    def transport(self, provider: str = "openai") -> AsyncHttpTransport:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        return AsyncHttpTransport(self.adapter(provider), client=client)

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0)
        self._at_once -= 1
        name = request.url.path.rpartition("/")[2]
        if name == "batches":
            self.pages.append(request.url.query.decode())
            return self.instead(request) or self._page(request.url.params.get("after"))
        self.singles.append(int(name.removeprefix("batch_")))
        return self.instead(request) or self._single(self.singles[-1])

    def _page(self, after: str | None) -> httpx.Response:
        start = 0 if after is None or self.is_endless else self.numbers.index(int(after.removeprefix("batch_"))) + 1
        found = self.numbers[start : start + 100]
        has_more = self.is_endless or start + 100 < len(self.numbers)
        return httpx.Response(200, json={"data": [_batch(number) for number in found], "has_more": has_more})

    def _single(self, number: int) -> httpx.Response:
        if number not in self.known:
            return failing(404)
        return httpx.Response(200, json=_batch(number))


def failing(status: int, **headers: str) -> httpx.Response:
    """An error of the provider."""
    content = json.dumps({"error": {"message": "no", "code": "odd"}}).encode()
    return httpx.Response(status, content=content, headers={name.replace("_", "-"): headers[name] for name in headers})


def of_lists(answer: Callable[[], httpx.Response]) -> Callable[[httpx.Request], httpx.Response | None]:
    """Answer calls for the list so."""
    return lambda request: answer() if request.url.path.endswith("/batches") else None


def of_batches(numbers: Sequence[int], answer: Callable[[], httpx.Response]):
    """Answer single calls for these batches so."""
    names = {f"/v1/batches/batch_{number}" for number in numbers}
    return lambda request: answer() if request.url.path in names else None


def _batch(number: int) -> dict[str, object]:
    return {
        "id": f"batch_{number}", "status": "in_progress", "created_at": FIRST + number,
        "request_counts": {"total": 9, "completed": 1, "failed": 0},
    }  # fmt: skip
