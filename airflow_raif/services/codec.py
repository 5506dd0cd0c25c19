"""Codec: what writes requests, and reads their answers, in a form that the core does not know itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from airflow_raif.adapters.base import Adapter
from airflow_raif.domain.batch import Batch
from airflow_raif.domain.request import RequestDefaults
from airflow_raif.domain.result import EntryResult

if TYPE_CHECKING:
    from airflow_raif.spool.files import Folder

#: Name of the file, beside a batch's requests, that tells how its answers are read; most batches have none.
CODEC_FILE = "codec.json"


class AnswerReader(Protocol):
    """Reads the answers of one batch."""

    #: Whether the output is made of calls of tools, too, which then are not beside it in the result row.
    takes_tool_calls: ClassVar[bool]

    def output(self, raw: bytes, result: EntryResult, /) -> Any:
        """Return what a completed answer means, as JSON knows it.

        :param raw: the row as the provider gave it.
        :raises InvalidOutputError: it is not what the batch asked for.
        """


class Codec(Protocol):
    """Writes and reads what the core does not know itself."""

    def requests(self, rows: Iterable[Any], defaults: RequestDefaults, adapter: Adapter) -> Iterable[Any]:
        """Yield the rows, those in a form of the codec's own as requests with a native body.

        :raises InvalidRequestError: one cannot be sent; names the row.
        """

    def recipe(self) -> Mapping[str, Any] | None:
        """Return what :meth:`reader` has to know of a batch, as JSON; ``None``: the core reads the answers itself."""

    def reader(self, batch: Batch, recipe: Mapping[str, Any]) -> AnswerReader:
        """Return what reads the answers of a batch that was made with a recipe.

        :raises ConfigurationError: what read it is not here.
        """

    def response(self, raw: bytes, reading: bytes, batch: Batch) -> msgspec.Raw | None:
        """Return a completed answer of a single request as JSON in the codec's own form.

        :param reading: the :attr:`~airflow_raif.domain.request.EntryRequest.reading` of the request.
        """


def save_recipe(folder: Folder, codec: Codec | None) -> None:
    """Keep with a batch how its answers are read, if it is not as usual."""
    if codec is not None and (recipe := codec.recipe()) is not None:
        with folder.write(CODEC_FILE) as file:
            file.write(msgspec.json.encode(recipe))


def load_recipe(folder: Folder) -> Mapping[str, Any] | None:
    """Return how a batch's answers are read; ``None``: as usual."""
    if not folder.exists(CODEC_FILE):
        return None
    found: Mapping[str, Any] = msgspec.json.decode(b"".join(folder.blocks(CODEC_FILE)()))
    return found
