"""The demo as a user runs it: real Airflow on the embedded store, three providers, and a Ctrl-C that leaves nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from airflow_raif.demo.components import processes_of
from tests.e2e.cluster import eventually
from tests.support import PROVIDERS, read_rows

pytestmark = pytest.mark.e2e
ROWS = 60


def test_the_demo_brings_every_row_back_and_stops_at_ctrl_c(repository, tmp_path):
    """Three runs side by side, deferred in the real triggerer; after a Ctrl-C no component is left."""
    printed = tmp_path / "printed"
    with printed.open("w") as output:
        demo = subprocess.Popen(
            [sys.executable, "-m", "airflow_raif.demo", "--keep", "--rows", str(ROWS), "--home", str(tmp_path)],
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=repository,
        )  # fmt: skip
    try:
        eventually(lambda: demo.poll() is not None or "Ctrl-C stops everything" in printed.read_text(), "the results")
        assert demo.poll() is None, printed.read_text()
        for provider in PROVIDERS:
            (uri,) = re.findall(rf"^{provider}: (file://\S+)$", printed.read_text(), re.MULTILINE)
            found = read_rows(uri)
            assert [row["status"] for row in found] == ["completed"] * ROWS
            assert len({row["custom_id"] for row in found}) == ROWS
        assert (tmp_path / "airflow" / "raif.db").exists()
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 130, printed.read_text()
        assert processes_of(tmp_path / "airflow") == []
    finally:
        demo.kill()
        for process in processes_of(tmp_path / "airflow"):
            process.kill()
