"""The README's pictures of the pages, in both of Airflow's looks; ``python -m tests.browser.screenshots`` draws them.

They show a month of nights of the real services on emulated providers, which live it through in a minute.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from airflow_raif.domain.batch import Batch, Claim
from airflow_raif.emulator.faults import Faults, RowFault
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import EmulatorSettings, Progress
from airflow_raif.hooks.runtime import open_runtime
from airflow_raif.hooks.spool import result_folder
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.submit import submit_batch
from tests.browser import seed
from tests.browser.serve import Served, serve
from tests.browser.window import chromium
from tests.support import defaults_of

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDTH = 1280
#: Height of each picture.
HEIGHTS = {"list": 800, "batch": 1010, "cost": 1010}
#: So that text is sharp where the README is wide.
SCALE = 1.5
DAYS = 28
SYSTEM = "You read what customers of a shop for shoes wrote, and say in one word what it is about. "
#: What each Dag asks, how many rows it has in its largest night, and how often it says what is to be done.
NIGHTS = {
    "nightly_reviews": ("openai", "gpt-5-mini", 900, 8),
    "product_tags": ("anthropic", "claude-haiku-4-5", 300, 8),
    # So long a beginning is taken from the provider's cache.
    "tickets": ("gemini", "gemini-2.5-flash", 500, 50),
}


class Clock:
    """What time it is for our services and for the providers."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def go_to(self, day: int) -> None:
        """Go to the night so many days ago."""
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self.now = today - timedelta(days=day) + timedelta(minutes=5)

    def pass_by(self, minutes: float) -> None:
        """Let time go by."""
        self.now += timedelta(minutes=minutes)


@contextmanager
def _provider(clock: Clock) -> Iterator[None]:
    """Start providers that take half an hour for a batch, have room for few and fail some rows; connect to them."""
    shares = {"errored": 0.02, "truncated": 0.01, "refused": 0.007}
    faults = Faults(rows=[RowFault(kind=kind, fraction=share) for kind, share in shares.items()])  # type: ignore[arg-type]
    settings = EmulatorSettings(
        progress=Progress.parse("seconds:1500"), faults=faults, clock=lambda: clock.now.timestamp(),
        openai_max_enqueued_tokens=100_000,
    )  # fmt: skip
    with EmulatorServer(settings) as server:
        for name, value in seed.connections({"default": server}, max_requests=150).items():
            os.environ[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(value)
        yield


def _send(runtime: Runtime, dag_id: str, run_id: str, count: int) -> Batch:
    _, model, _, times = NIGHTS[dag_id]
    defaults = defaults_of(runtime.adapter.name, model=model, system=SYSTEM * times)
    batch = create_batch(runtime, seed.rows(count), defaults=defaults, claim=Claim(dag_id, run_id, "ask"))
    return submit_batch(runtime, batch.batch_id)


def _look(runtime: Runtime, clock: Clock, batch: Batch) -> Batch:
    clock.pass_by(3)
    fetch_batch_status(runtime, batch.batch_id)
    return advance_batch(runtime, batch.batch_id, may_repeat=False)


def _night(clock: Clock, dag_id: str, run_id: str, count: int, looks: int = 1_000) -> Batch:
    """Live a batch through, or so many looks at it."""
    provider, model, _, _ = NIGHTS[dag_id]
    with open_runtime(f"{provider}_default", model) as opened:
        runtime = dataclasses.replace(opened, clock=lambda: clock.now)
        batch = _send(runtime, dag_id, run_id, count)
        while batch.results_fetched_at is None and looks:
            batch, looks = _look(runtime, clock, batch), looks - 1
        if batch.results_fetched_at is None:
            return batch
        clock.pass_by(2)
        return apply_results(runtime, batch.batch_id, result_folder(None, batch.batch_id))


def month() -> Batch:
    """Return the largest batch of all nights."""
    clock, made = Clock(), []
    with _provider(clock):
        for day in range(DAYS, 0, -1):
            for dag_id, (_, _, most, _) in NIGHTS.items():
                clock.go_to(day)
                # Weekends are quiet.
                share = (0.35 if clock.now.weekday() > 4 else 0.8) + 0.02 * (day * 7 % 11)
                made.append(_night(clock, dag_id, f"scheduled__{clock.now:%Y-%m-%d}", int(most * share)))
        for dag_id, minutes in (("tickets", 31), ("nightly_reviews", 19)):
            clock.now = datetime.now(UTC) - timedelta(minutes=minutes)
            _night(clock, dag_id, f"manual__{clock.now:%Y-%m-%dT%H:%M}", NIGHTS[dag_id][2], looks=minutes // 3)
    return max(made, key=lambda batch: batch.request_count)


def _draw(browser: Browser, served: Served, look: str) -> None:
    context = browser.new_context(color_scheme=look, device_scale_factor=SCALE)  # type: ignore[arg-type]
    context.add_cookies([{"name": "_token", "value": served.token("admin"), "url": served.url}])
    page = context.new_page()
    batch = served.batches["largest"]
    for name, path in {"list": "", "batch": f"batches/{batch}", "cost": "cost"}.items():
        page.set_viewport_size({"width": WIDTH, "height": HEIGHTS[name]})
        page.goto(f"{served.url}/plugin/raif/raif/{path}")
        page.frame_locator("iframe").locator("main").wait_for()
        page.wait_for_load_state("networkidle")
        _save(page.screenshot(), IMAGES / f"{name}-{look}.png")
    context.close()


def _save(picture: bytes, file: Path) -> None:
    """Write a picture with as few colours as it can do with."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.relative_to(IMAGES.parents[1])}: {file.stat().st_size // 1024} KB")


def main() -> None:
    if "--seed" in sys.argv:
        print(json.dumps({"largest": month().batch_id}))
        return
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="raif-pages-") as home,
        serve(Path(home), seeding="tests.browser.screenshots") as served,
        chromium() as browser,
    ):
        for look in ("light", "dark"):
            _draw(browser, served, look)


if __name__ == "__main__":
    main()
