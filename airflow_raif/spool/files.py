"""A batch's files in one folder of an fsspec file system, written under a temporary name and renamed when whole."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

BLOCK_BYTES = 1 << 18
OpenT = TypeVar("OpenT")


class Folder:
    """A folder on local disk or object storage.

    :param fs: any fsspec file system.
    :param path: the folder in it.
    :param uri: the same place as a user writes it, with its protocol.
    """

    def __init__(self, fs: AbstractFileSystem, path: str, uri: str) -> None:
        self.fs = fs
        self.path = path.rstrip("/")
        self.uri = uri.rstrip("/")

    def child(self, name: str) -> Folder:
        """Return a folder inside this one."""
        return Folder(self.fs, f"{self.path}/{name}", f"{self.uri}/{name}")

    def uri_of(self, name: str) -> str:
        """Return a file's address."""
        return f"{self.uri}/{name}"

    def exists(self, name: str) -> bool:
        """Whether the file is there, whole."""
        return bool(self.fs.exists(f"{self.path}/{name}"))

    def names(self) -> list[str]:
        """Return the names of the files that are there, and of those that are being written."""
        self.fs.invalidate_cache(self.path)
        try:
            return [str(path).rpartition("/")[2] for path in self.fs.ls(self.path, detail=False)]
        except FileNotFoundError:
            return []

    @contextmanager
    def write(self, name: str | Callable[[], str], *, once: bool = False) -> Iterator[IO[bytes]]:
        """Open a file for writing; it appears under its name, and lasts, only if the block ends without an error.

        Bytes are gathered on local disk first, so a crash leaves nothing half-written on object storage.

        :param name: a function is asked for it at the end of the block.
        :param once: a file that is there by the end of the block stays, since others read in it already.
        """
        name_of = name if callable(name) else lambda: name
        self.fs.makedirs(self.path, exist_ok=True)
        if self._is_local:
            temporary = Path(f"{self.path}/{uuid4().hex}.tmp")
            try:
                with temporary.open("wb", buffering=BLOCK_BYTES) as file:
                    yield file
                    file.flush()
                    # The store commits what lies in the file, so it outlasts a loss of power like a commit.
                    os.fsync(file.fileno())
                _publish(temporary, Path(f"{self.path}/{name_of()}"), once=once)
            finally:
                temporary.unlink(missing_ok=True)
            return
        with tempfile.NamedTemporaryFile(prefix="raif-", buffering=BLOCK_BYTES) as file:
            yield file
            file.flush()
            # Object stores show an object only when its upload is complete.
            if not (once and self.exists(name_of())):
                self.fs.put_file(file.name, f"{self.path}/{name_of()}")

    def rename(self, name: str, new_name: str) -> None:
        """Give a whole file another name, in place of any that has it."""
        if self._is_local:
            Path(f"{self.path}/{name}").replace(f"{self.path}/{new_name}")
        else:
            self.fs.mv(f"{self.path}/{name}", f"{self.path}/{new_name}")

    def remove(self, name: str) -> None:
        """Delete a file."""
        self.fs.rm_file(f"{self.path}/{name}")

    def blocks(self, name: str) -> Callable[[], Iterator[bytes]]:
        """Return a function that reads the file from its start in blocks."""

        def read() -> Iterator[bytes]:
            with self._open(name) as file:
                while block := file.read(BLOCK_BYTES):
                    yield block

        return read

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return some bytes of a file, without reading the others.

        :raises FileNotFoundError: it is not there.
        """
        path = f"{self.path}/{name}"
        if self._is_local:
            with Path(path).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        return bytes(self.fs.cat_file(path, start=offset, end=offset + length))

    @contextmanager
    def local_copy(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for reading at any offset, from a local copy if it lies elsewhere."""
        if self._is_local:
            with Path(f"{self.path}/{name}").open("rb") as file:
                yield file
            return
        with tempfile.NamedTemporaryFile(prefix="raif-") as file:
            self.fs.get_file(f"{self.path}/{name}", file.name)
            yield file

    def delete(self) -> bool:
        """Delete the folder with everything in it, also if others do so meanwhile; return whether there was one."""
        was_there = False
        while self.fs.exists(self.path):
            was_there = True
            try:
                self.fs.rm(self.path, recursive=True)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                    raise
        return was_there

    @property
    def _is_local(self) -> bool:
        protocol = self.fs.protocol
        return "file" in (protocol if isinstance(protocol, tuple | list) else (protocol,))

    def _open(self, name: str) -> AbstractContextManager[Any]:
        path = f"{self.path}/{name}"
        return Path(path).open("rb") if self._is_local else self.fs.open(path, "rb")


class OpenFiles(Generic[OpenT]):
    """Files that are read at any offset, of which so many are open, or copied here, at one time: those used last.

    :param wrap: makes of an open file what it is read by.
    """

    def __init__(self, most: int, wrap: Callable[[IO[bytes]], OpenT]) -> None:
        self._most = most
        self._wrap = wrap
        #: The one used last at the end.
        self._open: dict[tuple[str, str], tuple[OpenT, ExitStack]] = {}

    def has_room_for(self, folder: Folder, name: str) -> bool:
        """Whether a file is open, or can be without another being closed for it."""
        return (folder.path, name) in self._open or len(self._open) < self._most

    def get(self, folder: Folder, name: str) -> OpenT:
        """Open a file, unless it is.

        :raises FileNotFoundError: it is not there.
        """
        key = (folder.path, name)
        if key not in self._open:
            with ExitStack() as stack:
                found = self._wrap(stack.enter_context(folder.local_copy(name)))
                self._open[key] = (found, stack.pop_all())
            if len(self._open) > self._most:
                self._open.pop(next(iter(self._open)))[1].close()
        self._open[key] = self._open.pop(key)
        return self._open[key][0]

    def close(self) -> None:
        """Close those that are open."""
        for _, stack in self._open.values():
            stack.close()
        self._open.clear()


def _publish(temporary: Path, final: Path, *, once: bool) -> None:
    if not once:
        temporary.replace(final)
        return
    try:
        os.link(temporary, final)
    except FileExistsError:
        return
    except OSError:
        # A file system without links.
        if not final.exists():
            temporary.replace(final)


def requests_file(part_number: int) -> str:
    """Name of a part's requests, exactly as sent."""
    return f"part-{part_number:05d}.requests.jsonl"


def results_file(part_number: int) -> str:
    """Name of a part's results, exactly as received."""
    return f"part-{part_number:05d}.results.jsonl"


def answer_file(part_number: int, call: int) -> str:
    """Name of one synchronous call's answer, until the part's results are whole."""
    return f"part-{part_number:05d}.answer-{call:05d}.jsonl"


def rows_file(start: int, end: int) -> str:
    """Name of the file of the own columns of the rows from ``start`` to before ``end``, a line each in input order."""
    return f"rows-{start:09d}-{end:09d}.jsonl"


_ROWS_FILE = re.compile(r"rows-(\d{9,})-(\d{9,})\.jsonl")


def rows_in(name: str) -> tuple[int, int] | None:
    """Return start and end of the rows in a file of this name; ``None``: it is none of their columns."""
    found = _ROWS_FILE.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None
