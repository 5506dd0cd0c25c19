"""Serve the emulator to any client: ``python -m airflow_raif.emulator --port 8765``."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import NoReturn

from airflow_raif.emulator.faults import parse_faults
from airflow_raif.emulator.options import OPTIONS
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import EmulatorSettings, Progress

_ADDRESSES = """The OpenAI, Anthropic and Gemini Batch APIs answer at {url}
  OPENAI_BASE_URL={url}/v1
  ANTHROPIC_BASE_URL={url}
  GOOGLE_GEMINI_BASE_URL={url}
Any key works, but for those that begin with "bad".
Faults: PUT {url}/_emulator/faults; counters: GET {url}/_emulator/state
Ctrl-C stops it."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m airflow_raif.emulator", description=__doc__)
    for name, values in OPTIONS.items():
        parser.add_argument(name, **values)
    serve(parser.parse_args(arguments))
    return 0


def serve(given: argparse.Namespace) -> None:
    """Serve as the options say until a signal comes; ends the process with 2 at an option that is wrong."""
    try:
        progress, faults = Progress.parse(given.progress), parse_faults(given.fault)
    except ValueError as error:
        _fail(2, str(error))
    if given.record and not given.record.parent.is_dir():
        _fail(2, f"--record: there is no directory {given.record.parent}")
    signals = {signal.SIGINT, signal.SIGTERM}
    # Blocked before the server's thread starts, so that they reach this one alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        server = EmulatorServer(
            EmulatorSettings(progress=progress, faults=faults, record=given.record), port=given.port
        )
        server.start()
    except OSError as error:
        _fail(1, f"port {given.port} cannot be served: {error.strerror}; choose another with --port")
    print(_ADDRESSES.format(url=server.url), flush=True)
    signal.sigwait(signals)
    server.stop()


def _fail(code: int, why: str) -> NoReturn:
    print(why, file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    sys.exit(main())
