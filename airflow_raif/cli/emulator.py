"""``airflow raif emulator``: the providers' Batch APIs on loopback."""

from __future__ import annotations

from typing import Any


def emulator(args: Any) -> None:
    """Serve until a signal comes."""
    from airflow_raif.emulator.__main__ import serve

    serve(args)
