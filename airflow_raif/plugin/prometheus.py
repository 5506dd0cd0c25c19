"""What the store holds now as figures for Prometheus, in the text that its server reads.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from airflow_raif.domain.usage import usd
from airflow_raif.store import BatchTally, CostRow

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Names and values.
_Labels = tuple[tuple[str, str], ...]
_Samples = Mapping[_Labels, Decimal | int]


def metrics_text(tallies: Sequence[BatchTally], costs: Sequence[CostRow], now: datetime) -> str:
    """Return all figures; they are gauges, since batches that are deleted are in none of them any more.

    :param costs: by provider; one without a known price has no figure.
    """
    rows: Counter[_Labels] = Counter()
    oldest: dict[str, datetime] = {}
    for each in tallies:
        provider, done = ("provider", each.provider), each.completed_count + each.failed_count
        rows[provider, ("outcome", "completed")] += each.completed_count
        rows[provider, ("outcome", "failed")] += each.failed_count
        rows[provider, ("outcome", "pending")] += max(each.request_count - done, 0)
        if not each.status.is_terminal:
            oldest[each.provider] = min(each.oldest_at, oldest.get(each.provider, each.oldest_at))
    batches: _Samples = {
        (("provider", each.provider), ("status", each.status.value)): each.batch_count for each in tallies
    }
    paid = {(("provider", str(each.group["provider"])),): usd(each.cost.batch) for each in costs}
    waiting: _Samples = {(("provider", name),): max(int((now - at).total_seconds()), 0) for name, at in oldest.items()}
    lines = [
        *_family("raif_batches", "Batches by their status.", batches),
        *_family("raif_rows", "Rows of batches by their outcome; pending: not known yet.", rows),
        *_family(
            "raif_cost_dollars",
            "What batches cost so far in US dollars, without answers that no price is known for.",
            {labels: amount for labels, amount in paid.items() if amount is not None},
        ),
        *_family(
            "raif_oldest_waiting_batch_age_seconds",
            "Time since the creation of the oldest batch that is not over; none: all are.",
            waiting,
        ),
    ]
    return "\n".join([*lines, ""])


def _family(name: str, explanation: str, samples: _Samples) -> Iterator[str]:
    yield f"# HELP {name} {explanation}"
    yield f"# TYPE {name} gauge"
    for labels, value in samples.items():
        told = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
        yield f"{name}{{{told}}} {value:f}" if isinstance(value, Decimal) else f"{name}{{{told}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
