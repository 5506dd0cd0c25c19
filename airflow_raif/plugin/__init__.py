"""What the package adds to Airflow's own components."""

from __future__ import annotations

from airflow.sdk.plugins_manager import AirflowPlugin


class RaifPlugin(AirflowPlugin):
    """Registers the package with Airflow."""

    name = "raif"
