"""Serve the emulator to any client: ``python -m airflow_raif.emulator --port 8765``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from airflow_raif.emulator.faults import parse_faults
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import EmulatorSettings, Progress

_ADDRESSES = """The OpenAI, Anthropic and Gemini Batch APIs answer at {url}
  OPENAI_BASE_URL={url}/v1
  ANTHROPIC_BASE_URL={url}
  GOOGLE_GEMINI_BASE_URL={url}
Any key works, but for those that begin with "bad".
Faults: PUT {url}/_emulator/faults; counters: GET {url}/_emulator/state
Ctrl-C stops it."""


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65_536):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 65535")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m airflow_raif.emulator", description=__doc__)
    parser.add_argument("--port", type=_port, default=8765, help="loopback port, 0 for a free one (default 8765)")
    parser.add_argument("--progress", default="seconds:5", help="immediate, polls:N or seconds:N (default seconds:5)")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME=VALUE", help="may be given several times")
    parser.add_argument("--record", type=Path, help="write the replies to this JSON file at the end")
    given = parser.parse_args(arguments)
    try:
        progress, faults = Progress.parse(given.progress), parse_faults(given.fault)
    except ValueError as error:
        parser.error(str(error))
    if given.record and not given.record.parent.is_dir():
        parser.error(f"--record: there is no directory {given.record.parent}")
    signals = {signal.SIGINT, signal.SIGTERM}
    # Blocked before the server's thread starts, so that they reach this one alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        server = EmulatorServer(
            EmulatorSettings(progress=progress, faults=faults, record=given.record), port=given.port
        )
        server.start()
    except OSError as error:
        parser.exit(1, f"port {given.port} cannot be served: {error.strerror}; choose another with --port\n")
    print(_ADDRESSES.format(url=server.url), flush=True)
    signal.sigwait(signals)
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
