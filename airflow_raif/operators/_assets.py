"""What the events of a task's outlets tell of its batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset

from airflow_raif.hooks.airflow_compat import partition_key_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

#: What of a manifest goes into an event's ``extra``.
_TOLD = (
    "batch_id", "provider", "model", "status", "part", "first_row", "request_count", "counts", "usage", "cost",
    "result_uri", "destination_uri",
)  # fmt: skip


def tell_assets(operator: BaseOperator, context: Context, manifest: Mapping[str, Any]) -> None:
    """Put the account of a batch into the events that Airflow makes of the task's outlets once it succeeds."""
    assets = [each for each in operator.outlets if isinstance(each, Asset)]
    if not assets:
        return
    extra = {name: manifest[name] for name in _TOLD if name in manifest}
    if (key := partition_key_of(context)) is not None:
        extra["partition_key"] = key
    events = context["outlet_events"]
    for asset in assets:
        events[asset].extra.update(extra)
