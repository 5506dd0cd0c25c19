"""The rich form in a process of its own: ``python -m tests.benchmarks.rich_work PROVIDER FORM ROWS``.

Prints one line of JSON: CPU microseconds to write a row and to read its answer, CPU seconds and MiB of what is imported
and made once, and MiB at the peak above that.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow_raif.adapters.base import ConnectionSettings
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.domain.request import EntryRequest, RequestDefaults
from airflow_raif.rich.codec import RichCodec
from airflow_raif.services.fingerprint import encoded, numbered_requests
from tests.benchmarks.rows import SYSTEM, TEXT, result_lines

MODELS = {"openai": "gpt-5-nano", "anthropic": "claude-haiku-4-5", "gemini": "gemini-2.5-flash"}
DIALECTS = {"openai": "responses", "anthropic": "anthropic", "gemini": "gemini"}
#: ``text``: the core's own; ``messages`` and ``agent``: the same by pydantic-ai; ``image``: a file of 100 kB beside it.
FORMS = ("text", "messages", "image", "agent")
IMAGE_BYTES = 100_000
WARM_UP_ROWS = 20


def rows(form: str, count: int) -> Iterator[Any]:
    """Yield rows that say the same."""
    if form in ("text", "agent"):
        yield from ({"custom_id": f"row-{n}", "prompt": f"{n} {TEXT}"} for n in range(count))
        return
    from pydantic_ai import BinaryContent

    for n in range(count):
        pieces: list[Any] = [f"{n} {TEXT}"]
        if form == "image":
            pieces.append(BinaryContent(n.to_bytes(8, "big") * (IMAGE_BYTES // 8), media_type="image/png"))
        yield {"custom_id": f"row-{n}", "prompt": pieces}


class _Bench:
    """One provider and form."""

    def __init__(self, provider: str, form: str, codec: RichCodec) -> None:
        self.provider, self.form, self.codec = provider, form, codec
        self.adapter = make_adapter(ConnectionSettings(provider=provider, api_key="none"))
        system = None if form == "agent" else SYSTEM
        endpoint = self.adapter.endpoints[0]
        self.defaults = RequestDefaults(model=MODELS[provider], endpoint=endpoint, system=system, max_tokens=1000)

    def write(self, count: int) -> EntryRequest:
        """Write requests as a batch's spool has them, and keep none."""
        encode = self.adapter.make_encoder(self.defaults)
        given = self.codec.requests(rows(self.form, count), self.defaults, self.adapter)
        for index, request in numbered_requests(given):
            encoded(encode, request, index, f"raif-{index}")
        return request

    def read(self, count: int, request: EntryRequest) -> None:
        """Read answers as the result rows have them."""
        batch: Any = SimpleNamespace(provider=self.provider, model=self.defaults.model, batch_id="b")
        recipe = self.codec.recipe()
        reader = self.codec.reader(batch, recipe) if recipe is not None else None
        for line in result_lines(DIALECTS[self.provider], "raif", 0, count):
            result = self.adapter.apply_batch_result(line)
            if reader is not None:
                reader.output(line, result)
            elif request.reading is not None:
                self.codec.response(line, bytes(request.reading), batch)


def make_agent() -> Any:
    """Return an agent that asks what the others ask."""
    from pydantic_ai import Agent

    return Agent(output_type=str, instructions=SYSTEM)


def _memory(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) / 1024


def main() -> None:
    provider, form, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with closing(RichCodec(make_agent if form == "agent" else None)) as codec:
        bench = _Bench(provider, form, codec)
        before, resident = time.process_time(), _memory("VmRSS")
        request = bench.write(WARM_UP_ROWS)
        bench.read(WARM_UP_ROWS, request)
        once = {"import_s": time.process_time() - before, "import_mib": _memory("VmRSS") - resident}
        Path("/proc/self/clear_refs").write_text("5")
        resident, times = _memory("VmRSS"), [time.process_time()]
        request = bench.write(count)
        times.append(time.process_time())
        bench.read(count, request)
        times.append(time.process_time())
        written, read = ((after - start) / count * 1e6 for start, after in pairwise(times))
        print(json.dumps({"write": written, "read": read, "mib": _memory("VmHWM") - resident, **once}))


if __name__ == "__main__":
    main()
