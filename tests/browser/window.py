"""This machine's Chromium as one of Airflow's users sees the pages in it, and all that it complains of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Frame, Page, Request, sync_playwright

from tests.browser.serve import Served

_NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Said of every frame that Airflow's UI shows a plugin in.
_OF_AIRFLOW = "An iframe which has both allow-scripts and allow-same-origin"
#: Levels A and AA of every version of the guidelines.
_AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
_AXE = """async (rules) => {
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  const found = await axe.run({ runOnly: rules, resultTypes: ["violations"] });
  return found.violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.failureSummary} ${node.html}`));
}"""


def find_chromium() -> str | None:
    """Return the path of the browser; ``None``: this machine has none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser; it finds no host but this one."""
    nowhere_else = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=[nowhere_else])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Window:
    """One page of a browser, of one user."""

    served: Served
    page: Page
    #: What should never be: messages of the console, errors of scripts, dialogs, requests to another host.
    complaints: list[str] = field(default_factory=list)
    #: Status by address, where a page is asked for that a browser is not to have.
    _refused: dict[str, int] = field(default_factory=dict)

    def open(self, path: str, status: int = 200) -> Page:
        """Go to a path of the API server, which answers with a status."""
        address = f"{self.served.url}{path}"
        self.expect_status(address, status)
        answer = self.page.goto(address)
        assert answer is not None
        assert answer.status == status, answer.text()
        return self.page

    def expect_status(self, address: str, status: int) -> None:
        """Let the browser say that an address answered with a status."""
        self._refused[address] = status

    def open_batch(self, name: str, rest: str = "", status: int = 200) -> Page:
        """Go to the page of a seeded batch, or to one below it."""
        return self.open(f"/raif/batches/{self.served.batches[name]}{rest}", status)

    def frame(self) -> Frame:
        """Return the frame of Airflow's UI that shows our pages."""
        shown = self.page.wait_for_selector("iframe[src*='/raif/']").content_frame()
        assert shown is not None
        shown.wait_for_selector("main")
        return shown

    def violations(self) -> list[str]:
        """Return what is wrong with the page for people who see, hear or point otherwise; all of it is unfolded."""
        self.page.evaluate(AXE_SCRIPT)
        found: list[str] = self.page.evaluate(_AXE, _AXE_RULES)
        return found

    def overflow(self) -> int:
        """Return how many pixels the page is wider than the window."""
        wide: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return wide

    def listen(self) -> None:
        """Write down what happens on the page from now on."""
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("dialog", self._close)
        self.page.on("request", self._see)

    def _hear(self, message: ConsoleMessage) -> None:
        # Airflow's own pages around ours may say what they like.
        address = message.location["url"]
        is_ours = "/raif/" in address or "Content Security Policy" in message.text
        is_told = f"status of {self._refused.get(address, 200)} " in message.text
        if is_ours and not is_told and not message.text.startswith(_OF_AIRFLOW):
            self.complaints.append(f"console: {message.text}")

    def _close(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _see(self, request: Request) -> None:
        address = request.url.removeprefix("blob:")
        if urlsplit(address).netloc != urlsplit(self.served.url).netloc:
            self.complaints.append(f"asked another host: {request.url}")


class Windows:
    """Windows of one browser. Those of a user share its cache and what pages stored, as a person's do."""

    def __init__(self, browser: Browser, served: Served) -> None:
        self._browser = browser
        self._served = served
        self._contexts: dict[tuple[str | None, str], BrowserContext] = {}

    def open(self, user: str | None = "admin", look: Literal["light", "dark"] = "light", width: int = 1280) -> Window:
        """Open a window.

        :param user: who is logged in; ``None``: nobody.
        :param look: as the system is set.
        :param width: in pixels.
        """
        context = self._contexts.get((user, look))
        if context is None:
            context = self._contexts[user, look] = self._browser.new_context(color_scheme=look)
            context.set_default_timeout(30_000)
            if user is not None:
                url = self._served.url
                context.add_cookies([{"name": "_token", "value": self._served.token(user), "url": url}])
        opened = Window(self._served, context.new_page())
        opened.page.set_viewport_size({"width": width, "height": 800})
        opened.listen()
        return opened
