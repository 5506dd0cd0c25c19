"""What is asked of the figures, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.figures import Book

_MANY, _MILLION = 50_000, 1_000_000


def bars(book: Book) -> Iterator[tuple[str, str, str]]:
    """Yield each bar, what was measured, and whether it holds; what was not measured is left out."""
    yield from _pipelines(book)
    yield from _growth(book)
    yield from _waiting(book)
    yield from _pages(book)


def eighth(book: Book) -> str:
    """Tell what an eighth of the peer's CPU would be, in what cannot be spared."""
    said = []
    for work, whose in (("fetch-openai", "OpenAI's"), ("fetch-anthropic", "Anthropic's")):
        for figure in book.of("warm", "CPU s", work):
            if figure.peer and figure.floor:
                times = figure.peer / figure.floor
                said.append(f"{times:.2g} times the floor for {whose} results, so an eighth is {times / 8:.2g} of it")
    text = ""
    if said:
        text = (
            f"**What eight times less would be.** common-ai takes {'; '.join(said)}. Below the floor is no program that"
            " reads these bytes with `httpx` and `msgspec`; what is above it is all there is for a store, an order and"
            " an account of every row."
        )
    imports, cold = book.of("imports", "CPU s"), book.of("cold", "CPU s", "fetch-openai")
    if imports and cold and cold[0].peer:
        text += (
            f" In a cold process the peer takes {cold[0].peer:.1f} s, of which {imports[0].floor:.1f} s are the import"
            " of Airflow, which every task pays."
        )
    return text


def _row(bar: str, measured: float, holds: bool, unit: str = "") -> tuple[str, str, str]:
    return bar, f"{measured:,.3g}{unit}", "yes" if holds else "no"


def _pipelines(book: Book) -> Iterator[tuple[str, str, str]]:
    for work, name, least, most in (
        ("fetch-openai", "OpenAI fetch", 8, 3), ("fetch-responses", "OpenAI `/v1/responses` fetch", 8, 3),
        ("fetch-anthropic", "Anthropic fetch", 8, 3), ("fetch-gemini", "Gemini fetch", 8, 3),
        ("submit-openai", "OpenAI submit", 5, 2.5), ("submit-anthropic", "Anthropic submit", 5, 2.5),
    ):  # fmt: skip
        for section in ("warm", "cold"):
            for figure in book.of(section, "CPU s", work):
                if figure.gain is not None:
                    bar = f"{name}, {section}: common-ai takes at least {least} times our CPU"
                    yield _row(bar, figure.gain, figure.gain >= least, " times")
                if section == "warm" and figure.above_floor is not None:
                    bar = f"{name}: at most {most:g} times the floor"
                    yield _row(bar, figure.above_floor, figure.above_floor <= most, " times")
    gemini, openai = (book.of("warm", "CPU s", work) for work in ("fetch-gemini", "fetch-openai"))
    if gemini and openai:
        ratio = gemini[0].ours / openai[0].ours
        yield _row("Gemini fetch: at most 1.3 times our OpenAI fetch", ratio, ratio <= 1.3, " times")


def _growth(book: Book) -> Iterator[tuple[str, str, str]]:
    works = (("fetch-responses", "fetch", _MILLION), ("submit-openai", "submit", _MILLION // 2))
    for work, name, size in works:
        cpu = [book.find("scaling", work, "CPU s", each) for each in (_MANY, size)]
        mib = [book.find("scaling", work, "MiB above imports", each) for each in (_MANY, size)]
        if None in cpu or None in mib:
            continue
        growth = cpu[1] / cpu[0] / (size / _MANY)
        yield _row(f"{name}, {size:,} rows: CPU a row within 15 % of 50,000's", growth, growth <= 1.15, " times")
        process = [book.find("scaling", work, "MiB of the process", each) for each in (_MANY, size)]
        for what, (small, large) in (("of the process", process), ("above imports", mib)):
            bar = f"{name}, {size:,} rows: peak memory {what} within 10 % of 50,000's {small:.3g} MiB"
            yield _row(bar, large, large <= 1.1 * small, " MiB")
        if name == "submit":
            yield _row("submit: peak memory above imports at most 48 MiB", mib[1], mib[1] <= 48, " MiB")


def _waiting(book: Book) -> Iterator[tuple[str, str, str]]:
    for unit, most in (
        ("requests a tick", 15), ("CPU ms per batch and tick", 0.3), ("CPU ms the loop was held at most", 50),
        ("KB per waiting batch", 20),
    ):  # fmt: skip
        value = book.find("waiting", "one connection", unit, 1000)
        if value is not None:
            yield _row(f"1,000 waiting batches: at most {most:g} {unit}", value, value <= most)
    silent = book.find("triggerer", "a triggerer of Airflow", "s without a heartbeat at most", 1000)
    if silent is not None:
        yield _row("1,000 tasks in a real triggerer: its heartbeat is never 30 s old", silent, silent < 30, " s")


def _pages(book: Book) -> Iterator[tuple[str, str, str]]:
    for figure in book.of("pages", "ms, median of 20"):
        bar = f"{figure.name}, {figure.size:,} batches: under 300 ms at the server"
        yield _row(bar, figure.ours or 0, (figure.ours or 0) < 300, " ms")
    for figure in book.of("pages", "MiB"):
        bar = f"pages, {figure.size:,} batches: the API server grows by less than 50 MiB"
        yield _row(bar, figure.ours or 0, (figure.ours or 0) < 50, " MiB")
