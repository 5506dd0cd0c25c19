"""Addresses of our pages in Airflow, for links, messages and whoever else leads there."""

from __future__ import annotations

from urllib.parse import quote

from airflow.sdk import conf

#: Where the pages are, below Airflow's own address.
BASE_PATH = "/raif"


def batch_page(batch_id: str) -> str:
    """Return the address of a batch's page; without ``[api] base_url``, one that leads there from Airflow's pages."""
    base_url = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base_url}{BASE_PATH}/batches/{quote(batch_id, safe='')}"
