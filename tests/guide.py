"""The guide's code blocks, for tests that run them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

REPOSITORY = Path(__file__).parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
#: A block that makes a DAG, or more than tasks.
_OWN_DAG = re.compile(r"\bDAG\(|@dag\b|_dag\(|^def test_", re.MULTILINE)
_OPERATOR = re.compile(r"(?:Operator|Sensor)\b[\w.]*\(|batch_group\(")


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands behind the fence, its text, and the number of the fence's line, from 0."""

    info: str
    text: str
    line: int

    @property
    def language(self) -> str:
        return self.info.split(" ")[0]


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return a page's blocks in these languages."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    found = [Block(each.info, each.content, (each.map or [0])[0]) for each in tokens if each.type == "fence"]
    return [block for block in found if block.language in languages]


def module_of(page: Path) -> str:
    """Return a page's Python as one module, in which lines have the numbers that they have on the page.

    Tasks of a block that makes no DAG are put into one.
    """
    lines: list[str] = []
    for number, block in enumerate(blocks(page, "python", "py")):
        lines += [""] * (block.line - len(lines))
        text = block.text.splitlines()
        if _OPERATOR.search(block.text) and not _OWN_DAG.search(block.text):
            lines.append(f"with __import__('airflow.sdk').sdk.DAG('snippet_{number}', schedule=None):")
            lines += [f"    {line}" if line else "" for line in text]
        else:
            lines += ["", *text]
    return "\n".join(lines) + "\n"
