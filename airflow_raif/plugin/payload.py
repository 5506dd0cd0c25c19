"""An entry's request and result, read from the spool by their place in it; never a whole file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import msgspec
from fastapi import HTTPException

from airflow_raif.adapters.base import ConnectionSettings
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import RaifError
from airflow_raif.domain.result import EntryResult
from airflow_raif.hooks.spool import spool_folder
from airflow_raif.spool.files import requests_file, results_file
from airflow_raif.store import ListedEntry

log = logging.getLogger(__name__)

#: Bytes of a request or a result that a page shows; more of it is there to be downloaded.
SHOWN_BYTES = 64 * 1024
#: Bytes of a result that is read to show its answer by itself.
PARSED_BYTES = 4 * 1024 * 1024

Which = Literal["request", "result"]


@dataclass(frozen=True)
class Payload:
    """What is shown of a request or a result."""

    text: str
    size: int
    is_cut: bool


def request_place(entry: ListedEntry) -> tuple[str, int, int]:
    """Return file, offset and length of an entry's request."""
    return requests_file(entry.part_number), entry.request_offset, entry.request_length


def result_place(entry: ListedEntry) -> tuple[str, int, int] | None:
    """Return file, offset and length of an entry's result; ``None``: it has none."""
    if entry.result_part is None or entry.result_offset is None or entry.result_length is None:
        return None
    return results_file(entry.result_part), entry.result_offset, entry.result_length


def read(batch: Batch, place: tuple[str, int, int], most: int | None = None) -> bytes | None:
    """Return a request or a result, or so many bytes of its beginning; ``None``: the spool does not have it.

    :raises HTTPException: 503, whether it does cannot be told.
    """
    name, offset, length = place
    try:
        return spool_folder().child(batch.batch_id).read(name, offset, length if most is None else min(length, most))
    except FileNotFoundError:
        return None
    except RaifError:
        raise
    except Exception as error:
        log.exception("%s of batch %s cannot be read", name, batch.batch_id)
        told = f"The spool cannot be read now ({type(error).__name__}); the log of the API server says why."
        raise HTTPException(503, told) from error


def whole(batch: Batch, entry: ListedEntry, which: Which) -> bytes | None:
    """Return an entry's request or result, all of it; ``None``: there is none."""
    place = request_place(entry) if which == "request" else result_place(entry)
    return place and read(batch, place)


def shown_payload(batch: Batch, place: tuple[str, int, int]) -> Payload | None:
    """Return what a page shows of a request or a result; whole JSON is indented."""
    size = place[2]
    raw = read(batch, place, SHOWN_BYTES)
    if raw is None:
        return None
    is_cut = len(raw) < size
    return Payload(raw.decode(errors="replace") if is_cut else _indented(raw), size, is_cut)


def _indented(raw: bytes) -> str:
    """Lay JSON out in lines; letters that a provider wrote as escapes are shown as such."""
    try:
        return msgspec.json.format(msgspec.json.encode(msgspec.json.decode(raw)), indent=2).decode()
    except (msgspec.DecodeError, RecursionError):
        return raw.decode(errors="replace")


def answer_of(batch: Batch, entry: ListedEntry) -> EntryResult | None:
    """Return an entry's result, understood; ``None``: it has none, or it is none."""
    place = result_place(entry)
    if place is None or place[2] > PARSED_BYTES:
        return None
    raw = read(batch, place)
    if raw is None:
        return None
    try:
        # Reading needs no key.
        adapter = make_adapter(ConnectionSettings(provider=batch.provider, api_key=""))
        return adapter.apply_batch_result(raw)
    except RaifError:
        return None
