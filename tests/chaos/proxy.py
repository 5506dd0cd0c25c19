"""A proxy before the emulator that spoils what passes through it, by a list of faults."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections import Counter
from email.utils import formatdate
from typing import Any

import msgspec

#: Route names by method and path; the first that fits.
ROUTES = [
    (name, method, re.compile(path))
    for name, method, path in (
        ("upload", "POST", r"/v1/files$|/upload/"),
        ("cancel", "POST", r"/cancel$|:cancel$"),
        ("create", "POST", r"/v1/batches$|/v1/messages/batches$|:(batchGenerate|asyncBatchEmbed)Content$"),
        ("synchronous", "POST", r"/v1/(responses|chat/completions|embeddings|messages)$|:(generate|embed)Content$"),
        ("list", "GET", r"/v1/batches$|/v1/messages/batches$|/v1beta/batches$"),
        ("results", "GET", r"/content$|/results$|/download/"),
        ("get", "GET", r"/batches/[^/]+$"),
    )
]
HTML = b"<!DOCTYPE html><html><head><title>Welcome</title></head>\n<body><h1>Please log in</h1>\n</body></html>\n"
GARBAGE = b'{"id": "batch_\x00", "object": [\n'
#: The most that a stalled answer is held; a client gives up long before.
STALL_SECONDS = 10.0

#: Kinds of faults; with ``_after`` the provider has done what it was asked, and otherwise has not heard of it.
KINDS = (
    "reset_before",  # the connection breaks before anything is sent on
    "reset_in_upload",  # the connection breaks in the middle of the request's body
    "lost_reply",  # the connection breaks after the provider did it
    "429",
    "429_hint",
    "400",
    "401",
    "404",
    "500",
    "529",
    "500_after",
    "html_502",
    "html_502_after",
    "html_200",
    "html_200_after",
    "garbage_200",
    "garbage_200_after",
    "truncated",  # fewer bytes than the answer's length says
    "chunk_cut",  # a chunked answer without its end
    "unframed_cut",  # an answer that ends with the connection, too early
    "slow_loris",  # some bytes drip, then nothing more comes
    "stalled",  # the provider does it and never answers
)


class Fault(msgspec.Struct, kw_only=True):
    """Spoil some calls of a route."""

    kind: str
    route: str
    skip: int = 0
    times: int = 1


class Call(msgspec.Struct):
    """What passed."""

    route: str
    fault: str
    request: bytes
    #: What the provider answered; -1: it was not asked.
    status: int
    answer: bytes


def route_of(method: str, path: str) -> str:
    """Return the name of a call's route."""
    path = path.partition("?")[0]
    return next((name for name, verb, pattern in ROUTES if verb == method and pattern.search(path)), "other")


class FaultProxy:
    """Passes calls on to one address, spoiled by :attr:`faults`; what passed lies in :attr:`calls`."""

    def __init__(self, host: str, port: int, clock: Any) -> None:
        self._target = (host, port)
        self._clock = clock
        self.faults: list[Fault] = []
        self.struck: Counter[str] = Counter()
        self.calls: list[Call] = []
        #: Seconds that the provider's Date header is off its clock; None: it has no such header.
        self.date_skew: float | None = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Serve on a free loopback port; return it."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        return int(server.sockets[0].getsockname()[1])

    def _take(self, route: str, *, has_body: bool) -> str:
        for fault in self.faults:
            if fault.route != route or not fault.times or (fault.kind == "reset_in_upload" and not has_body):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            self.struck[f"{fault.kind} of {route}"] += 1
            return fault.kind
        return ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handle one call; return whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines if each)}
        length, route = int(headers.get("content-length", "0")), route_of(method, path)
        kind = self._take(route, has_body=length > 1)
        call = Call(route, kind, b"", -1, b"")
        if kind == "reset_in_upload":
            await reader.readexactly(length // 2)
            self.calls.append(call)
            return _reset(writer)
        call.request = await reader.readexactly(length)
        self.calls.append(call)
        if kind == "reset_before":
            return _reset(writer)
        if (made := _answer_instead(kind.removesuffix("_after"))) and not kind.endswith("_after"):
            return await self._send(writer, *made)
        call.status, answer_headers, call.answer = await self._ask(line, headers, call.request)
        if kind == "lost_reply":
            return _reset(writer)
        if made:
            return await self._send(writer, *made)
        return await self._pass(kind, reader, writer, call, answer_headers)

    async def _ask(self, line: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await asyncio.open_connection(*self._target)
        sent = {**headers, "connection": "close"}
        writer.write("\r\n".join([line, *(f"{k}: {v}" for k, v in sent.items()), "", ""]).encode("latin-1") + body)
        answer = await reader.read()
        writer.close()
        head, _, content = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
        return int(first.split(" ")[1]), found, content

    async def _send(self, writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: bytes) -> bool:
        writer.write(self._head(status, {**headers, "content-length": str(len(body))}) + body)
        await writer.drain()
        return True

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        kept = {k: v for k, v in headers.items() if k not in ("date", "connection", "transfer-encoding")}
        if self.date_skew is not None:
            kept["date"] = formatdate(self._clock() + self.date_skew, usegmt=True)
        return "\r\n".join([f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in kept.items()), "", ""]).encode("latin-1")

    async def _pass(
        self,
        kind: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        call: Call,
        headers: dict[str, str],
    ) -> bool:
        body, headers = call.answer, {k: v for k, v in headers.items() if k != "content-length"}
        half = body[: len(body) // 2]
        if kind == "truncated":
            writer.write(self._head(call.status, {**headers, "content-length": str(len(body))}) + half)
        elif kind == "chunk_cut":
            chunk = f"{len(half):x}\r\n".encode() + half + b"\r\n"
            writer.write(self._head(call.status, headers)[:-2] + b"transfer-encoding: chunked\r\n\r\n" + chunk)
        elif kind == "unframed_cut":
            writer.write(self._head(call.status, headers)[:-2] + b"connection: close\r\n\r\n" + half)
        elif kind in ("slow_loris", "stalled"):
            if kind == "slow_loris":
                writer.write(self._head(call.status, {**headers, "content-length": str(len(body))}))
                for n in range(min(3, len(half))):
                    writer.write(half[n : n + 1])
                    await asyncio.sleep(0.02)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), STALL_SECONDS)
        else:
            return await self._send(writer, call.status, headers, body)
        await writer.drain()
        return False


def _answer_instead(kind: str) -> tuple[int, dict[str, str], bytes] | None:
    page, data = {"content-type": "text/html; charset=utf-8"}, {"content-type": "application/json"}
    return {
        "400": (400, data, b'{"error": {"message": "No", "type": "invalid_request_error"}}'),
        "401": (401, data, b'{"error": {"message": "Incorrect API key", "type": "authentication_error"}}'),
        "404": (404, data, b'{"error": {"message": "Not found", "type": "not_found_error"}}'),
        "429": (429, data, b'{"error": {"message": "Slow down", "type": "rate_limit_error"}}'),
        "429_hint": (429, {**data, "retry-after": "17"}, b'{"error": {"message": "Slow down"}}'),
        "500": (500, data, b'{"error": {"message": "The server had an error"}}'),
        "529": (529, data, b'{"error": {"message": "Overloaded", "type": "overloaded_error"}}'),
        "html_502": (502, page, HTML),
        "html_200": (200, page, HTML),
        "garbage_200": (200, data, GARBAGE),
    }.get(kind)


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Break the connection with a reset, not a proper end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False
