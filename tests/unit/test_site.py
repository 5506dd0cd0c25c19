"""The guide as a site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from airflow_raif.get_provider_info import get_provider_info

#: What a browser fetches by itself as it shows a page.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
LINKS = {"stylesheet", "icon", "preload", "preconnect", "prefetch", "modulepreload", "manifest"}


@pytest.fixture(scope="module")
def site(repository, tmp_path_factory):
    """The built site; a link that leads nowhere, or a page that cannot be made, fails it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=repository, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Fetched(HTMLParser):
    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag in FETCHED:
            self.addresses.append(values.get(FETCHED[tag]) or "")
        if tag == "link" and LINKS & set((values.get("rel") or "").split()):
            self.addresses.append(values["href"])


def test_no_page_asks_another_host(site):
    """Fonts, icons, styles, scripts and the search index lie beside the pages."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        parser = Fetched()
        text = page.read_text(encoding="utf-8")
        parser.feed(text)
        assert parser.addresses
        assert [each for each in parser.addresses if re.match(r"(\w+:)?//", each)] == [], page
        # The theme would fetch the library that draws it.
        assert 'class="mermaid"' not in text, page
    for style in site.rglob("*.css"):
        assert re.findall(r"url\(\W?(?:https?:)?//[^)]*|@import[^;]*", style.read_text(encoding="utf-8")) == [], style
    assert (site / "search" / "search_index.json").exists()


def text_of(page):
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))


def test_reference_is_made_from_the_code(site):
    """Options, fields of connections and arguments of operators are those of the code."""
    configuration = text_of(site / "reference" / "configuration" / "index.html")
    assert all(name in configuration for name in get_provider_info()["config"]["raif"]["options"])
    connections = text_of(site / "reference" / "connections" / "index.html")
    for kind in get_provider_info()["connection-types"]:
        assert all(name in connections for name in kind["conn-fields"])
    operators = text_of(site / "reference" / "operators" / "index.html")
    assert "synchronous_stragglers" in operators
    assert ":class:" not in operators


def test_examples_are_all_shown(site, repository):
    """With no edit of the page."""
    shown = text_of(site / "start" / "examples" / "index.html")
    for file in (repository / "dags" / "examples").glob("*.py"):
        assert file.name in shown
