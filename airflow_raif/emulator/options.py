"""What the emulator can be told on a command line; imported without the emulator."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65_536):
        raise ArgumentTypeError(f"{text!r} is no number from 0 to 65535")
    return int(text)


#: Name of each option, and what argparse knows of it.
OPTIONS: dict[str, dict[str, Any]] = {
    "--port": {"type": _port, "default": 8765, "help": "loopback port, 0 for a free one (default 8765)"},
    "--progress": {"default": "seconds:5", "help": "immediate, polls:N or seconds:N (default seconds:5)"},
    "--fault": {"action": "append", "default": [], "metavar": "NAME=VALUE", "help": "may be given several times"},
    "--record": {"type": Path, "help": "write the replies to this JSON file at the end"},
}
