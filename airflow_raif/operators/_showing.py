"""What a task tells of its batch to others: ids and links in XCom, and a manifest for lineage."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_raif.hooks.pages import batch_page
from airflow_raif.operators.links import BatchPageLink, ProviderConsoleLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink

    from airflow_raif.domain.batch import Batch
    from airflow_raif.services.runtime import Runtime

#: XCom of the batch's id, pushed as soon as it is known, and of its manifest, pushed also by a task that then fails.
BATCH_ID_KEY, MANIFEST_KEY = "raif_batch_id", "raif_manifest"
_PAGE, _CONSOLE = BatchPageLink(), ProviderConsoleLink()


class ShowsItsBatch:
    """Tells early which batch a task works on."""

    #: Behind its name in the graph: the package's tasks are known at a glance.
    ui_color = "#dcecf9"
    operator_extra_links: ClassVar[Collection[BaseOperatorLink]] = (_PAGE, _CONSOLE)
    #: The manifest, or as much of it as is known so far.
    _manifest: dict[str, Any] | None = None
    _shown: dict[str, str] | None = None

    def _show(self, task_instance: Any, runtime: Runtime, batch: Batch) -> None:
        """Push a batch's id and the links to it, whatever of it was not pushed yet."""
        from airflow_raif.services.manifest import identity_of

        values = {BATCH_ID_KEY: batch.batch_id, _PAGE.xcom_key: batch_page(batch.batch_id)}
        provider_ids = [part.provider_batch_id for part in batch.parts if part.provider_batch_id]
        if provider_ids and (console := runtime.adapter.console_page(provider_ids)) is not None:
            values[_CONSOLE.xcom_key] = console
        shown = self._shown or {}
        for key, value in values.items():
            if shown.get(key) != value:
                task_instance.xcom_push(key=key, value=value)
        self._shown = shown | values
        if self._manifest is None or self._manifest["batch_id"] != batch.batch_id:
            self._manifest = identity_of(batch)

    def _show_nothing(self, task_instance: Any) -> None:
        """Take back what was pushed of a batch of which nothing was kept, since its input is wrong."""
        for key in self._shown or ():
            task_instance.xcom_push(key=key, value=None)
        self._shown = self._manifest = None

    def _show_manifest(self, task_instance: Any, manifest: dict[str, Any]) -> None:
        """Push the manifest of what was done, also if the task fails for what is in it."""
        self._manifest = manifest
        task_instance.xcom_push(key=MANIFEST_KEY, value=manifest)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return what OpenLineage is told of the task, of one that failed too; its Airflow provider asks for it."""
        from airflow_raif.operators._lineage import lineage_of

        requests = getattr(self, "requests", None)
        return lineage_of(
            self._manifest,
            address=requests if isinstance(requests, str) else None,
            sql=getattr(self, "sql", None),
            sql_conn_id=getattr(self, "sql_conn_id", None),
            destination=getattr(self, "destination", None),
        )
