"""Doctor: looks at everything that batches need, and says what is wrong and what to do about it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING
from uuid import uuid4

from airflow.sdk import conf

from airflow_raif.domain.errors import AuthenticationError, ProviderError, RaifError

if TYPE_CHECKING:
    from airflow_raif.spool.files import Folder

#: Optional packages, by the extra that brings them.
_EXTRAS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google-genai": "google",
    "psycopg": "postgres",
    "pydantic-ai-slim": "pydantic-ai",
    "pyarrow": "parquet",
    "tiktoken": "tokenizer",
}
#: More than this between our clock and a provider's, and lost creates may not be told from others'.
MAX_SKEW_SECONDS = 60.0
#: Batches that tell which connections are in use.
RECENT = timedelta(days=30)
_LOCAL = "file://"


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What one look found. Its texts may be hostile: providers say some of it."""

    check: str
    level: Level
    message: str
    #: What to do; ``None``: nothing.
    remedy: str | None = None


def examine(conn_ids: Collection[str] = ()) -> Iterator[Finding]:
    """Yield findings as they come.

    :param conn_ids: look at these connections alone; default: every one of a type that is ours, and every one that
        batches were made with.
    """
    yield from _guarded("versions", _versions)
    yield from _guarded("store", _store)
    yield from _guarded("spool", _spool)
    yield from _guarded("prices", _prices)
    yield from _guarded("triggerer", _triggerer)
    yield from _guarded("connections", lambda: _connections(conn_ids))


