"""TaskFlow: a function yields the rows, and the next task takes the manifest of their batch."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import dag, task


@dag(schedule=None, start_date=datetime(2026, 1, 1), tags=["raif"], doc_md=__doc__)
def decorator():
    @task
    def cities():
        return ["Oslo", "Lima", "Hanoi"]

    @task.raif_batch(conn_id="anthropic_default", model="claude-haiku-4-5", max_tokens=200, retries=1)
    def describe(names, params):
        for name in names:
            yield {
                "custom_id": name,
                "prompt": f"Describe {name} in {params.get('language', 'English')}.",
                "city": name,
            }

    @task
    def report(manifest):
        return f"{manifest['counts']['completed']} cities for {manifest['cost']['batch']} dollars"

    report(describe(cities()))


dag = decorator()
