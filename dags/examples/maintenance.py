"""Every hour: look after batches whose tasks are gone, and tidy up what was applied a month ago."""

from __future__ import annotations

from datetime import timedelta

from airflow_raif.operators.maintenance import maintenance_dag

dag = maintenance_dag(
    max_age=timedelta(hours=26),
    delete_files_after=timedelta(days=7),
    delete_spools_after=timedelta(days=30),
)
