"""A life: tries of one task until it is done, then the account."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

from airflow_raif.services.runtime import Runtime
from airflow_raif.store import Store
from tests.chaos.account import Figures, check
from tests.chaos.plan import Attempt, Plan
from tests.chaos.provider import Provider
from tests.chaos.worker import BESIDE, Try, World, claim_of, deferred_try, fork, part_try, whole_try

#: A life that is not done after so many tries never will be.
MAX_TRIES = 200
#: After so many tries the next one comes half an hour later.
PATIENT_AFTER = 20
#: The step at which rows are written and the store is not told yet.
APPLYING = "before results"

Work = Callable[[Plan, World, Runtime], str]


@dataclass
class Outcome:
    """How a life went."""

    plan: Plan
    figures: Figures = field(default_factory=Figures)
    met: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    #: Steps and writes of each try.
    steps: list[tuple[int, int]] = field(default_factory=list)
    log: str = ""


class Life:
    """Runs one plan."""

    def __init__(self, plan: Plan, world: World, provider: Provider, restart: Callable[[], None]) -> None:
        self._plan = plan
        self._world = world
        self._provider = provider
        self._restart = restart
        self._held: list[tuple[Try, int]] = []
        self._outcome = Outcome(plan)
        self._batch_id: str | None = None
        self._is_canceled = False
        self._is_deferred = False
        self._had_twin = False
        self._restarts_in_apply = plan.restarts_in_apply
        #: The parts that are applied one by one, and those of them that are not yet.
        self._parts: list[int] = []
        self._open: list[int] = []

    def run(self, store: Store) -> Outcome:
        """Live, then count."""
        outcome, home = self._outcome, self._world.home
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        self._provider.begin(self._plan.behaviour)
        is_done = False
        for number in range(MAX_TRIES):
            attempt = self._plan.attempts[number] if number < len(self._plan.attempts) else self._calm(number)
            self._world.offset.value += attempt.pause
            is_done = self._one(attempt, number)
            if is_done and number >= len(self._plan.attempts) - 1:
                while self._held:
                    self._let_go()
                if not self._is_replaced(store):
                    break
        while self._held:
            self._let_go()
        report = self._provider.report(self._plan.provider)
        outcome.met += [*report.struck, *self._plan.faults]
        outcome.figures = check(self._plan, store, self._world, report, outcome.history, is_done=is_done)
        return outcome

    def _calm(self, number: int) -> Attempt:
        # A queue that was full many times is asked ever more seldom.
        return Attempt(pause=1800.0) if number > PATIENT_AFTER else Attempt()

    def _is_replaced(self, store: Store) -> bool:
        """Whether a try that slept made a batch in place of a canceled one; a clear goes on with that."""
        held = store.find_by_claim(claim_of(self._world))
        store.close()
        is_replaced = held is not None and held.batch_id != self._batch_id
        if is_replaced:
            self._batch_id, self._is_canceled, self._parts = None, False, []
        return is_replaced

    def _one(self, attempt: Attempt, number: int) -> bool:
        """Make one try with what happens to it; return whether the task is done."""
        work, works_beside = self._works(attempt, number)
        twin = fork(self._plan, self._world, work) if attempt.twin else None
        tried = fork(
            self._plan,
            self._world,
            work,
            kill_at=attempt.kill_at,
            kill_after_write=attempt.kill_after_write,
            hold_at=attempt.hold_at,
            hold_on="" if attempt.hold_at or not self._restarts_in_apply else APPLYING,
            holds_outside=not attempt.restart,
        )
        others = [fork(self._plan, self._world, each) for each in works_beside]
        other = fork(self._plan, self._world, BESIDE[attempt.beside]) if attempt.beside else None
        tried.wait()
        if tried.state == "held":
            is_applying = not attempt.hold_at
            if attempt.restart or is_applying:
                self._restart()
                self._outcome.met.append("database restarted" + " in mid-apply" * is_applying)
                self._restarts_in_apply = self._restarts_in_apply and not is_applying
                tried.let_go()
            else:
                self._held.append((tried, attempt.hold_for))
                self._outcome.history.append("held")
                self._outcome.met.append("zombie")
        # Only now: it may have waited for a row that the held one had locked.
        if other is not None:
            self._note_beside(attempt.beside, other.wait())
        if twin is not None:
            self._outcome.met.append("two at once")
            self._note(twin.wait(), "twin")
        for each in others:
            self._note(each.wait(), "part")
        done = False
        if tried.state != "held":
            done = self._note(tried, "try")
            self._held = [(each, left - 1) for each, left in self._held]
            while any(left <= 0 for _, left in self._held):
                self._let_go()
        return bool(self._parts) and not self._open if self._plan.by_parts else done

    def _works(self, attempt: Attempt, number: int) -> tuple[Work, list[Work]]:
        """Return what the try does, and what other tasks of its run do meanwhile."""
        if self._parts:
            assert self._batch_id is not None
            mine, *others = self._turned(self._open or self._parts, number)
            return part_try(self._batch_id, mine), [part_try(self._batch_id, each) for each in others]
        work = whole_try
        # A second try that came after the cancel is as good as a clear.
        goes_on = self._is_canceled and not (self._plan.clears or attempt.twin or self._had_twin)
        if self._batch_id is not None and (goes_on or (self._is_deferred and number % 2)):
            work = deferred_try(self._batch_id)
        self._had_twin = self._had_twin or attempt.twin
        return work, []

    @staticmethod
    def _turned(parts: list[int], number: int) -> list[int]:
        """Return parts so that each is the first in its turn."""
        turn = number % len(parts)
        return parts[turn:] + parts[:turn]

    def _note_beside(self, what: str, other: Try) -> None:
        self._note(other, what)
        self._outcome.met.append(f"{what} beside")
        self._is_canceled = self._is_canceled or other.state.startswith("canceled")

    def _let_go(self) -> None:
        tried, _ = self._held.pop(0)
        self._note(tried.let_go(), "zombie")

    def _note(self, tried: Try, what: str) -> bool:
        said = [each for each in tried.lines if each[0] != "#"] or [tried.state]
        self._outcome.history.append(f"{what}: {' | '.join(said)}")
        self._outcome.steps.append(tried.steps)
        word, _, rest = tried.state.partition(" ")
        if tried.state == "killed":
            self._outcome.met.append("kill -9")
        if word in ("deferred", "done") and what != "zombie":
            self._batch_id = rest
        if word == "parts" and what == "try":
            self._batch_id, *numbers = rest.split()
            self._parts = [int(each) for each in numbers]
            self._open = [*self._parts]
        if word == "applied" and what in ("try", "part"):
            self._open = [each for each in self._open if rest != f"{self._batch_id} {each}"]
        if what == "try":
            self._is_deferred = word == "deferred"
        return word == "done" and what == "try"
