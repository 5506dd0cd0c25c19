"""What the package adds to Airflow's own components: the monitoring pages, and where Airflow's UI shows them.

Every component imports this module, so it imports nothing of the pages; :mod:`airflow_raif.plugin.mount` builds them
on the first request.

==============  =======================================================================
``mount``       the ASGI application that Airflow mounts at ``/raif``
``app``         the FastAPI application behind it: routes, headers, errors
``access``      who may see and do what
``forgery``     that an action was asked for on our own pages
``pages``       lists and batches, as HTML
``actions``     cancel, fetch, retry, expire: asked first, then done off the event loop
``api``         the same as JSON
``prometheus``  figures of all batches, for its server to read
``shown``       how values are shown; what is hostile in a text is made visible
==============  =======================================================================
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from airflow.sdk.plugins_manager import AirflowPlugin

from airflow_raif.hooks.airflow_server import api_base_url
from airflow_raif.hooks.pages import BASE_PATH
from airflow_raif.plugin.mount import LazyApplication


def _views() -> list[dict[str, Any]]:
    """Return where Airflow's UI shows the pages; it fills the braces in."""
    root = f"{urlsplit(api_base_url()).path}{BASE_PATH}"
    tab = {"name": "LLM batches"}
    dag, run = "dag_id={DAG_ID}", "run_id={RUN_ID}"
    task = "task_id={TASK_ID}&map_index={MAP_INDEX}"
    return [
        {"name": "LLM batches", "destination": "nav", "category": "browse", "url_route": "raif", "href": f"{root}/"},
        {**tab, "destination": "dag", "url_route": "raif_dag", "href": f"{root}/?{dag}"},
        {**tab, "destination": "dag_run", "url_route": "raif_run", "href": f"{root}/?{dag}&{run}"},
        {**tab, "destination": "task_instance", "url_route": "raif_ti", "href": f"{root}/task?{dag}&{run}&{task}"},
    ]


class RaifPlugin(AirflowPlugin):
    """Registers the package with Airflow."""

    name = "raif"
    fastapi_apps = [{"app": LazyApplication(), "url_prefix": BASE_PATH, "name": "LLM batches"}]
    external_views = _views()
