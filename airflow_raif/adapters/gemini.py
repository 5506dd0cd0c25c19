"""Google's Gemini Batch API: batchGenerateContent and asyncBatchEmbedContent, inline or by file, chosen by size.

Source: https://ai.google.dev/gemini-api/docs/batch-api
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec
import tenacity

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
from airflow_raif.adapters.gemini_requests import embed_body, generate_body
from airflow_raif.adapters.gemini_results import name_of_code, read_row
from airflow_raif.adapters.http import MAX_ATTEMPTS, pause
from airflow_raif.adapters.jsonl import split_lines
from airflow_raif.adapters.lookup import find_by_tag
from airflow_raif.adapters.text_form import line_encoder, merge_params
from airflow_raif.domain.batch import Counts, PartState
from airflow_raif.domain.errors import MalformedResponseError, TransientProviderError
from airflow_raif.domain.queue import Refusal
from airflow_raif.domain.request import EntryRequest, RequestDefaults
from airflow_raif.domain.result import EntryError, EntryResult
from airflow_raif.domain.status import BatchStatus

GENERATE, EMBED = "batchGenerateContent", "asyncBatchEmbedContent"
#: The documented most of an inline create is 20 MB; larger parts go through a file.
INLINE_MAX_BYTES = 15 * 1000 * 1000
UPLOAD_CHUNK_BYTES = 8 << 20

_STATUSES = {
    "PENDING": BatchStatus.IN_PROGRESS,
    "QUEUED": BatchStatus.IN_PROGRESS,
    "RUNNING": BatchStatus.IN_PROGRESS,
    "PROCESSING": BatchStatus.IN_PROGRESS,
    "CANCELLING": BatchStatus.IN_PROGRESS,
    "SUCCEEDED": BatchStatus.ENDED,
    "PARTIALLY_SUCCEEDED": BatchStatus.ENDED,
    "FAILED": BatchStatus.FAILED,
    "CANCELLED": BatchStatus.CANCELED,
    "EXPIRED": BatchStatus.EXPIRED,
}


class _Stats(msgspec.Struct, rename="camel", gc=False):
    """Counters are int64 and travel as strings; zeros are left out."""

    request_count: int = 0
    pending_request_count: int = 0
    successful_request_count: int = 0
    failed_request_count: int = 0


class _Output(msgspec.Struct, rename="camel", gc=False):
    responses_file: str | None = None
    inlined_responses: msgspec.Raw = msgspec.Raw()
    inlined_embed_content_responses: msgspec.Raw = msgspec.Raw()


class _Metadata(msgspec.Struct, rename="camel", gc=False):
    state: str | None = None
    display_name: str | None = None
    batch_stats: _Stats | None = None
    create_time: datetime | None = None
    output: _Output | None = None


class _Status(msgspec.Struct, gc=False):
    code: int | str | None = None
    message: str | None = None
    status: str | None = None


class _Operation(msgspec.Struct, gc=False):
    """A long-running operation whose metadata is the batch."""

    name: str
    metadata: _Metadata | None = None
    done: bool = False
    state: str | None = None
    response: _Output | None = None
    error: _Status | None = None


class _Page(msgspec.Struct, rename="camel"):
    operations: list[_Operation] = []
    next_page_token: str | None = None


class _Line(msgspec.Struct):
    key: str
    request: msgspec.Raw


class _File(msgspec.Struct):
    name: str


class _Uploaded(msgspec.Struct):
    file: _File


_decode_operation = msgspec.json.Decoder(_Operation, strict=False).decode
_decode_page = msgspec.json.Decoder(_Page, strict=False).decode
_decode_line = msgspec.json.Decoder(_Line).decode
_encode = msgspec.json.Encoder().encode


class GeminiAdapter(Adapter):
    """Gemini Developer API. A create is documented as not idempotent; its ``displayName`` is our tag."""

    name = "gemini"
    endpoints: ClassVar[tuple[str, ...]] = (GENERATE, EMBED)
    default_base_url = "https://generativelanguage.googleapis.com"
    output_limits: ClassVar[dict[str, tuple[tuple[str, ...], ...]]] = {
        # Google takes the names of its protocol buffers, too, and its own examples of request files have them.
        GENERATE: (("request",), ("generationConfig", "generation_config"), ("maxOutputTokens", "max_output_tokens"))
    }
    # https://ai.google.dev/gemini-api/docs/batch-api, https://ai.google.dev/gemini-api/docs/files
    results_kept = timedelta(weeks=6)
    uploads_kept = timedelta(hours=48)
    file_refs: ClassVar[tuple[str, ...]] = ("responses_file",)
    # The order of its list is not documented.
    lists_newest_first = False
    #: Files hold 2 GB; no number of rows is documented, so parts are kept to what is easy to handle.
    default_limits = Limits(max_requests=200_000, max_bytes=1900 * 1000 * 1000, max_request_bytes=20 * 1000 * 1000)

    @property
    def base_url(self) -> str:
        """The base URL as google-genai takes it, without a version."""
        return re.sub(r"/v1(beta|alpha)?$", "", super().base_url)

    @property
    def version(self) -> str:
        """The API version: the base URL's, or ``v1beta``."""
        found = re.search(r"/(v1(?:beta|alpha)?)$", super().base_url)
        return found.group(1) if found else "v1beta"

    def auth_headers(self) -> dict[str, str]:
        """Return the key header."""
        return {"x-goog-api-key": self.settings.api_key}

    # Requests

    def make_encoder(self, defaults: RequestDefaults) -> Callable[[EntryRequest, str], bytes]:
        """Return a function that writes one line of a request file."""
        endpoint = self.resolve_endpoint(defaults.endpoint)
        make_body = (generate_body if endpoint == GENERATE else embed_body)(defaults)

        def body_of(request: EntryRequest) -> dict[str, Any]:
            return merge_params(request.body if request.body is not None else make_body(request), request.params)

        return line_encoder(b'{"key":"', b'","request":', body_of)

    # Submit

    def upload(self, transport: Transport, part: SpooledPart) -> str | None:
        """Upload the lines in chunks where they are too many for an inline create."""
        if part.request_bytes <= INLINE_MAX_BYTES:
            return None
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientProviderError),
            stop=tenacity.stop_after_attempt(MAX_ATTEMPTS),
            wait=pause,
            reraise=True,
        )
        return again(self._upload, transport, part)

    def _upload(self, transport: Transport, part: SpooledPart) -> str:
        start = transport.send(
            Request(
                method="POST",
                path=f"/upload/{self.version}/files",
                headers={
                    "x-goog-upload-protocol": "resumable",
                    "x-goog-upload-command": "start",
                    "x-goog-upload-header-content-length": str(part.request_bytes),
                    "x-goog-upload-header-content-type": "application/jsonl",
                    "content-type": "application/json",
                },
                content=_encode({"file": {"displayName": f"{part.tag}.jsonl"}}),
            ),
            retry=False,
        )
        address = start.headers.get("x-goog-upload-url")
        if not address:
            raise MalformedResponseError("gemini's answer to the upload names no upload URL", provider=self.name)
        content = b""
        offset = 0
        for chunk, is_last in _chunks(part.blocks()):
            command = "upload, finalize" if is_last else "upload"
            headers = {"x-goog-upload-command": command, "x-goog-upload-offset": str(offset)}
            # Not repeated: a chunk at an offset that the server has passed is refused. The whole upload starts anew.
            content = transport.send(
                Request(method="POST", path=address, headers=headers, content=chunk), retry=False
            ).content
            offset += len(chunk)
        try:
            return msgspec.json.decode(content, type=_Uploaded).file.name
        except msgspec.MsgspecError as error:
            raise MalformedResponseError(
                f"gemini's answer to the upload names no file: {error}", provider=self.name
            ) from error

    def create(self, transport: Transport, part: SpooledPart, input_ref: str | None) -> PartState:
        """Create the batch from its file, or with its requests inline, once."""
        source: dict[str, Any]
        if input_ref is not None:
            source = {"fileName": input_ref}
        else:
            lines = (_decode_line(line) for _, line in split_lines(part.blocks()))
            source = {
                "requests": {"requests": [{"request": each.request, "metadata": {"key": each.key}} for each in lines]}
            }
        request = Request(
            method="POST",
            path=f"/{self.version}/models/{part.model.removeprefix('models/')}:{part.endpoint}",
            headers=JSON,
            content=_encode({"batch": {"displayName": part.tag, "inputConfig": source}}),
        )
        return self.parse_part(transport.send(request, retry=False).content)

    def find(self, transport: Transport, lookup: Lookup) -> list[PartState]:
        """Look through the batches for the part's tag."""
        return find_by_tag(self, transport, lookup)

    # Synchronous calls

    def synchronous_request(self, line: bytes, endpoint: str, model: str) -> Request:
        """Build ``generateContent`` or ``embedContent`` of the model."""
        verb = "generateContent" if endpoint == GENERATE else "embedContent"
        path = f"/{self.version}/models/{model.removeprefix('models/')}:{verb}"
        return Request(method="POST", path=path, headers=JSON, content=bytes(_decode_line(line).request))

    def synchronous_row(self, line: bytes, answer: bytes | None, error: EntryError | None) -> bytes:
        """Return a row of a result file."""
        key = _decode_line(line).key
        if error is not None:
            return _encode({"key": key, "error": {"message": error.message, "status": error.code}})
        return _encode({"key": key, "response": msgspec.Raw(answer or b"")})

    # Poll

    def get_request(self, provider_batch_id: str) -> Request:
        """Build ``GET /v1beta/batches/{id}``."""
        return Request(method="GET", path=f"/{self.version}/{provider_batch_id}")

    def parse_part(self, content: bytes) -> PartState:
        """Read an operation; inline results in it are not decoded."""
        return _state(self._operation(content))

    def list_request(self, cursor: str | None = None, size: int = 100) -> Request:
        """Build ``GET /v1beta/batches``."""
        return Request(
            method="GET",
            path=f"/{self.version}/batches?pageSize=100" + (f"&pageToken={quote(cursor, safe='')}" if cursor else ""),
        )

    def parse_list(self, content: bytes) -> ListPage:
        """Read a page."""
        try:
            page = _decode_page(content)
        except msgspec.MsgspecError as error:
            raise MalformedResponseError(f"gemini's answer is no list: {error}", provider=self.name) from error
        return ListPage([_state(each) for each in page.operations], page.next_page_token or None)

    def cancel_request(self, provider_batch_id: str) -> Request:
        """Build ``POST /v1beta/batches/{id}:cancel``."""
        return Request(method="POST", path=f"/{self.version}/{provider_batch_id}:cancel")

    # Results

    def result_blocks(self, transport: Transport, state: PartState) -> Generator[bytes]:
        """Stream the responses file, or write inline responses out as the lines of one."""
        file = state.refs.get("responses_file")
        operation: _Operation | None = None
        if file is None:
            operation = self._operation(transport.send(self.get_request(state.provider_batch_id)).content)
            file = _state(operation).refs.get("responses_file")
        if file is not None:
            path = f"/download/{self.version}/{file}:download?alt=media"
            with transport.stream(Request(method="GET", path=path)) as blocks:
                yield from blocks
            return
        try:
            rows = _inlined(operation)
        except msgspec.MsgspecError as error:
            raise MalformedResponseError(f"gemini's inline results are no list: {error}", provider=self.name) from error
        for item in rows:
            # Google indents its answers; a row is one line.
            yield msgspec.json.format(bytes(item), indent=-1) + b"\n"

    def apply_batch_result(self, raw: bytes) -> EntryResult:
        """Read one row, of a file or inline."""
        return read_row(raw)

    # Housekeeping

    def check_request(self) -> Request:
        """Build ``GET /v1beta/models``."""
        return Request(method="GET", path=f"/{self.version}/models?pageSize=1")

    def delete_file_request(self, ref: str) -> Request | None:
        """Build ``DELETE /v1beta/files/{id}``."""
        return Request(method="DELETE", path=f"/{self.version}/{ref}")

    def _operation(self, content: bytes) -> _Operation:
        try:
            return _decode_operation(content)
        except msgspec.MsgspecError as error:
            raise MalformedResponseError(f"gemini's answer is no batch: {error}", provider=self.name) from error


