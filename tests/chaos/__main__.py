"""Live thousands of batch lives and print the three figures: ``python -m tests.chaos --lives 5000``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

from tests.chaos.crash_points import die_everywhere
from tests.chaos.life import Outcome
from tests.chaos.plan import Plan, draw
from tests.chaos.runner import live_all
from tests.chaos.worker import encoded
from tests.support import PROVIDERS

STORES = ("sqlite", "postgres")


def main(arguments: list[str] | None = None) -> int:
    """Run lives; return 1 if any figure is not nothing."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--lives", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="of the first life")
    parser.add_argument("--provider", choices=PROVIDERS, action="append")
    parser.add_argument("--store", choices=STORES, action="append")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--every-step", action="store_true", help="before them die at every step, too")
    parser.add_argument("--log", action="store_true", help="show the workers' log of a life that went wrong")
    given = parser.parse_args(arguments)
    providers, stores = tuple(given.provider or PROVIDERS), tuple(given.store or STORES)
    kinds = [(provider, store) for provider in providers for store in stores]
    plans = [draw(given.seed + n // len(kinds), *kinds[n % len(kinds)]) for n in range(given.lives)]
    wrong = 0
    if given.every_step:
        deaths = in_processes(partial(die_everywhere, every_step=True), kinds, given.jobs)
        wrong += tell("deaths", deaths, with_log=given.log)
    wrong += tell("lives", run(plans, stores, given.jobs), with_log=given.log)
    return 1 if wrong else 0


def tell(what: str, outcomes: Iterable[Outcome], *, with_log: bool) -> int:
    """Print those that went wrong as they come, then the figures; return how many did."""
    started, kept = time.monotonic(), []
    for outcome in outcomes:
        kept.append(outcome)
        if outcome.figures:
            show(outcome, with_log=with_log)
        # Of thousands only what is counted.
        outcome.history, outcome.log = [], ""
    wrong = sum(bool(each.figures) for each in kept)
    print(table(kept))
    print(f"{len(kept)} {what}, {wrong} wrong, {time.monotonic() - started:.0f} s\n", flush=True)
    return wrong


def in_processes(
    work: Callable[..., list[Outcome]], arguments: Sequence[tuple[Any, ...]], jobs: int
) -> Iterator[Outcome]:
    """Do work once for each set of arguments, in so many processes."""
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for outcomes in pool.map(work, *zip(*arguments, strict=True)):
            yield from outcomes


def run(plans: list[Plan], stores: tuple[str, ...], jobs: int) -> Iterator[Outcome]:
    """Run plans in so many processes, each with a provider and stores of its own."""
    size = max(25, min(250, len(plans) // (jobs * 4)))
    return in_processes(live_all, [(plans[n : n + size], stores) for n in range(0, len(plans), size)], jobs)


def show(outcome: Outcome, *, with_log: bool) -> None:
    """Print a life that went wrong, and how to live it again."""
    plan, figures = outcome.plan, outcome.figures
    print(f"\nWRONG: twice {figures.twice}, lost {figures.lost}, dropped {figures.dropped}")
    print("\n".join(f"  {each}" for each in figures.wrong))
    print(encoded(plan))
    print("\n".join(f"  {n}: {each}" for n, each in enumerate(outcome.history)))
    if with_log:
        print(outcome.log)
    print(
        f"again: python -m tests.chaos --seed {plan.seed} --lives 1 --provider {plan.provider} --store {plan.store}",
        flush=True,
    )


def table(outcomes: list[Outcome]) -> str:
    """Return lives and figures by fault, and by provider and store."""
    lives: Counter[str] = Counter()
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for outcome in outcomes:
        figures, plan = outcome.figures, outcome.plan
        for name in {*outcome.met, f"{plan.provider} on {plan.store}", "ALL"}:
            lives[name] += 1
            for n, value in enumerate((figures.twice, figures.lost, figures.dropped, bool(figures.wrong))):
                sums[name][n] += value
    width = max(map(len, lives), default=10)
    lines = [f"{'fault':{width}}  lives  made twice  rows lost  answers dropped  wrong"]
    for name in sorted(lives):
        twice, lost, dropped, bad = sums[name]
        lines.append(f"{name:{width}}  {lives[name]:5}  {twice:10}  {lost:9}  {dropped:15}  {bad:5}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
