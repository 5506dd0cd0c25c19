"""Reading JSONL in blocks, split at line feeds only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def split_lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (byte offset, line) of every line that is not blank, without its line end.

    Only ``\\n`` ends a line: U+2028, U+0085 and the like are legal inside a JSON string. A torn last line is
    yielded as it is. Memory is bounded by a block and the longest line.
    """
    offset = 0
    torn: list[bytes] = []
    for block in blocks:
        lines = block.split(b"\n")
        if len(lines) == 1:
            torn.append(block)
            continue
        if torn:
            torn.append(lines[0])
            lines[0] = b"".join(torn)
        torn = [lines.pop()]
        for line in lines:
            length = len(line) + 1
            if stripped := line.strip(b"\r \t"):
                yield offset + (0 if line[0] == stripped[0] else line.index(stripped)), stripped
            offset += length
    if (line := b"".join(torn)).strip():
        stripped = line.strip(b"\r \t")
        yield offset + line.index(stripped), stripped
