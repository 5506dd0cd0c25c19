"""Folders on object storage, from the configuration."""

from __future__ import annotations

from airflow.sdk import ObjectStoragePath, conf

from airflow_raif.domain.errors import ConfigurationError
from airflow_raif.hooks.airflow_compat import AIRFLOW_HOME
from airflow_raif.spool.files import Folder


def spool_folder() -> Folder:
    """Return the folder of all spools: ``[raif] spool_path``, by default in AIRFLOW_HOME."""
    return folder_at(conf.get("raif", "spool_path", fallback="") or f"file://{AIRFLOW_HOME}/raif_spool")


def result_folder(output_path: str | None, batch_id: str) -> Folder:
    """Return the folder of a batch's results: the one asked for, or the batch's own in ``[raif] result_path``."""
    return folder_at(output_path) if output_path else folder_of_results().child(batch_id)


def folder_of_results() -> Folder:
    """Return the folder of the batches' own result folders: ``[raif] result_path``, by default in AIRFLOW_HOME."""
    return folder_at(conf.get("raif", "result_path", fallback="") or f"file://{AIRFLOW_HOME}/raif_results")


def folder_at(address: str) -> Folder:
    """Return a folder by its address; a plain path is one on local disk.

    An address may name its own connection, as in ``s3://conn_id@bucket/folder``.

    :raises ConfigurationError: no provider of Airflow's that is installed knows such a storage.
    """
    has_conn_id = "@" in address.partition("://")[2].partition("/")[0]
    conn_id = None if has_conn_id else conf.get("raif", "spool_conn_id", fallback="") or None
    try:
        path = ObjectStoragePath(address if "://" in address else f"file://{address}", conn_id=conn_id)
        return Folder(path.fs, path.path, str(path))
    except ValueError as error:
        raise ConfigurationError(f"{address!r} cannot be opened: {error}; install Airflow's provider for it") from error
