"""The rich form: pydantic-ai's messages and agents as requests. Must not import Airflow, nor pydantic-ai at the top."""
