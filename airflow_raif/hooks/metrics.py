"""Metrics through Airflow's own: StatsD, DogStatsD or OpenTelemetry, as ``[metrics]`` says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow_raif.hooks.airflow_compat import metrics_client

log = logging.getLogger(__name__)


class AirflowMetrics:
    """Hands metrics to Airflow; what cannot be counted stops no work."""

    def count(self, name: str, by: int, tags: Mapping[str, str]) -> None:
        """Add to a counter."""
        _tell("incr", name, by, tags)

    def gauge(self, name: str, value: int, tags: Mapping[str, str]) -> None:
        """Tell a value that holds until the next one."""
        _tell("gauge", name, value, tags)

    def time(self, name: str, took: timedelta, tags: Mapping[str, str]) -> None:
        """Tell how long something took."""
        _tell("timing", name, took, tags)


def _tell(how: str, name: str, value: Any, tags: Mapping[str, str]) -> None:
    try:
        getattr(metrics_client(), how)(name, value, tags=dict(tags))
    except Exception:
        log.exception("The metric %s could not be sent", name)
