"""Connections to adapters, stores and official SDK clients: the lowest floor that knows Airflow."""
