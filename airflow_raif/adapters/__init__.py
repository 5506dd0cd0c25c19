"""One file per provider, a registry, the http transport and JSONL. Must not import Airflow or an SDK."""
