"""OpenAI's Batch API, and servers that speak it: /v1/responses, /v1/chat/completions, /v1/embeddings.

Source: https://platform.openai.com/docs/api-reference/batch
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit
from uuid import uuid4

import msgspec

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
from airflow_raif.adapters.lookup import find_by_tag
from airflow_raif.adapters.openai_requests import chat_body, embeddings_body, responses_body
from airflow_raif.adapters.openai_results import read_row
from airflow_raif.adapters.text_form import line_encoder, merge_params
from airflow_raif.domain.batch import Counts, PartState
from airflow_raif.domain.errors import InvalidRequestError, MalformedResponseError
from airflow_raif.domain.queue import Refusal
from airflow_raif.domain.request import EntryRequest, RequestDefaults
from airflow_raif.domain.result import EntryError, EntryResult
from airflow_raif.domain.status import BatchStatus

RESPONSES, CHAT, EMBEDDINGS = "/v1/responses", "/v1/chat/completions", "/v1/embeddings"

_STATUSES = {
    "validating": BatchStatus.IN_PROGRESS,
    "in_progress": BatchStatus.IN_PROGRESS,
    "finalizing": BatchStatus.IN_PROGRESS,
    "cancelling": BatchStatus.IN_PROGRESS,
    "completed": BatchStatus.ENDED,
    "failed": BatchStatus.FAILED,
    "expired": BatchStatus.EXPIRED,
    "cancelled": BatchStatus.CANCELED,
}
#: The most batches that a page of the list holds.
_PAGE = 100
#: Key of our tag in a batch's metadata.
TAG = "raif"
#: https://platform.openai.com/docs/api-reference/responses/create#responses-create-max_output_tokens
_LEAST_OUTPUT_TOKENS = 16
_MAX_PAIRS, _MAX_KEY, _MAX_VALUE = 16, 64, 512


class _Counts(msgspec.Struct, gc=False):
    total: int = 0
    completed: int = 0
    failed: int = 0


class _Error(msgspec.Struct, gc=False):
    code: str | None = None
    message: str | None = None
    line: int | None = None


class _Errors(msgspec.Struct, gc=False):
    data: list[_Error] | None = None


class _Batch(msgspec.Struct, gc=False):
    """The batch object, as far as it is needed; compatible servers leave out much."""

    id: str
    status: str
    errors: _Errors | None = None
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: _Counts | None = None
    created_at: float | None = None
    expires_at: float | None = None
    metadata: dict[str, Any] | None = None


class _Page(msgspec.Struct):
    data: list[_Batch]
    has_more: bool | None = None
    last_id: str | None = None


class _File(msgspec.Struct):
    id: str


_decode_batch = msgspec.json.Decoder(_Batch, strict=False).decode
_decode_page = msgspec.json.Decoder(_Page, strict=False).decode


class _Sent(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw


_decode_sent = msgspec.json.Decoder(_Sent).decode
_decode_file = msgspec.json.Decoder(_File).decode
_encode = msgspec.json.Encoder().encode


class OpenAIAdapter(Adapter):
    """OpenAI and compatible servers."""

    name = "openai"
    endpoints: ClassVar[tuple[str, ...]] = (RESPONSES, CHAT, EMBEDDINGS)
    default_base_url = "https://api.openai.com/v1"
    console_url = "https://platform.openai.com/batches"
    output_limits: ClassVar[dict[str, tuple[tuple[str, ...], ...]]] = {
        RESPONSES: (("body",), ("max_output_tokens",)),
        CHAT: (("body",), ("max_completion_tokens", "max_tokens")),
    }
    # https://platform.openai.com/docs/guides/batch
    results_kept = timedelta(days=30)
    file_refs: ClassVar[tuple[str, ...]] = ("input_file_id", "output_file_id", "error_file_id")
    default_limits = Limits(
        max_requests=50_000,
        max_bytes=200 * 1000 * 1000,
        max_request_bytes=200 * 1000 * 1000,
        max_embedding_inputs=50_000,
    )

    @property
    def base_url(self) -> str:
        """The base URL as OpenAI's SDK takes it, with or without its ``/v1``."""
        url = super().base_url
        path = urlsplit(url).path
        return url if path.endswith("/v1") or "/v1/" in path or "/openai" in path else f"{url}/v1"

    def console_page(self, provider_batch_ids: Sequence[str]) -> str | None:
        """Return the page of one batch job, or that of all."""
        page = super().console_page(provider_batch_ids)
        if page is None or len(provider_batch_ids) != 1:
            return page
        return f"{page}/{quote(provider_batch_ids[0], safe='')}"

    def auth_headers(self) -> dict[str, str]:
        """Return the bearer header."""
        return {"authorization": f"Bearer {self.settings.api_key}"}

    # Requests

    def make_encoder(self, defaults: RequestDefaults) -> Callable[[EntryRequest, str], bytes]:
        """Return a function that writes one line of an input file."""
        endpoint = self.resolve_endpoint(defaults.endpoint)
        make_body = {RESPONSES: responses_body, CHAT: chat_body, EMBEDDINGS: embeddings_body}[endpoint](defaults)
        # The envelope is the same for every row but for its id, which needs no escaping.
        head, middle = b'{"custom_id":"', f'","method":"POST","url":"{endpoint}","body":'.encode()

        def body_of(request: EntryRequest) -> dict[str, Any]:
            if request.body is not None:
                body = {"model": request.model or defaults.model, **request.body}
            else:
                body = make_body(request)
            body = merge_params(body, request.params)
            limit = body.get("max_output_tokens")
            # Refused here, since it would be only once the batch has run; other servers may take less.
            if isinstance(limit, int) and limit < _LEAST_OUTPUT_TOKENS and self.is_providers_own:
                raise InvalidRequestError(
                    f"OpenAI's {RESPONSES} takes max_tokens from {_LEAST_OUTPUT_TOKENS} on, not {limit}; raise it, or"
                    f" use {CHAT}"
                )
            return body

        return line_encoder(head, middle, body_of)

    def count_embedding_inputs(self, request: EntryRequest) -> int:
        """Count the inputs of a native embeddings body; a prompt is one, as is what /v1/responses takes as input."""
        inputs = (request.body or {}).get("input")
        # Several inputs are texts or lists of tokens; numbers are the tokens of one, mappings the items of a response.
        return len(inputs) if isinstance(inputs, list) and inputs and isinstance(inputs[0], str | list) else 1

    # Submit

    def upload(self, transport: Transport, part: SpooledPart) -> str | None:
        """Upload the lines as a file of purpose ``batch``."""
        boundary = uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{part.tag}.jsonl"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()

        def body() -> Iterator[bytes]:
            yield head
            yield from part.blocks()
            yield tail

        request = Request(
            method="POST",
            path="/files",
            headers={"content-type": f"multipart/form-data; boundary={boundary}"},
            content=body,
            content_length=len(head) + part.request_bytes + len(tail),
        )
        try:
            return _decode_file(transport.send(request).content).id
        except msgspec.MsgspecError as error:
            raise MalformedResponseError(
                f"openai's answer to the upload has no file id: {error}", provider=self.name
            ) from error

    def create(self, transport: Transport, part: SpooledPart, input_ref: str | None) -> PartState:
        """Create the batch of an uploaded file, once."""
        body = {
            "input_file_id": input_ref,
            "endpoint": part.endpoint,
            "completion_window": "24h",
            "metadata": {**_metadata(part.metadata), TAG: part.tag},
        }
        request = Request(method="POST", path="/batches", headers=JSON, content=_encode(body))
        return self.parse_part(transport.send(request, retry=False).content)

    def find(self, transport: Transport, lookup: Lookup) -> list[PartState]:
        """Look through the newest batches for the part's tag."""
        return find_by_tag(self, transport, lookup)

    # Synchronous calls

    def synchronous_request(self, line: bytes, endpoint: str, model: str) -> Request:
        """Build ``POST`` of the endpoint itself."""
        body = _decode_sent(line).body
        return Request(method="POST", path=endpoint.removeprefix("/v1"), headers=JSON, content=bytes(body))

    def synchronous_row(self, line: bytes, answer: bytes | None, error: EntryError | None) -> bytes:
        """Return a line of an output or error file."""
        response = None if answer is None else {"status_code": 200, "body": msgspec.Raw(answer)}
        return _encode({"custom_id": _decode_sent(line).custom_id, "response": response, "error": error})

    # Poll

    def get_request(self, provider_batch_id: str) -> Request:
        """Build ``GET /batches/{id}``."""
        return Request(method="GET", path=f"/batches/{provider_batch_id}")

    def parse_part(self, content: bytes) -> PartState:
        """Read a batch object."""
        try:
            return _state(_decode_batch(content))
        except msgspec.MsgspecError as error:
            raise MalformedResponseError(f"openai's answer is no batch: {error}", provider=self.name) from error

    def list_request(self, cursor: str | None = None, size: int = 100) -> Request:
        """Build ``GET /batches``."""
        after = f"&after={quote(cursor)}" if cursor else ""
        return Request(method="GET", path=f"/batches?limit={_PAGE}{after}")

    def parse_list(self, content: bytes) -> ListPage:
        """Read a page; where a server leaves out ``has_more``, more may follow a full one."""
        try:
            page = _decode_page(content)
        except msgspec.MsgspecError as error:
            raise MalformedResponseError(
                f"openai's answer is no list of batches: {error}", provider=self.name
            ) from error
        last = page.last_id or (page.data[-1].id if page.data else None)
        has_more = len(page.data) >= _PAGE if page.has_more is None else page.has_more
        return ListPage([_state(each) for each in page.data], last if has_more else None)

    def cancel_request(self, provider_batch_id: str) -> Request:
        """Build ``POST /batches/{id}/cancel``."""
        return Request(method="POST", path=f"/batches/{provider_batch_id}/cancel")

    # Results

    def result_blocks(self, transport: Transport, state: PartState) -> Generator[bytes]:
        """Stream the output file, then the error file; either may be missing."""
        for name in ("output_file_id", "error_file_id"):
            if file_id := state.refs.get(name):
                last = b"\n"
                with transport.stream(Request(method="GET", path=f"/files/{file_id}/content")) as blocks:
                    for block in blocks:
                        last = block or last
                        yield block
                if not last.endswith(b"\n"):
                    yield b"\n"

    def apply_batch_result(self, raw: bytes) -> EntryResult:
        """Read one row of an output or error file."""
        return read_row(raw)

    # Housekeeping

    def check_request(self) -> Request:
        """Build ``GET /models``."""
        return Request(method="GET", path="/models")

    def delete_file_request(self, ref: str) -> Request | None:
        """Build ``DELETE /files/{id}``."""
        return Request(method="DELETE", path=f"/files/{ref}")


