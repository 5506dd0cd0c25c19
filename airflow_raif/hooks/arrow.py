"""pyarrow, which reads and writes Parquet files: imported only where there are some."""

from __future__ import annotations

from typing import Any

from airflow_raif.domain.errors import ConfigurationError


def load_parquet() -> tuple[Any, Any]:
    """Return the modules ``pyarrow`` and ``pyarrow.parquet``.

    :raises ConfigurationError: they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigurationError(
            "Parquet files need pyarrow, which is not installed: pip install 'airflow-raif[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet
