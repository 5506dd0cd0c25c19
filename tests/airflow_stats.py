"""Airflow's metrics in a test's own process, set up as a task's process does it."""

from __future__ import annotations

import inspect

from airflow.sdk.observability.metrics.stats_utils import get_stats_factory
from airflow.sdk.observability.stats import Stats


def initialize_stats() -> None:
    """Read ``[metrics]`` anew; the way there differs between Airflow's versions."""
    if inspect.signature(get_stats_factory).parameters:
        Stats.initialize(factory=get_stats_factory(Stats))
    else:
        Stats.initialize(factory=get_stats_factory(), export_legacy_names=False)