def _chunks(blocks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Regroup blocks into chunks of the size the upload wants; yields (chunk, whether it is the last)."""
    held = bytearray()
    for block in blocks:
        held += block
        while len(held) > UPLOAD_CHUNK_BYTES:
            chunk = bytes(held[:UPLOAD_CHUNK_BYTES])
            del held[:UPLOAD_CHUNK_BYTES]
            yield chunk, False
    yield bytes(held), True


def _inlined(operation: _Operation | None) -> list[msgspec.Raw]:
    """Return inline responses, which lie in the metadata or the response, flat or doubly wrapped."""
    if operation is None:
        return []
    for output in (operation.response, operation.metadata.output if operation.metadata else None):
        found = bytes(output.inlined_responses or output.inlined_embed_content_responses) if output else b""
        while found:
            if found.lstrip().startswith(b"["):
                return msgspec.json.decode(found, type=list[msgspec.Raw])
            wrapped = msgspec.json.decode(found, type=dict[str, msgspec.Raw] | None) or {}
            found = bytes(wrapped.get("inlinedResponses") or wrapped.get("inlinedEmbedContentResponses") or b"")
    return []


def _state(operation: _Operation) -> PartState:
    metadata = operation.metadata or _Metadata()
    raw_status = metadata.state or operation.state or ""
    outputs = [each for each in (metadata.output, operation.response) if each is not None]
    file = next((each.responses_file for each in outputs if each.responses_file), None)
    stats, error = metadata.batch_stats, operation.error
    error_code = (error.status or name_of_code(error.code)) if error else None
    text = ": ".join(filter(None, (error_code, error.message))) if error else None
    status = _status(operation, raw_status)
    has_run = file is not None or (stats is not None and stats.successful_request_count > 0)
    is_refused = status is BatchStatus.FAILED and error_code == "RESOURCE_EXHAUSTED" and not has_run
    return PartState(
        provider_batch_id=operation.name,
        status=status,
        raw_status=raw_status or ("done" if operation.done else "unknown"),
        counts=Counts(stats.request_count, stats.successful_request_count, stats.failed_request_count)
        if stats
        else None,
        refs={"responses_file": file} if file else {},
        error=text,
        error_code=error_code,
        # The word stands for any quota, not only for that of the queue.
        refusal=Refusal(text or "", is_certain=False) if is_refused else None,
        created_at=metadata.create_time,
        tag=metadata.display_name,
    )


def _status(operation: _Operation, raw_status: str) -> BatchStatus:
    if not raw_status:
        if not operation.done:
            return BatchStatus.IN_PROGRESS
        return BatchStatus.FAILED if operation.error is not None else BatchStatus.ENDED
    return _STATUSES.get(re.sub("^(BATCH|JOB)_STATE_", "", raw_status)) or unknown_status("gemini", raw_status)
