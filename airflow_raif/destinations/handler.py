"""Handlers: a DAG author's own code for each result, and for the batch once all of them are through."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import iscoroutinefunction, isgeneratorfunction
from itertools import islice
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_raif.domain.errors import ConfigurationError, HandlerError

if TYPE_CHECKING:
    from airflow_raif.services.results import Results
    from airflow_raif.spool.files import Folder

log = logging.getLogger(__name__)

#: Results after which it is noted how far the handler came.
CHUNK_ROWS = 100
#: A handler that raised for more results than these is stopped; who can take none of a million does not see them all.
MAX_FAILED = 1000
PROGRESS_FILE = "handler.json"
PART_PROGRESS_FILE = "handler-{:05d}.json"
Row = dict[str, Any]


class BatchHandler:
    """What is to become of results. Override ``on_entry`` or ``on_chunk``, and what else is wanted.

    After all results are through, ``on_batch_completion`` is called, then one of ``on_batch_success`` and
    ``on_batch_failure``; if they return, none of it is called for the batch again. A worker that dies is made good by
    the next attempt, which calls again what was going on: of the results those of one chunk at most. Failed rows that a
    person has sent again are brought anew, they alone, and then the batch.

    Of a batch that is applied by parts, each task brings the results of its part to a handler of its own; the task that
    is the last to be through with them calls what follows for the batch.
    """

    def on_entry(self, row: Row) -> None:
        """Take one row of the result file. What it raises is kept from the others; the next attempt brings it again."""

    def on_chunk(self, rows: Sequence[Row]) -> None:
        """Take up to a hundred rows, in the order of the input; if it raises, all of them are brought again."""
        raise NotImplementedError

    def on_batch_completion(self, manifest: Mapping[str, Any]) -> None:
        """Take the manifest of a batch whose results are through, however it ended."""

    def on_batch_success(self, manifest: Mapping[str, Any]) -> None:
        """Take the manifest of a batch that does not fail its task."""

    def on_batch_failure(self, manifest: Mapping[str, Any]) -> None:
        """Take the manifest of a batch that fails its task: canceled, expired, or too many of its entries failed."""


_METHODS = ("on_entry", "on_chunk", "on_batch_completion", "on_batch_success", "on_batch_failure")
#: A handler, its class, the dotted path of one of both, or a function of one row.
Handler = BatchHandler | type[BatchHandler] | Callable[[Row], object] | str


def load_handler(given: Handler) -> BatchHandler:
    """Return a handler.

    :raises ConfigurationError: there is none at a path, it is none, or calling it would do nothing.
    """
    handler = _find_handler(given)
    for name in _METHODS:
        if iscoroutinefunction(method := getattr(handler, name)) or isgeneratorfunction(method):
            raise ConfigurationError(
                f"the handler {given!r:.100} does nothing when it is called, since its {name} is a coroutine or a"
                " generator; write it without async and yield"
            )
    return handler


def _find_handler(given: Handler) -> BatchHandler:
    found: Any = given
    if isinstance(given, str):
        try:
            found = resolve_name(given)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"there is no handler at {given!r}: {error}") from error
    if isinstance(found, type):
        found = found()
    if isinstance(found, BatchHandler):
        return found
    if not callable(found):
        raise ConfigurationError(
            f"the handler {given!r:.100} is a {type(found).__name__}; give a BatchHandler or a function of one row"
        )
    handler = BatchHandler()
    handler.on_entry = found  # type: ignore[method-assign]
    return handler


class _Progress(msgspec.Struct):
    """How far the attempts so far came: rows before ``next`` were brought, and ``failed`` are to be brought again."""

    next: int = 0
    failed: set[int] = set()
    #: How many parts the batch had; if it has more, rows of it were sent again since.
    part_count: int = 0
    #: Only rows are brought that are in a part from this number on; before it is what was brought earlier.
    first_part: int = 0


def handle_results(
    handler: BatchHandler,
    results: Results,
    count: int,
    folder: Folder,
    ids_from: Callable[[int], Iterator[str]],
    part: int | None = None,
) -> None:
    """Bring a handler every result that it did not take before.

    :param count: how many results there are.
    :param folder: keeps how far it came.
    :param ids_from: yields the ids of the rows whose results came with a part from this number on, in their order.
    :param part: number of the part whose results they are; default: they are those of the whole batch.
    :raises HandlerError: it raised for some of the results; they alone come again.
    """
    name = PROGRESS_FILE if part is None else PART_PROGRESS_FILE.format(part)
    progress = _read(folder, name, len(results.batch.parts), count)
    is_new = _among(ids_from(progress.first_part)) if progress.first_part else lambda _: True
    numbered, first = enumerate(results), None
    while chunk := list(islice(numbered, CHUNK_ROWS)):
        wanted = [
            (index, row) for index, row in chunk if (is_new(row) and index >= progress.next) or index in progress.failed
        ]
        # A handler may take a row apart.
        ids = {index: row["custom_id"] for index, row in wanted}
        for index, error in _bring(handler, wanted):
            if error is None:
                progress.failed.discard(index)
                continue
            progress.failed.add(index)
            first = first or f"{ids[index]!r}: {type(error).__name__}: {error}"
        is_last = chunk[-1][0] + 1 == count
        if wanted or is_last:
            progress.next = max(progress.next, chunk[-1][0] + 1)
            with folder.write(name) as file:
                file.write(msgspec.json.encode(progress))
        if len(progress.failed) > MAX_FAILED:
            break
    if progress.failed:
        raise HandlerError(
            f"{type(handler).__name__} could not take {len(progress.failed):,} of {progress.next:,} results; the first"
            f" is {first}. A retry brings it these, and what comes after them"
        )


def end_batch(handler: BatchHandler, manifest: Mapping[str, Any], *, is_success: bool) -> None:
    """Tell a handler of a batch whose results are all through."""
    handler.on_batch_completion(manifest)
    (handler.on_batch_success if is_success else handler.on_batch_failure)(manifest)


def _bring(handler: BatchHandler, rows: Sequence[tuple[int, Row]]) -> Iterator[tuple[int, Exception | None]]:
    """Yield the index of each row, and what the handler raised for it."""
    if type(handler).on_chunk is not BatchHandler.on_chunk:
        error = _raised(handler.on_chunk, [row for _, row in rows]) if rows else None
        yield from ((index, error) for index, _ in rows)
        return
    for index, row in rows:
        yield index, _raised(handler.on_entry, row)


def _raised(take: Callable[[Any], object], given: Any) -> Exception | None:
    try:
        take(given)
    except Exception as error:
        log.exception("A handler could not take a result")
        return error
    return None


def _among(ids: Iterator[str]) -> Callable[[Row], bool]:
    """Return what tells whether a row has one of these ids; rows and ids come in one order."""
    current = next(ids, None)

    def is_among(row: Row) -> bool:
        nonlocal current
        is_found = bool(row["custom_id"] == current)
        if is_found:
            current = next(ids, None)
        return is_found

    return is_among


def _read(folder: Folder, name: str, part_count: int, count: int) -> _Progress:
    progress = _Progress()
    if folder.exists(name):
        progress = msgspec.json.decode(b"".join(folder.blocks(name)()), type=_Progress)
    if 0 < progress.part_count < part_count:
        # Of rows that were not all brought before, all are brought again: what was brought of them is not known.
        first_part = progress.part_count if progress.next >= count else progress.first_part
        progress = _Progress(failed=progress.failed, first_part=first_part)
    progress.part_count = part_count
    return progress
