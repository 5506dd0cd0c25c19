"""What a task process imports before its first useful byte, above Airflow itself."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator

from tests.benchmarks.figures import Figure

_AIRFLOW = "from airflow.sdk import BaseOperator"
#: What parsing a DAG imports, and what a task imports besides to submit a batch.
STEPS = {
    "ours": (
        "import airflow_raif.operators.batch, airflow_raif.sensors.batch",
        (
            "import airflow_raif.hooks.runtime, airflow_raif.services.runtime, airflow_raif.services.start,"
            " airflow_raif.services.submit, airflow_raif.store, airflow_raif.adapters.http,"
            " airflow_raif.adapters.registry, airflow_raif.adapters.openai, genai_prices"
        ),
    ),
    "peer": (
        "import airflow.providers.common.ai.operators.llm_batch",
        "import airflow.providers.common.ai.batch.openai, openai; openai.OpenAI(api_key='none').batches",
    ),
}
_PROGRAM = """
import json, sys, time
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
found = []
for step in sys.argv[1:]:
    before, memory = time.process_time(), resident()
    exec(step)
    found.append([time.process_time() - before, resident() - memory])
print(json.dumps(found))
"""


def measure_startup(runs: int, *, is_quick: bool) -> Iterator[Figure]:
    """Import in fresh processes; the floor is Airflow's own import, which every task pays."""
    found = {side: [_imports((_AIRFLOW, *steps)) for _ in range(runs)] for side, steps in STEPS.items()}
    for number, name in ((1, "parsing a DAG imports"), (2, "a task that submits imports besides")):
        for value, unit in ((0, "CPU s"), (1, "MiB")):
            ours, peer = (statistics.median(run[number][value] for run in found[side]) for side in ("ours", "peer"))
            floor = statistics.median(run[0][value] for run in found["ours"])
            yield Figure(name, unit, round(ours, 3), round(peer, 3), round(floor, 3), "imports", 0, is_quick)


def _imports(steps: tuple[str, ...]) -> list[tuple[float, float]]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, *steps], check=True, capture_output=True, text=True)
    return [tuple(each) for each in json.loads(done.stdout.splitlines()[-1])]
