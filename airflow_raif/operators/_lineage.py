"""OpenLineage: what a batch read, wrote and cost. Imported where Airflow's OpenLineage provider is, which calls it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow.providers.openlineage.extractors import OperatorLineage
from airflow.providers.openlineage.sqlparser import SQLParser, get_openlineage_facets_with_sql
from airflow.sdk import BaseHook
from attrs import define
from openlineage.client.event_v2 import Dataset, InputDataset, OutputDataset
from openlineage.client.facet_v2 import RunFacet, output_statistics_output_dataset

from airflow_raif.destinations.parquet import Parquet
from airflow_raif.destinations.sql import SqlTable

log = logging.getLogger(__name__)

#: Airflow's structure, of datasets and facets of every kind.
Lineage = OperatorLineage[Any, Any]


@define
class BatchRunFacet(RunFacet):
    """What became of a batch. Counts are rows, usage is tokens, costs are US dollars."""

    batchId: str  # noqa: N815
    provider: str
    model: str
    endpoint: str
    connId: str  # noqa: N815
    status: str | None = None
    part: int | None = None
    requestCount: int | None = None  # noqa: N815
    counts: dict[str, Any] | None = None
    usage: dict[str, int] | None = None
    cost: float | None = None
    standardCost: float | None = None  # noqa: N815
    isCostEstimated: bool | None = None  # noqa: N815


def lineage_of(
    manifest: Mapping[str, Any] | None,
    *,
    address: str | None = None,
    sql: str | None = None,
    sql_conn_id: str | None = None,
    destination: Any = None,
) -> Lineage:
    """Return the lineage of a task.

    :param manifest: of its batch, or as much of it as is known; ``None``: it has none.
    :param address: of the file that the rows come from.
    :param sql: the query that they come from.
    :param destination: where the answers went beside the result file.
    """
    lineage: Lineage = OperatorLineage()
    if address is not None:
        lineage.inputs.append(_file(InputDataset, address))
    elif sql is not None and sql_conn_id is not None:
        lineage = _of_query(sql, sql_conn_id)
    if manifest is None:
        return lineage
    lineage.run_facets["raif_batch"] = _facet(manifest)
    if (result_uri := manifest.get("result_uri")) is not None:
        lineage.outputs.append(_written(result_uri, manifest["request_count"]))
        if isinstance(destination, SqlTable) and (table := _table(destination)) is not None:
            lineage.outputs.append(table)
        if isinstance(destination, Parquet) and (address := manifest.get("destination_uri")) is not None:
            count = manifest["request_count"] if destination.failed else manifest["counts"]["completed"]
            lineage.outputs.append(_written(address, count))
    return lineage


def _written(address: str, row_count: int) -> OutputDataset:
    """Return a file of rows as a dataset."""
    found: OutputDataset = _file(OutputDataset, address)
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=row_count)
    found.outputFacets = {"outputStatistics": statistics}
    return found


def _facet(manifest: Mapping[str, Any]) -> BatchRunFacet:
    cost = manifest.get("cost") or {}
    return BatchRunFacet(
        batchId=manifest["batch_id"],
        provider=manifest["provider"],
        model=manifest["model"],
        endpoint=manifest["endpoint"],
        connId=manifest["conn_id"],
        status=manifest.get("status"),
        part=manifest.get("part"),
        requestCount=manifest.get("request_count"),
        counts=manifest.get("counts"),
        usage=manifest.get("usage"),
        cost=_number(cost.get("batch")),
        standardCost=_number(cost.get("standard")),
        isCostEstimated=cost.get("is_estimated"),
    )


def _number(amount: str | None) -> float | None:
    return None if amount is None else float(amount)


def _file(kind: Any, address: str) -> Any:
    """Return a file as a dataset, named as OpenLineage names it: without the connection that opens it.

    https://openlineage.io/docs/spec/naming
    """
    found = urlsplit(address)
    if found.scheme in ("", "file"):
        return kind(namespace="file", name=unquote(found.path))
    host = found.netloc.rpartition("@")[2]
    return kind(namespace=f"{found.scheme}://{host}", name=found.path.lstrip("/"))


def _of_query(sql: str, conn_id: str) -> Lineage:
    """Return the tables that a query reads, as the database's hook tells them; nothing if it cannot."""
    try:
        found = get_openlineage_facets_with_sql(
            hook=BaseHook.get_hook(conn_id), sql=sql, conn_id=conn_id, database=None, use_connection=False
        )
    except Exception:
        log.warning("The tables that the query reads cannot be told", exc_info=True)
        found = None
    return found or OperatorLineage()


def _table(destination: SqlTable) -> Dataset | None:
    """Return a table as a dataset, as the database's hook tells where it is; ``None``: it cannot."""
    schema, _, name = destination.table.rpartition(".")
    try:
        hook = BaseHook.get_hook(destination.conn_id)
        info = hook.get_openlineage_database_info(BaseHook.get_connection(destination.conn_id))
        if info is None:
            return None
        path = (info.database, schema or hook.get_openlineage_default_schema(), name)
    except Exception:
        log.warning("Where table %s is cannot be told", destination.table, exc_info=True)
        return None
    return OutputDataset(namespace=SQLParser.create_namespace(info), name=".".join(filter(None, path)))
