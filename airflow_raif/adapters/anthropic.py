"""Anthropic's Message Batches API.

Source: https://docs.anthropic.com/en/api/creating-message-batches
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from airflow_raif.adapters.anthropic_results import read_row
from airflow_raif.adapters.base import (
    JSON,
    Adapter,
    Limits,
    ListPage,
    Lookup,
    Request,
    SpooledPart,
    Transport,
    unknown_status,
)
from airflow_raif.adapters.lookup import first_wire_id, listed
from airflow_raif.adapters.schemas import anthropic_schema
from airflow_raif.adapters.text_form import line_encoder, merge_params, split_system, text_messages
from airflow_raif.domain.batch import Counts, PartState
from airflow_raif.domain.errors import InvalidRequestError, MalformedResponseError
from airflow_raif.domain.request import EntryRequest, RequestDefaults
from airflow_raif.domain.result import EntryError, EntryResult
from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.wire_id import wire_prefix

BATCHES = "/v1/messages/batches"
#: What the system prompt of a whole batch is marked with: those of its requests that come later read it from the
#: provider's cache, at a tenth of the input's price; the hour is what the provider advises for batches.
#: https://docs.anthropic.com/en/docs/build-with-claude/batch-processing#using-prompt-caching-with-message-batches
_CACHED_FOR = {"type": "ephemeral", "ttl": "1h"}
#: Bytes of a system prompt from which on it may have the 1,024 tokens that the provider caches at the least.
_LEAST_CACHED_BYTES = 4096
#: https://docs.anthropic.com/en/docs/build-with-claude/extended-thinking
_LEAST_THINKING = 1024
#: What stands around the requests in the body of a create.
_HEAD, _TAIL = b'{"requests":[', b"]}"


class _Counts(msgspec.Struct, gc=False):
    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0

    @property
    def total(self) -> int:
        return self.processing + self.succeeded + self.errored + self.canceled + self.expired


class _Batch(msgspec.Struct, gc=False):
    id: str
    processing_status: str
    request_counts: _Counts | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    cancel_initiated_at: datetime | None = None
    results_url: str | None = None


class _Page(msgspec.Struct):
    data: list[_Batch]
    has_more: bool = False
    last_id: str | None = None


class _Sent(msgspec.Struct):
    custom_id: str
    params: msgspec.Raw


_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_page = msgspec.json.Decoder(_Page).decode
_decode_sent = msgspec.json.Decoder(_Sent).decode
_encode = msgspec.json.Encoder().encode


class AnthropicAdapter(Adapter):
    """Anthropic. A create carries no tag, so a lost one is found by time, size and the ids in its results."""

    name = "anthropic"
    endpoints: ClassVar[tuple[str, ...]] = ("/v1/messages",)
    default_base_url = "https://api.anthropic.com"
    #: https://platform.claude.com/docs/en/build-with-claude/batch-processing, "Tracking your batch"
    console_url = "https://platform.claude.com/settings/workspaces/default/batches"
    output_limits: ClassVar[dict[str, tuple[tuple[str, ...], ...]]] = {"/v1/messages": (("params",), ("max_tokens",))}
    default_limits = Limits(max_requests=100_000, max_bytes=256 * 1000 * 1000, max_request_bytes=256 * 1000 * 1000)
    has_tag = False
    # https://docs.anthropic.com/en/api/rate-limits: those of the Message Batches API are shared across all models.
    has_queue_per_model = False
    # https://docs.anthropic.com/en/docs/build-with-claude/batch-processing
    results_kept = timedelta(days=29)

    @property
    def base_url(self) -> str:
        """The base URL as Anthropic's SDK takes it, without ``/v1``."""
        return super().base_url.removesuffix("/v1")

    @property
    def limits(self) -> Limits:
        """The limits of the requests alone: the provider's are of the whole body that they travel in."""
        limits = super().limits
        return replace(limits, max_bytes=limits.max_bytes - len(_HEAD) - len(_TAIL) + 1)

    def auth_headers(self) -> dict[str, str]:
        """Return the key header and the API version whose shapes this file reads."""
        return {"x-api-key": self.settings.api_key, "anthropic-version": "2023-06-01"}

    # Requests

    def make_encoder(self, defaults: RequestDefaults) -> Callable[[EntryRequest, str], bytes]:
        """Return a function that writes one item of ``requests``."""
        self.resolve_endpoint(defaults.endpoint)
        shared: dict[str, Any] = {}
        if defaults.output_schema:
            schema = anthropic_schema(defaults.output_schema)
            shared["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        shared = merge_params(shared, defaults.params)

        def params_of(request: EntryRequest) -> dict[str, Any]:
            if request.body is not None:
                params = {"model": request.model or defaults.model, **request.body}
            else:
                params = _params(request, defaults) | shared
            params = merge_params(params, request.params)
            _check(params)
            return params

        return line_encoder(b'{"custom_id":"', b'","params":', params_of)

    # Submit

    def upload(self, transport: Transport, part: SpooledPart) -> str | None:
        """Do nothing: the requests travel in the create itself."""
        return None

    def create(self, transport: Transport, part: SpooledPart, input_ref: str | None) -> PartState:
        """Send the requests, streamed from the spool, once."""

        def body() -> Iterator[bytes]:
            yield _HEAD
            held = b""
            for block in filter(None, part.blocks()):
                # Each line end becomes a comma, but for the last one.
                yield held
                held = block.replace(b"\n", b",")
            yield held[:-1]
            yield _TAIL

        request = Request(
            method="POST",
            path=BATCHES,
            headers=JSON,
            content=body,
            content_length=len(_HEAD) + part.request_bytes - 1 + len(_TAIL),
        )
        return self.parse_part(transport.send(request, retry=False).content)

    def find(self, transport: Transport, lookup: Lookup) -> list[PartState]:
        """Find batches created since the intent with as many requests, leaving out those known to be others."""
        recent = [state for state, is_recent in listed(self, transport, lookup) if is_recent]
        return [each for each in recent if self._may_be(transport, each, lookup.part)]

    def _may_be(self, transport: Transport, state: PartState, part: SpooledPart) -> bool:
        """Whether a batch may be the part: the ids in its results tell, and without any its size."""
        if state.status.is_terminal and (wire_id := first_wire_id(self, transport, state)) is not None:
            return wire_id.startswith(wire_prefix(part.batch_id))
        return state.counts is None or state.counts.total == part.request_count

    # Synchronous calls

    def synchronous_request(self, line: bytes, endpoint: str, model: str) -> Request:
        """Build ``POST /v1/messages``."""
        return Request(method="POST", path=endpoint, headers=JSON, content=bytes(_decode_sent(line).params))

    def synchronous_row(self, line: bytes, answer: bytes | None, error: EntryError | None) -> bytes:
        """Return a row of the results."""
        result: dict[str, Any] = {"type": "succeeded", "message": msgspec.Raw(answer or b"")}
        if error is not None:
            result = {"type": "errored", "error": {"type": error.code, "message": error.message}}
        return _encode({"custom_id": _decode_sent(line).custom_id, "result": result})

    # Poll

    def get_request(self, provider_batch_id: str) -> Request:
        """Build ``GET /v1/messages/batches/{id}``."""
        return Request(method="GET", path=f"{BATCHES}/{provider_batch_id}")

    def parse_part(self, content: bytes) -> PartState:
        """Read a message batch."""
        try:
            return _state(_decode_batch(content))
        except msgspec.MsgspecError as error:
            raise MalformedResponseError(
                f"anthropic's answer is no message batch: {error}", provider=self.name
            ) from error

    def list_request(self, cursor: str | None = None, size: int = 100) -> Request:
        """Build ``GET /v1/messages/batches``; a page holds up to 1,000."""
        after = f"&after_id={quote(cursor)}" if cursor else ""
        return Request(method="GET", path=f"{BATCHES}?limit={min(max(size, 100), 1000)}{after}")

    def parse_list(self, content: bytes) -> ListPage:
        """Read a page."""
        try:
            page = _decode_page(content)
        except msgspec.MsgspecError as error:
            raise MalformedResponseError(f"anthropic's answer is no list: {error}", provider=self.name) from error
        last = page.last_id or (page.data[-1].id if page.data else None)
        return ListPage([_state(each) for each in page.data], last if page.has_more else None)

    def cancel_request(self, provider_batch_id: str) -> Request:
        """Build ``POST /v1/messages/batches/{id}/cancel``."""
        return Request(method="POST", path=f"{BATCHES}/{provider_batch_id}/cancel")

    # Results

    def result_blocks(self, transport: Transport, state: PartState) -> Generator[bytes]:
        """Stream the results from the connection's own host, whatever host ``results_url`` names."""
        request = Request(method="GET", path=f"{BATCHES}/{state.provider_batch_id}/results")
        with transport.stream(request) as blocks:
            yield from blocks

    def apply_batch_result(self, raw: bytes) -> EntryResult:
        """Read one row of the results."""
        return read_row(raw)

    # Housekeeping

    def check_request(self) -> Request:
        """Build ``GET /v1/models``."""
        return Request(method="GET", path="/v1/models?limit=1")

    def delete_file_request(self, ref: str) -> Request | None:
        """Return nothing: batches here have no files."""
        return None


def _params(request: EntryRequest, defaults: RequestDefaults) -> dict[str, Any]:
    """https://docs.anthropic.com/en/api/messages."""
    params: dict[str, Any] = {
        "model": request.model or defaults.model,
        "max_tokens": defaults.max_tokens if request.max_tokens is None else request.max_tokens,
    }
    system = defaults.system if request.system is None else request.system
    system, messages = split_system(text_messages(request), system)
    if system is not None:
        params["system"] = _system_blocks(system) if _is_worth_caching(system, defaults) else system
    temperature = defaults.temperature if request.temperature is None else request.temperature
    if temperature is not None:
        params["temperature"] = temperature
    params["messages"] = messages
    return params


def _check(params: Mapping[str, Any]) -> None:
    """Refuse what the provider does, too, but only once a batch has run."""
    max_tokens, temperature, thinking = (params.get(name) for name in ("max_tokens", "temperature", "thinking"))
    if not max_tokens:
        raise InvalidRequestError("Anthropic wants max_tokens with every request; set it for the batch or the row")
    if isinstance(temperature, int | float) and not 0 <= temperature <= 1:
        raise InvalidRequestError(f"Anthropic takes a temperature from 0 to 1, not {temperature}")
    budget = thinking.get("budget_tokens") if isinstance(thinking, Mapping) and isinstance(max_tokens, int) else None
    # Between calls of tools the budget may be more than the tokens of one answer.
    is_too_much = not params.get("tools") and isinstance(budget, int) and budget >= max_tokens
    if isinstance(budget, int) and (budget < _LEAST_THINKING or is_too_much):
        raise InvalidRequestError(
            f"Anthropic takes {_LEAST_THINKING:,} tokens of thinking or more, and less than max_tokens, not {budget:,}"
            f" of {max_tokens:,}"
        )
    if budget is not None and temperature not in (None, 1):
        raise InvalidRequestError(f"Anthropic takes no temperature of {temperature} beside thinking; leave it out")


def _is_worth_caching(system: str, defaults: RequestDefaults) -> bool:
    if system != defaults.system or defaults.cache_system is False:
        return False
    return defaults.cache_system is True or len(system.encode()) >= _LEAST_CACHED_BYTES


def _system_blocks(system: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": system, "cache_control": _CACHED_FOR}]


def _state(batch: _Batch) -> PartState:
    counts = batch.request_counts
    return PartState(
        provider_batch_id=batch.id,
        status=_status(batch, counts or _Counts()),
        raw_status=batch.processing_status,
        counts=Counts(counts.total, counts.succeeded, counts.errored + counts.canceled + counts.expired)
        if counts
        else None,
        refs={"results_url": batch.results_url} if batch.results_url else {},
        created_at=batch.created_at,
        expires_at=batch.expires_at,
    )


def _status(batch: _Batch, counts: _Counts) -> BatchStatus:
    """A batch that was canceled or expired is ``ended`` here too; its counts tell."""
    if batch.processing_status == "ended":
        if batch.cancel_initiated_at is not None and counts.canceled:
            return BatchStatus.CANCELED
        return BatchStatus.EXPIRED if counts.expired else BatchStatus.ENDED
    if batch.processing_status not in ("in_progress", "canceling"):
        return unknown_status("anthropic", batch.processing_status)
    return BatchStatus.IN_PROGRESS
