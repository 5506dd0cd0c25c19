"""One Airflow and one browser for all tests of a module; what a browser complains of fails the test it happened in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.serve import Served, serve
from tests.browser.window import Window, Windows, chromium, find_chromium


# Of a module, not of the session: Playwright's event loop must not be there when tests of other files run theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine; `make chromium` installs it")
    expect.set_options(timeout=30_000)
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def served(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="module")
def windows(browser: Browser, served: Served) -> Windows:
    return Windows(browser, served)


@pytest.fixture
def open_window(windows: Windows) -> Iterator[Callable[..., Window]]:
    """Open windows; in the end each must have had nothing to complain of."""
    opened: list[Window] = []

    def open_one(*args: Any, **values: Any) -> Window:
        opened.append(windows.open(*args, **values))
        return opened[-1]

    yield open_one
    for each in opened:
        each.page.close()
    assert [complaint for each in opened for complaint in each.complaints] == []
