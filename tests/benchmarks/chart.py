"""The curves of time and memory by rows, drawn as one picture."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.figures import Book

WORKS = {"fetch-responses": "fetch and apply", "submit-openai": "submit"}


def draw(book: Book, path: Path) -> None:
    """Draw rows per CPU second and peak memory above imports by the number of rows."""
    import matplotlib as mpl

    mpl.use("svg")
    # The same figures make the same file.
    mpl.rcParams["svg.hashsalt"] = "raif"
    from matplotlib import pyplot

    figure, (speed, memory) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for work, label in WORKS.items():
        cpu, mib = book.of("scaling", "CPU s", work), book.of("scaling", "MiB above imports", work)
        speed.plot([each.size for each in cpu], [each.size / each.ours for each in cpu], marker="o", label=label)
        memory.plot([each.size for each in mib], [each.ours for each in mib], marker="o", label=label)
    for axes, title in ((speed, "rows per CPU second, one worker"), (memory, "peak memory above imports, MiB")):
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("rows of 2 KB")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