def _state(batch: _Batch) -> PartState:
    status = _STATUSES.get(batch.status) or unknown_status("openai", batch.status)
    refs: dict[str, Any] = {
        name: value
        for name in ("input_file_id", "output_file_id", "error_file_id")
        # Some servers write "" for null.
        if (value := getattr(batch, name))
    }
    errors = (batch.errors.data or []) if batch.errors else []
    counts = batch.request_counts
    return PartState(
        provider_batch_id=batch.id,
        status=status,
        raw_status=batch.status,
        counts=Counts(counts.total, counts.completed, counts.failed) if counts else None,
        refs=refs,
        error="; ".join(_error_text(each) for each in errors[:5]) or None,
        error_code=next((each.code for each in errors if each.code), None),
        refusal=_refusal(errors) if status is BatchStatus.FAILED and not batch.output_file_id else None,
        created_at=_time(batch.created_at),
        expires_at=_time(batch.expires_at),
        tag=(batch.metadata or {}).get(TAG),
    )


def _refusal(errors: Iterable[_Error]) -> Refusal | None:
    """https://platform.openai.com/docs/guides/batch#rate-limits: the enqueued tokens of a model."""
    error = next((each for each in errors if each.code == "token_limit_exceeded"), None)
    if error is None:
        return None
    limit = re.search(r"Limit: (\d[\d,]{0,14}) enqueued tokens", error.message or "")
    return Refusal(_error_text(error), int(limit[1].replace(",", "")) or None if limit else None)


def _error_text(error: _Error) -> str:
    where = f" (line {error.line})" if error.line is not None else ""
    return f"{error.code}: {error.message}{where}"


def _time(seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        # A compatible server counts in other units; the time is not needed to go on.
        return None


def _metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return what of the user's metadata OpenAI takes: 16 pairs, one of which is our tag."""
    pairs = list(metadata.items())[: _MAX_PAIRS - 1]
    return {str(name)[:_MAX_KEY]: str(value)[:_MAX_VALUE] for name, value in pairs}
