"""LLM work through the providers' Batch APIs, inside Apache Airflow."""

__version__ = "0.1.0"
