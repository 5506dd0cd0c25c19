"""The emulator as a server: knobs, faults, command line."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from airflow_raif.emulator.faults import HttpFault, RowFaults, parse_faults
from airflow_raif.emulator.faults import RowFault as Row
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import Progress

KEY = {"authorization": "Bearer good"}


@pytest.mark.parametrize("text", ["sometimes", "polls", "seconds:", "immediate:3", "polls:x", ""])
def test_wrong_progress(text):
    """A pace that is none is refused."""
    with pytest.raises(ValueError):
        Progress.parse(text)


def test_progress():
    """Immediate at the first look, by looks, or by the clock."""
    assert [Progress.parse("immediate").fraction(looks, 0) for looks in (0, 1)] == [0, 1]
    assert [Progress.parse("polls:4").fraction(looks, 99) for looks in (1, 2, 9)] == [0.25, 0.5, 1]
    assert [Progress.parse("seconds:10").fraction(9, at) for at in (0, 5, 20)] == [0, 0.5, 1]
    assert Progress.parse("seconds:0").fraction(0, 0) == 1


def test_faults_of_the_command_line():
    """Row kinds by share, routes by status and times, knobs by JSON."""
    found = parse_faults(
        ["errored=0.1", "openai.batches.*=429:2", "gemini.files.upload=before", "shuffle", "expire_after=0.5"]
    )
    assert (found.rows[0].kind, found.rows[0].fraction) == ("errored", 0.1)
    assert [(fault.status, fault.times, fault.drop) for fault in found.http] == [(429, 2, ""), (0, 1, "before")]
    assert (found.shuffle, found.expire_after) == (True, 0.5)


@pytest.mark.parametrize("text", ["nonsense", "shuffle={", "errored=many", "a.b=soon"])
def test_wrong_faults_of_the_command_line(text):
    """What is no fault is refused."""
    with pytest.raises(ValueError):
        parse_faults([text])


def test_row_faults_strike_as_told():
    """By share, by position, by id, by text; the first that fits wins; a number of batches only."""
    faults = parse_faults(["missing=0.5"])
    faults.rows += [Row(kind="errored", rows=[0]), Row(kind="refused", ids=["c"]), Row(kind="blank", contains="four")]
    faults.rows[1].batches = 1
    given = [(0, "a", b"one"), (1, "b", b"two"), (2, "c", b"three"), (4, "d", b"four")]
    first, second = RowFaults(faults), RowFaults(faults)
    assert [first.strike(*row) for row in given] == ["errored", "missing", "refused", "missing"]
    assert [second.strike(*row) for row in given] == ["", "missing", "refused", "missing"]


def test_http_faults_strike_in_turn(emulator):
    """Calls let through first, then failed, with the hint that was asked for; then all is well."""
    emulator.state.faults.http.append(
        HttpFault(route="openai.batches.list", status=429, times=2, skip=1, retry_after=7)
    )
    replies = [httpx.get(f"{emulator.url}/v1/batches", headers=KEY) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 429, 429, 200]
    assert replies[1].headers["retry-after"] == "7"
    assert replies[1].json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(("moment", "uploads"), [("before", 0), ("after", 1)])
def test_dropped_connections(emulator, moment, uploads):
    """The client sees a closed socket, before or after the call took effect."""
    emulator.state.faults.http.append(HttpFault(route="openai.files.create", drop=moment))
    with pytest.raises(httpx.TransportError):
        httpx.post(
            f"{emulator.url}/v1/files", headers=KEY, data={"purpose": "batch"}, files={"file": ("f", b"content")}
        )
    assert emulator.state.uploads["openai"] == uploads


def test_knobs_over_http(emulator):
    """Faults are set and counters are read while it runs, by any client."""
    reply = httpx.put(f"{emulator.url}/_emulator/faults", json={"http": [{"route": "*", "status": 500}]})
    assert reply.json()["http"][0]["status"] == 500
    assert httpx.get(f"{emulator.url}/v1/batches", headers=KEY).status_code == 500
    assert httpx.put(f"{emulator.url}/_emulator/faults", json={"nonsense": 1}).status_code == 400
    state = httpx.get(f"{emulator.url}/_emulator/state").json()
    assert state["requests"] == {"openai.batches.list": 1}
    assert state["batches"] == {"openai": [], "anthropic": [], "gemini": []}


def test_wrong_calls_get_the_providers_errors(emulator):
    """Unknown paths, bodies that are no JSON, a missing key."""
    assert httpx.get(f"{emulator.url}/v1/nothing", headers=KEY).json()["error"]["code"] == "unknown_url"
    assert httpx.get(f"{emulator.url}/v1/messages/nothing/x/y", headers=KEY).json()["type"] == "error"
    assert httpx.get(f"{emulator.url}/v1beta/nothing").json()["error"]["status"] == "NOT_FOUND"
    assert httpx.get(f"{emulator.url}/v1/batches").status_code == 401
    for content in (b"{broken", b"[]"):
        assert httpx.post(f"{emulator.url}/v1/batches", headers=KEY, content=content).status_code == 400
        assert httpx.post(f"{emulator.url}/v1/responses", headers=KEY, content=content).status_code == 400
    assert httpx.post(f"{emulator.url}/v1/files", headers=KEY, content=b"x").status_code == 400
    assert httpx.post(f"{emulator.url}/v1/files", headers=KEY, data={"purpose": "batch"}, files={}).status_code == 400
    assert httpx.post(f"{emulator.url}/v1/files", headers=KEY, files={"file": ("f", b"x")}).status_code == 400
    assert httpx.get(f"{emulator.url}/v1beta/models?key=bad", headers={}).status_code == 400


def test_files_are_gone_after_the_stop():
    """Nothing is left on disk."""
    with EmulatorServer() as server:
        folder = server.state.directory
        assert folder.is_dir()
    assert not folder.exists()


def test_command_line_serves_until_a_signal(tmp_path):
    """It prints its addresses, serves, writes the record and ends well at SIGTERM."""
    record = tmp_path / "record.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "airflow_raif.emulator", "--port", "0", "--progress", "polls:1", "--fault", "shuffle",
         "--record", str(record)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        assert httpx.get(f"{url}/v1/batches", headers=KEY).json()["data"] == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert "/v1/batches" in record.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--progress", "never"], "progress must be"), (["--fault", "gremlins"], "unknown fault 'gremlins'")],
)
def test_command_line_says_what_is_wrong(arguments, message):
    """Wrong options are explained."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow_raif.emulator", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_port_that_is_taken():
    """A taken port is named, with the remedy."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "airflow_raif.emulator", "--port", str(port)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"port {port} cannot be served" in done.stderr
    assert "--port" in done.stderr
