"""One verb per file, each safe to call again at any time. Must not import Airflow."""