def _guarded(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Let a check that fails be a finding, so that the others are made."""
    try:
        yield from look()
    except RaifError as error:
        yield Finding(check, Level.PROBLEM, str(error))
    except Exception as error:  # noqa: BLE001 - told, and the next check is made
        yield Finding(check, Level.PROBLEM, f"{type(error).__name__}: {error}")


def _versions() -> Iterator[Finding]:
    from airflow_raif import __version__

    found = f"airflow-raif {__version__}, Airflow {version('apache-airflow')}, Python {platform.python_version()}"
    is_new = sys.version_info >= (3, 11) and _numbers(version("apache-airflow")) >= (3, 2)
    remedy = None if is_new else "install Airflow 3.2 or later, and Python 3.11 or later"
    yield Finding("versions", Level.OK if is_new else Level.PROBLEM, found, remedy)
    there, missing = [], []
    for package, extra in _EXTRAS.items():
        try:
            there.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(f"{package} (extra {extra})")
    absent = f"; not installed: {', '.join(missing)}" if missing else ""
    yield Finding("extras", Level.OK, f"{', '.join(there) or 'none'}{absent}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(".")[:2])


def _store() -> Iterator[Finding]:
    from airflow_raif.hooks.store import find_store, find_store_url, where_store_is_set
    from airflow_raif.store.engine import parse_url, shown
    from airflow_raif.store.migrate import current_revision, head_revision

    address, embedded = find_store_url()
    where = f"{shown(parse_url(address))}, from {where_store_is_set()}"
    if not embedded and (current := current_revision(address)) != head_revision():
        state = "without tables" if current is None else f"at revision {current}, not {head_revision()}"
        yield Finding("store", Level.PROBLEM, f"{where}, is {state}", "run `airflow raif db migrate`")
        return
    store = find_store()
    store.check_write()
    yield Finding("store", Level.OK, f"{where}: reachable, writable, at revision {head_revision()}")
    if not embedded and address.startswith("sqlite"):
        yield Finding(
            "store",
            Level.WARNING,
            "the store is an SQLite file, which only processes of one host can share",
            "use PostgreSQL if workers, triggerer or API server run elsewhere",
        )


def _spool() -> Iterator[Finding]:
    from airflow_raif.hooks.spool import folder_of_results, spool_folder
    from airflow_raif.hooks.store import is_one_host

    for check, option, open_folder in (
        ("spool", "spool_path", spool_folder),
        ("results", "result_path", folder_of_results),
    ):
        where = f"the folder of [raif] {option}"
        try:
            folder = open_folder()
            where = folder.uri
            _probe(folder)
        except Exception as error:  # noqa: BLE001 - whatever a file system raises
            why = f"{where} cannot be used: {type(error).__name__}: {error}"
            remedy = f"set [raif] {option} to a folder that every worker may write, and [raif] spool_conn_id if it"
            yield Finding(check, Level.PROBLEM, why, f"{remedy} needs a connection")
            continue
        yield Finding(check, Level.OK, f"{folder.uri}: a file was written, read, renamed and deleted")
        if folder.uri.startswith(_LOCAL) and not is_one_host():
            executor = conf.get("core", "executor", fallback="")
            yield Finding(
                check,
                Level.WARNING,
                f"{folder.uri} is a local folder, and {executor} runs tasks on several hosts",
                f"set [raif] {option} to object storage, unless that folder is a disk that all hosts share",
            )


def _probe(folder: Folder) -> None:
    name = f"doctor-{uuid4().hex}"
    was_there = folder.fs.exists(folder.path)
    with folder.write(name) as file:
        file.write(b"probe")
    renamed = f"{name}-renamed"
    folder.rename(name, renamed)
    if b"".join(folder.blocks(renamed)()) != b"probe":
        raise OSError("a file does not hold what was written into it")
    folder.remove(renamed)
    if not was_there:
        folder.delete()


def _prices() -> Iterator[Finding]:
    from airflow_raif.hooks.prices import price_book

    price_book()
    own = "[raif] price_table, then " if conf.get("raif", "price_table", fallback="") else ""
    yield Finding("prices", Level.OK, f"{own}genai-prices {version('genai-prices')}")


def _triggerer() -> Iterator[Finding]:
    from airflow_raif.hooks.airflow_compat import triggerer_heartbeat

    beat, is_alive = triggerer_heartbeat()
    if is_alive:
        yield Finding("triggerer", Level.OK, f"alive, last heard of at {beat:%Y-%m-%d %H:%M:%S} UTC")
        return
    seen = "none was ever started" if beat is None else f"last heard of at {beat:%Y-%m-%d %H:%M:%S} UTC"
    yield Finding(
        "triggerer",
        Level.PROBLEM,
        f"no triggerer runs ({seen}), so deferred tasks wait for ever",
        "start `airflow triggerer`, or use deferrable=False",
    )


def _connections(conn_ids: Collection[str]) -> Iterator[Finding]:
    from airflow_raif.hooks.airflow_compat import connections_of_types
    from airflow_raif.hooks.connections import PROVIDER_OF_TYPE

    providers = _providers()
    wanted = set(conn_ids) or {*connections_of_types(PROVIDER_OF_TYPE), *providers}
    if not wanted:
        yield Finding(
            "connections",
            Level.WARNING,
            "no connection to a provider was found; those in a secrets backend are not listed",
            "make one of type raif_openai, raif_anthropic or raif_gemini, or name it with --conn-id",
        )
    for conn_id in sorted(wanted):
        check = f"connection {conn_id}"
        yield from _guarded(check, partial(_connection, check, conn_id, providers.get(conn_id)))


def _providers() -> dict[str, str]:
    """Return the connections that batches were made with of late, and a provider of each."""
    from airflow_raif.hooks.store import find_store

    try:
        return find_store().providers_by_connection(datetime.now(UTC) - RECENT)
    except RaifError:
        # The check of the store tells.
        return {}


def _connection(check: str, conn_id: str, provider: str | None) -> Iterator[Finding]:
    from airflow_raif.adapters.http import HttpTransport
    from airflow_raif.adapters.registry import make_adapter
    from airflow_raif.hooks.connections import resolve

    adapter = make_adapter(resolve(conn_id, f"{provider}:any" if provider else None).settings)
    where = f"{adapter.name} at {adapter.base_url}"
    try:
        with HttpTransport(adapter) as transport:
            answer = transport.send(adapter.check_request(), retry=False)
    except AuthenticationError as error:
        yield Finding(check, Level.PROBLEM, str(error), "put a valid API key into the connection's password")
        return
    except ProviderError as error:
        # A compatible server may not serve that call, and does batches all the same.
        is_refusal = error.status is not None and not error.retryable
        remedy = "see whether the server serves batches" if is_refusal else "see the connection's host, and the network"
        yield Finding(check, Level.WARNING if is_refusal else Level.PROBLEM, str(error), remedy)
        return
    skew = _skew(answer.headers.get("date"))
    if skew is not None and abs(skew) > MAX_SKEW_SECONDS:
        yield Finding(
            check,
            Level.WARNING,
            f"{where} accepts the key; its clock is {skew:+.0f} s off ours",
            "set this host's clock by NTP: a create whose reply was lost is found by its time",
        )
        return
    yield Finding(check, Level.OK, f"{where} accepts the key")


def _skew(date: str | None) -> float | None:
    """Return by how many seconds a provider's clock is ahead of ours."""
    try:
        return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds() if date else None
    except (TypeError, ValueError):
        return None
