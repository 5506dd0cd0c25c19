"""What happens in a life: drawn from a seed, so that it can happen again."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from tests.chaos.provider import Behaviour
from tests.chaos.proxy import KINDS, Fault
from tests.support import MODELS, rows

ROUTES = {
    "openai": ("upload", "create", "list", "get", "results", "synchronous"),
    "anthropic": ("create", "list", "get", "results", "synchronous"),
    "gemini": ("upload", "create", "list", "get", "results", "synchronous"),
}
ROW_KINDS = (
    "missing", "errored", "overloaded", "expired", "truncated", "refused", "invalid_json", "line_separator",
    "no_usage", "duplicated", "in_both_files", "malformed", "blank",
)  # fmt: skip


#: What a provider may do by itself; none in every other life.
ODDITIES: tuple[dict[str, Any], ...] = (
    {"unknown_status": "reticulating"},
    {"expire_after": 0.0},
    {"expire_after": 0.5},
    {"cancel_after": 0.5},
    {"failed_batches": 1},
    {"token_limit_exceeded": 1},
    {"shuffle": True},
    {"torn_last_line": True},
    {"crlf": True},
    {"done_at_cancel": 0.0},
    {"done_at_cancel": 0.5},
    {"done_at_cancel": 1.0},
)
#: The model of rows that do not ask the task's own.
OTHER_MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-pro"}
#: Seconds between two tries; a user may come back to a failed task after days.
PAUSES = (5.0, 5.0, 30.0, 30.0, 120.0, 120.0, 900.0, 900.0, 7200.0, 90_000.0, 260_000.0)


class Attempt(msgspec.Struct, kw_only=True):
    """What happens to one try of the task."""

    kill_at: int = 0
    #: Killed right after so many writes.
    kill_after_write: int = 0
    #: Held at this step while the next tries run, then let go.
    hold_at: int = 0
    #: Tries during which it is held.
    hold_for: int = 1
    #: The database is restarted while it is held.
    restart: bool = False
    #: A second try runs beside it.
    twin: bool = False
    #: Somebody else is at the batch meanwhile: ``cancel``, ``poll`` as a triggerer does, or ``sweep``.
    beside: str = ""
    #: Seconds until it begins.
    pause: float = 120.0


class Plan(msgspec.Struct, kw_only=True):
    """One life."""

    seed: int
    provider: str
    store: str
    rows: int = 5
    #: Requests in a part.
    part_size: int = 3
    #: Requests that the connection says may be queued at once; 0: any number.
    max_enqueued: int = 0
    max_rounds: int = 2
    stragglers: int = 0
    has_schema: bool = False
    repeat_invalid_output: bool = False
    #: Gemini's requests go by file, not inline.
    by_file: bool = False
    #: Files lie on an object store.
    is_remote: bool = False
    #: The database is restarted while results are applied.
    restarts_in_apply: bool = False
    #: A task whose batch was canceled is cleared, and makes a new one; otherwise what the batch finished is applied.
    clears: bool = False
    behaviour: Behaviour = msgspec.field(default_factory=Behaviour)
    attempts: list[Attempt] = []
    #: Rows that ask the same as an earlier one, by that one's index.
    doubles: dict[int, int] = {}
    #: Every third row asks another model.
    has_models: bool = False
    #: Several tasks apply the batch, each the rows of one part.
    by_parts: bool = False
    #: Once all parts are through, somebody is told of the batch's end.
    is_told: bool = False

    def given(self) -> list[dict[str, Any]]:
        """Return the rows."""
        found = rows(self.rows)
        if self.has_models:
            found = [{**row, "model": self.model_of(index)} for index, row in enumerate(found)]
        for index, first in self.doubles.items():
            found[index] |= {key: found[first][key] for key in ("prompt", "model") if key in found[first]}
        return found

    def model_of(self, index: int) -> str:
        """Return the model of a row that asks what none before it does."""
        return (OTHER_MODELS if self.has_models and index % 3 == 1 else MODELS)[self.provider]

    @property
    def faults(self) -> list[str]:
        """Return the names of what is sure to happen, beside what the proxy does."""
        names = [f"rows {each['kind']}" for each in self.behaviour.faults.get("rows", [])]
        names += [name for name in self.behaviour.faults if name != "rows"]
        if self.max_enqueued:
            names.append("queue limit")
        if self.behaviour.quota:
            names.append("queue full")
        if self.behaviour.ahead:
            names.append("clock skew")
        if self.has_models:
            names.append("several models")
        if self.by_parts:
            names.append("applied by parts")
        return names


def draw(seed: int, provider: str, store: str) -> Plan:
    """Draw a life; what happens to calls and what the provider does take turns, so that few lives meet everything."""
    dice = random.Random(f"{seed} {provider} {store}")
    plan = Plan(
        seed=seed,
        provider=provider,
        store=store,
        rows=dice.randint(3, 12),
        part_size=dice.choice((4, 6, 12)),
        max_rounds=dice.choice((0, 1, 2, 2)),
        stragglers=dice.choice((0, 0, 0, 2, 4)),
        has_schema=dice.random() < 0.3,
        repeat_invalid_output=dice.random() < 0.5,
        by_file=dice.random() < 0.5,
        is_remote=dice.random() < 0.25,
        clears=dice.random() < 0.5,
        restarts_in_apply=store == "postgres" and seed % 4 == 0,
        behaviour=_behaviour(dice, provider, seed),
        attempts=_attempts(dice, store),
    )
    plan.max_enqueued = dice.choice((0, 0, 0, 4, 7))
    plan.behaviour.quota = dice.choice((None, None, None, None, 5))
    if dice.random() < 0.4:
        doubled = dice.sample(range(1, plan.rows), dice.randint(1, plan.rows - 1))
        plan.doubles = {each: dice.choice([n for n in range(each) if n not in doubled]) for each in sorted(doubled)}
    plan.has_models = dice.random() < 0.25
    plan.by_parts = dice.random() < 0.2
    if plan.by_parts:
        plan.part_size = dice.choice((2, 3, 4))
        plan.is_told = dice.random() < 0.5
        # Those before them are mostly over once there are parts to apply, which takes few steps.
        plan.attempts += _attempts(dice, store, most=6, steps=15)
    if provider == "gemini" and not plan.by_file:
        plan.behaviour.proxy = [each for each in plan.behaviour.proxy if each.route not in ("upload", "results")]
        # What lies inline in an answer has no lines that could be spoiled.
        for name in ("torn_last_line", "crlf"):
            plan.behaviour.faults.pop(name, None)
        for each in plan.behaviour.faults.get("rows", []):
            each["kind"] = "missing" if each["kind"] == "malformed" else each["kind"]
    return plan


def _behaviour(dice: random.Random, provider: str, seed: int) -> Behaviour:
    faults: dict[str, Any] = {}
    rows = []
    for _ in range(dice.choice((0, 0, 1, 1, 2))):
        picked = dice.sample(range(12), dice.randint(1, 3))
        rows.append({"kind": dice.choice(ROW_KINDS), "rows": picked, "batches": dice.choice((1, 1, 2, -1))})
    if rows:
        faults["rows"] = rows
    turn, is_odd = divmod(seed, 2)
    if is_odd:
        faults |= ODDITIES[turn % len(ODDITIES)]
    kinds = [KINDS[seed % len(KINDS)], dice.choice(KINDS), dice.choice(KINDS)]
    proxy = [_fault(dice, provider, kind) for kind in kinds[: dice.choice((1, 1, 2, 3))]]
    return Behaviour(
        progress=f"polls:{dice.choice((1, 1, 2, 4))}",
        faults=faults,
        proxy=proxy,
        ahead=dice.choice((0.0, 0.0, 0.0, -420.0, 420.0, -3000.0, 3000.0)),
        date_skew=dice.choice((0.0, 0.0, 0.0, None)),
    )


def _fault(dice: random.Random, provider: str, kind: str) -> Fault:
    routes = ROUTES[provider]
    if kind == "reset_in_upload":
        routes = tuple(each for each in routes if each in ("upload", "create"))
    if kind == "500_after":
        # A provider that says 500 to a single call does not bill it.
        routes = tuple(each for each in routes if each != "synchronous")
    # Each call that hangs is waited for.
    times = (1, 1, 2) if kind in ("slow_loris", "stalled") else (1, 1, 1, 2, 3, 7)
    return Fault(kind=kind, route=dice.choice(routes), skip=dice.choice((0, 0, 0, 1, 2)), times=dice.choice(times))


def _attempts(dice: random.Random, store: str, *, most: int = 3, steps: int = 40) -> list[Attempt]:
    attempts = []
    for _ in range(dice.choice(range(most + 1))):
        attempt = Attempt(pause=dice.choice(PAUSES))
        step = int(dice.expovariate(1 / steps)) + 1
        what = dice.choice(("kill", "kill", "hold", "twin", "restart" if store == "postgres" else "kill", "nothing"))
        attempt.beside = dice.choice(("", "", "", "", "cancel", "poll", "sweep"))
        if what == "kill":
            attempt.kill_at = step
        elif what == "hold":
            attempt.hold_at, attempt.hold_for = step, dice.randint(1, 3)
        elif what == "restart":
            attempt.hold_at, attempt.hold_for, attempt.restart = step, 0, True
        elif what == "twin":
            attempt.twin = True
        attempts.append(attempt)
    return attempts
