"""What the guide takes from the code as it is built, where a page says ``<!-- generated: NAME -->``."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

from airflow_raif.get_provider_info import get_provider_info

EXAMPLES = Path(__file__).parents[1] / "dags" / "examples"
_BAR = r"\|"
_MARK = re.compile(r"<!-- generated: ([\w-]+) -->")


class _Generate(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        """Put what a mark asks for in its place."""
        found: list[str] = []
        for line in lines:
            mark = _MARK.fullmatch(line)
            found += GENERATED[mark[1]]() if mark else [line]
        return found


class Generated(Extension):
    """What MkDocs is told of."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - the base class's name
        """Come before everything that reads Markdown."""
        md.preprocessors.register(_Generate(md), "generated", 40)


def makeExtension() -> Generated:  # noqa: N802 - the name that is looked for
    """Return the extension."""
    return Generated()


def configuration() -> list[str]:
    """Return a table of the options of ``[raif]``."""
    options = get_provider_info()["config"]["raif"]["options"]
    rows = []
    for name, option in options.items():
        example = f" Example: {_code(option['example'])}" if option["example"] else ""
        rows.append((_code(name), _code(option["default"]), option["description"] + example))
    return _table(("option", "default", "meaning"), rows)


def connections() -> list[str]:
    """Return a table of the fields of the connection types, and of which types have them."""
    kinds = {each["connection-type"]: each["conn-fields"] for each in get_provider_info()["connection-types"]}
    fields = {name: field for each in kinds.values() for name, field in each.items()}
    rows = []
    for name, field in fields.items():
        holders = [kind for kind, each in kinds.items() if name in each]
        where = "all" if len(holders) == len(kinds) else ", ".join(map(_code, holders))
        rows.append((_code(name), field["label"], where, field["description"]))
    return _table(("field", "label in the form", "types", "meaning"), rows)


def examples() -> list[str]:
    """Return every example DAG, below what its docstring says first."""
    lines: list[str] = []
    for file in sorted(EXAMPLES.glob("*.py")):
        source = file.read_text(encoding="utf-8")
        about = (ast.get_docstring(ast.parse(source)) or "").replace("``", "`")
        code = source[source.index("from __future__") :].split("\n", 2)[2]
        lines += [f"## {file.stem}", "", *about.splitlines(), "", f'```python title="{file.name}"']
        lines += [*code.strip().splitlines(), "```", ""]
    return lines


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return [f"| {' | '.join(cell.replace('|', _BAR) for cell in line)} |" for line in lines]


GENERATED: dict[str, Callable[[], list[str]]] = {
    "configuration": configuration,
    "connections": connections,
    "examples": examples,
}
