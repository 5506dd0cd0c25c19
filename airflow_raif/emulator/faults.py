"""What can go wrong, on request: HTTP faults, batch faults and row faults, all deterministic."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, get_args

import msgspec

RowKind = Literal[
    "missing",
    "errored",
    "overloaded",
    "expired",
    "canceled",
    "truncated",
    "refused",
    "invalid_json",
    "line_separator",
    "no_usage",
    "duplicated",
    "in_both_files",
    "malformed",
    "blank",
]

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class HttpFault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Let the next calls of a route fail."""

    #: Route name such as ``openai.batches.create``; ``*`` matches any text.
    route: str = "*"
    #: Answer with this status; 0 with ``drop``.
    status: Annotated[int, msgspec.Meta(ge=0, le=599)] = 0
    #: Close the socket without a reply, before or after the call took effect.
    drop: Literal["", "before", "after"] = ""
    #: Keep the caller waiting, before or after the call took effect, until the fault is taken off the list.
    hold: Literal["", "before", "after"] = ""
    #: How many calls fail; negative: all.
    times: int = 1
    #: Calls let through first.
    skip: int = 0
    retry_after: float | None = None


class RowFault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Let some rows of a batch go wrong: by share, by id, by position or by a text in the request."""

    kind: RowKind
    #: Evenly spread: with 0.1 every tenth row.
    fraction: Share = 0.0
    ids: list[str] = []
    rows: list[int] = []
    contains: str = ""
    #: Only in this many batches, counted as their results are made; negative: in all.
    batches: int = -1


class Faults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All knobs; the default is a faultless provider."""

    http: list[HttpFault] = []
    rows: list[RowFault] = []
    #: Batches end expired or canceled after this share of their rows is done.
    expire_after: Share | None = None
    cancel_after: Share | None = None
    #: Share of rows that are done when a client's cancel comes; ``None``: by progress.
    done_at_cancel: Share | None = None
    #: How many more looks a canceled batch takes to stop; OpenAI's takes up to ten minutes.
    cancel_looks: int = 0
    #: The next so many OpenAI batches fail with ``token_limit_exceeded``, Gemini's with a quota error.
    token_limit_exceeded: int = 0
    #: The next so many batches fail as a whole.
    failed_batches: int = 0
    #: Status word shown while a batch runs.
    unknown_status: str = ""
    shuffle: bool = False
    torn_last_line: bool = False
    crlf: bool = False

    def take_http(self, route: str) -> HttpFault | None:
        """Use up and return the fault that strikes this call, if one does."""
        for fault in self.http:
            if fault.times == 0 or not fnmatchcase(route, fault.route):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            fault.times -= 1
            return fault
        return None

    def take_count(self, name: Literal["token_limit_exceeded", "failed_batches"]) -> bool:
        """Use up one of a counted batch fault; tell whether it strikes."""
        left: int = getattr(self, name)
        if left > 0:
            setattr(self, name, left - 1)
        return left != 0


class RowFaults:
    """The row faults of one batch, asked row by row in input order."""

    def __init__(self, faults: Faults) -> None:
        self._active: list[RowFault] = []
        for fault in faults.rows:
            if fault.batches != 0:
                fault.batches -= 1
                self._active.append(fault)
        self._due = [0.0] * len(self._active)
        self._ids = [frozenset(fault.ids) for fault in self._active]
        self._positions = [frozenset(fault.rows) for fault in self._active]
        self._texts = [fault.contains.encode() for fault in self._active]

    def __bool__(self) -> bool:
        return bool(self._active)

    def strike(self, index: int, row_id: str, raw: bytes) -> str:
        """Return the kind of fault for a row, ``""`` for none. The first fault that fits wins."""
        kind = ""
        for n, fault in enumerate(self._active):
            self._due[n] += fault.fraction
            named = row_id in self._ids[n] or index in self._positions[n]
            if kind or not (named or (self._texts[n] and self._texts[n] in raw) or self._due[n] >= 1 - 1e-9):
                continue
            kind = fault.kind
            if self._due[n] >= 1 - 1e-9:
                self._due[n] -= 1
        return kind


def parse_fault(text: str) -> dict[str, Any]:
    """Read a command-line fault ``NAME=JSON``, ``NAME`` (true), ``KIND=SHARE`` or ``ROUTE=STATUS[:TIMES]``.

    :raises ValueError: the name or the value is not known.
    """
    name, _, value = text.partition("=")
    if name in get_args(RowKind):
        share = _decode(name, value or "1")
        return {"rows": [{"kind": name, "fraction": share}]}
    if "." in name or "*" in name:
        status, _, times = value.partition(":")
        effect = {"drop": status} if status in ("before", "after") else {"status": _decode(name, status)}
        return {"http": [{"route": name, "times": _decode(name, times or "1"), **effect}]}
    if name not in Faults.__struct_fields__:
        raise ValueError(f"unknown fault {name!r}")
    return {name: _decode(name, value or "true")}


def _decode(name: str, value: str) -> Any:
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as exc:
        raise ValueError(f"fault {name}: {value!r} is not JSON") from exc


def parse_faults(texts: list[str]) -> Faults:
    """Join command-line faults."""
    joined: dict[str, Any] = {}
    for text in texts:
        for name, value in parse_fault(text).items():
            joined[name] = joined.get(name, []) + value if isinstance(value, list) else value
    return msgspec.convert(joined, Faults)
