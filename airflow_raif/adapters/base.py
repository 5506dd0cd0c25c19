"""The contract of a provider adapter: pure builders and parsers, and the few calls made of several requests."""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from airflow_raif.adapters.redaction import Secrets
from airflow_raif.adapters.text_form import encode_json
from airflow_raif.domain.batch import PartState
from airflow_raif.domain.queue import Quota
from airflow_raif.domain.request import EntryRequest, RequestDefaults
from airflow_raif.domain.result import EntryError, EntryResult
from airflow_raif.domain.status import BatchStatus

log = logging.getLogger(__name__)

#: Headers of a call with a JSON body.
JSON = {"content-type": "application/json"}


#: An address with a user and a password in it.
_USER = re.compile("([^:/?#]+://)([^/?#]*)@(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ConnectionSettings:
    """What an adapter needs of a connection. Its repr never shows a secret."""

    provider: str
    api_key: str = field(repr=False)
    #: ``None``: the provider's public address. A user and password in it are sent as a header.
    base_url: str | None = None
    #: Extra headers for every call (organization, beta flags); they stand above the key's own.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: float = 60.0
    #: Overrides of :class:`Limits` fields by name.
    limits: Mapping[str, int] = field(default_factory=dict)
    #: ``max_enqueued_tokens`` and ``max_enqueued_requests``: a number, or one by model.
    queue_limits: Mapping[str, int | Mapping[str, int]] = field(default_factory=dict)
    #: What all batches of the connection that are sent in one day (UTC) may cost together, in picodollars.
    max_cost_per_day: int | None = None

    def __post_init__(self) -> None:
        # A key pasted with its line end is common, and h11 quotes a header with one in its error.
        object.__setattr__(self, "api_key", self.api_key.strip())
        address, headers = self.base_url, {name: value.strip() for name, value in self.headers.items()}
        if address is not None and (found := _USER.match(address)):
            # An address is logged and shown; a header is not.
            scheme, user, rest = found.groups()
            object.__setattr__(self, "base_url", scheme + rest)
            headers = {"Authorization": f"Basic {b64encode(unquote(user).encode()).decode()}", **headers}
        object.__setattr__(self, "headers", headers)


@dataclass(frozen=True)
class Limits:
    """What one part may hold."""

    max_requests: int
    max_bytes: int
    #: Bytes of one request line.
    max_request_bytes: int
    #: Embedding inputs in one part; ``None``: no such limit.
    max_embedding_inputs: int | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """One HTTP request, without the auth headers (the transport adds those)."""

    method: str
    #: Path with query, relative to the base URL; or an absolute URL, followed only on the base URL's own host.
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Bytes, or a factory of byte blocks, so that a repeated call reads the body anew.
    content: bytes | Callable[[], Iterable[bytes]] | None = None
    #: Needed with a block factory, so that the body is not sent chunked.
    content_length: int | None = None


@dataclass(frozen=True)
class Response:
    """A successful answer; failures are raised as :class:`~airflow_raif.domain.errors.ProviderError`.

    If the provider repeats a secret of the connection in the content, it is struck out there.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes


class Transport(Protocol):
    """Synchronous calls, for workers."""

    def send(self, request: Request, *, retry: bool = True) -> Response:
        """Send and read the whole answer; ``retry=False`` sends exactly once."""
        ...

    def stream(self, request: Request) -> AbstractContextManager[Iterator[bytes]]:
        """Open an answer and yield its body in blocks, as they come."""
        ...


@dataclass(frozen=True, kw_only=True)
class SpooledPart:
    """The requests of a part as they lie in the spool."""

    #: Our batch id and the part's number; what the tag is made of.
    batch_id: str
    number: int
    model: str
    endpoint: str
    request_count: int
    request_bytes: int
    #: Opens the part's request lines for reading in blocks: each line ends with ``\n``; may be called again.
    blocks: Callable[[], Iterator[bytes]]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The mark our create leaves on the provider's batch."""
        return f"raif-{self.batch_id}-{self.number}"


@dataclass(frozen=True)
class ListPage:
    """One page of a provider's batch list, newest first."""

    parts: list[PartState]
    next_cursor: str | None


@dataclass(frozen=True)
class Lookup:
    """What finding a lost create needs."""

    part: SpooledPart
    #: Unix seconds by :attr:`clock`; the create was sent after this.
    intent_at: float
    #: Where the upload went, if there was one.
    input_ref: str | None
    #: Our clock, which the provider's may not agree with.
    clock: Callable[[], float] = time.time


@lru_cache(maxsize=100)
def unknown_status(provider: str, word: str) -> BatchStatus:
    """Return what a provider's unknown status word counts as; warn of it once, since all its batches may have it."""
    log.warning("%s says of a batch that it is %r, which is unknown; polling goes on", provider, word)
    return BatchStatus.IN_PROGRESS


def _name_in(holder: Mapping[str, Any], names: Sequence[str]) -> str:
    return next((each for each in names if each in holder), names[0])


class Adapter(ABC):
    """One provider's Batch API. Instances hold settings only, no connection."""

    name: ClassVar[str]
    #: The first is the default.
    endpoints: ClassVar[tuple[str, ...]]
    default_base_url: ClassVar[str]
    #: The provider's own page of the batches of a key's account; ``None``: it has none that it documents.
    console_url: ClassVar[str | None] = None
    #: Limits by endpoint.
    default_limits: ClassVar[Limits]
    can_cancel: ClassVar[bool] = True
    #: Whether the provider counts what is queued by model, not for all models together.
    has_queue_per_model: ClassVar[bool] = True
    #: Whether a create carries a tag that a lookup can read back.
    has_tag: ClassVar[bool] = True
    #: Whether the list of batches is known to begin with the newest, so that a lookup may stop at older ones.
    lists_newest_first: ClassVar[bool] = True
    #: Where a spooled request holds its limit of output tokens, by endpoint: the names that each step to it may have.
    output_limits: ClassVar[Mapping[str, tuple[tuple[str, ...], ...]]] = {}
    #: How long the provider keeps results after the create, and uploads; ``None``: no such end is known.
    results_kept: ClassVar[timedelta | None] = None
    uploads_kept: ClassVar[timedelta | None] = None
    #: Under which names a part's refs hold files at the provider that :meth:`delete_file_request` can delete.
    file_refs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings

    @property
    def limits(self) -> Limits:
        """The provider's limits with the connection's overrides."""
        return Limits(**{**self.default_limits.__dict__, **self.settings.limits})

    def quota(self, model: str) -> Quota:
        """Return what the connection says may be queued of a model at once."""

        def limit(name: str) -> int | None:
            found = self.settings.queue_limits.get(name)
            return found.get(model) if isinstance(found, Mapping) else found

        name = model if self.has_queue_per_model else ""
        return Quota(name, limit("max_enqueued_tokens"), limit("max_enqueued_requests"))

    @property
    def base_url(self) -> str:
        """Where calls go, without a slash at the end."""
        return (self.settings.base_url or self.default_base_url).rstrip("/")

    @property
    def is_providers_own(self) -> bool:
        """Whether calls go to the provider itself, and not to another server that speaks as it does."""
        return urlsplit(self.base_url).hostname == urlsplit(self.default_base_url).hostname

    def console_page(self, provider_batch_ids: Sequence[str]) -> str | None:
        """Return the provider's own page of batch jobs; ``None``: it has none, or they run at somebody else's.

        :param provider_batch_ids: those to be shown.
        """
        return self.console_url if self.is_providers_own else None

    @cached_property
    def secrets(self) -> Secrets:
        """What of the connection is told to nobody but the provider."""
        return Secrets(self.settings.api_key, self.settings.headers)

    @abstractmethod
    def auth_headers(self) -> dict[str, str]:
        """Headers that carry the key; added by the transport, never logged."""

    # Requests

    @abstractmethod
    def make_encoder(self, defaults: RequestDefaults) -> Callable[[EntryRequest, str], bytes]:
        """Check the batch's defaults once and return a function (request, wire id) -> one line, without line end.

        :raises InvalidRequestError: the schema or a field cannot be expressed for this provider (``row`` unset;
            the caller fills it in).
        """

    def count_embedding_inputs(self, request: EntryRequest) -> int:
        """Embedding inputs in one request; 0 where the endpoint is not embeddings."""
        return 0

    def resolve_endpoint(self, endpoint: str) -> str:
        """Return the endpoint, or the default for ``""``.

        :raises InvalidBatchError: the provider has no such batch endpoint.
        """
        from airflow_raif.domain.errors import InvalidBatchError

        if not endpoint:
            return self.endpoints[0]
        if endpoint not in self.endpoints:
            raise InvalidBatchError(
                f"{self.name} has no batch endpoint {endpoint!r}; use one of {', '.join(self.endpoints)}"
            )
        return endpoint

    def with_max_tokens(self, line: bytes, endpoint: str, max_tokens: int) -> bytes | None:
        """Return a spooled request with a higher limit of output tokens; ``None``: the one it has is as high."""
        row = holder = msgspec.json.decode(line)
        *path, names = self.output_limits[endpoint]
        for step in path:
            holder = holder.setdefault(_name_in(holder, step), {})
        name = _name_in(holder, names)
        if (holder.get(name) or 0) >= max_tokens:
            return None
        holder[name] = max_tokens
        return encode_json(row)

    # Submit: upload may be repeated, create is sent once

    @abstractmethod
    def upload(self, transport: Transport, part: SpooledPart) -> str | None:
        """Upload the requests where the provider wants a file first; return its id. Safe to repeat."""

    @abstractmethod
    def create(self, transport: Transport, part: SpooledPart, input_ref: str | None) -> PartState:
        """Send the one request that creates a batch job, exactly once.

        :raises TransientProviderError: with ``maybe_sent`` telling whether it may have been created.
        """

    @abstractmethod
    def find(self, transport: Transport, lookup: Lookup) -> list[PartState]:
        """Find what a create whose reply was lost may have made; none only if there certainly is none.

        :raises AmbiguousSubmitError: that cannot be told.
        """

    # Synchronous calls, for the last few entries

    @abstractmethod
    def synchronous_request(self, line: bytes, endpoint: str, model: str) -> Request:
        """Build the synchronous call of one spooled request."""

    @abstractmethod
    def synchronous_row(self, line: bytes, answer: bytes | None, error: EntryError | None) -> bytes:
        """Return a call's answer, or its error, as the row that a batch's results would have."""

    # Poll

    @abstractmethod
    def get_request(self, provider_batch_id: str) -> Request:
        """Build the request for one batch job's state."""

    @abstractmethod
    def parse_part(self, content: bytes) -> PartState:
        """Read one batch job's state. An unknown status is ``in_progress``, with a warning."""

    @abstractmethod
    def list_request(self, cursor: str | None = None, size: int = 100) -> Request:
        """Build the request for one page of batch jobs, newest first.

        :param size: how many would do; a page may hold fewer or more.
        """

    @abstractmethod
    def parse_list(self, content: bytes) -> ListPage:
        """Read one page."""

    @abstractmethod
    def cancel_request(self, provider_batch_id: str) -> Request:
        """Build the request that asks for cancellation."""

    # Results

    @abstractmethod
    def result_blocks(self, transport: Transport, state: PartState) -> Generator[bytes]:
        """Stream the raw result rows of a terminal batch job in blocks of bytes.

        Rows end with ``\\n`` (the last may not); files follow each other with a line end between. Inline results
        are written out as the rows a file would have. No results at all is an empty stream, not an error.
        """

    @abstractmethod
    def apply_batch_result(self, raw: bytes) -> EntryResult:
        """Read one raw result row. Pure.

        :raises MalformedResponseError: it is not a row with an id.
        """

    # Housekeeping

    @abstractmethod
    def check_request(self) -> Request:
        """Build the cheapest request that proves the key works."""

    @abstractmethod
    def delete_file_request(self, ref: str) -> Request | None:
        """Build the request that deletes an uploaded or result file; ``None``: the provider has no files."""
