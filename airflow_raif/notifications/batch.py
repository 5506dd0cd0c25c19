"""The notifier of a task's batch: hands what became of it to other notifiers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

from airflow_raif.hooks.airflow_compat import read_xcom
from airflow_raif.hooks.pages import batch_page
from airflow_raif.operators._showing import BATCH_ID_KEY, MANIFEST_KEY

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)


class BatchNotifier(BaseNotifier):
    """Tell of a task's batch by other notifiers, as ``on_success_callback``, ``on_failure_callback`` and so on.

    .. code-block:: python

        BatchNotifier(SlackNotifier(slack_conn_id="slack", text="{{ batch_message }}", channel="#llm"))

    The templates of the other notifiers have, beside Airflow's own variables, ``batch`` and ``batch_message``. The
    first is the manifest of the batch (``batch_id``, ``status``, ``counts``, ``usage``, ``cost``, ``result_uri``,
    ``error`` and so on) with the address of its page in ``url``; of a mapped task that applies one part, it is that
    part's. It is none if the task failed before it had a batch, and all else is none if the tables do not answer.

    ``batch.error`` is the provider's own text; escape it where it could be markup.

    :param notifiers: notifiers of any package, or functions of the context, called one after another; each is called,
        whatever the others raise. None: the message goes to the task's log.
    :param message: Jinja template of ``batch_message``; default: one line with the batch's id, status, rows by reason,
        tokens, cost in US dollars and address.
    """

    def __init__(self, *notifiers: Callable[[Context], Any], message: str | None = None) -> None:
        super().__init__()
        self.notifiers = notifiers
        self.message = message

    def notify(self, context: Context) -> None:
        """Look the batch up, make the message, and call every notifier.

        :raises Exception: what the first notifier raised that could not tell it.
        """
        batch = self._find(context)
        variables: Any = {**context, "batch": batch}
        message = (
            describe(context["ti"], batch) if self.message is None else self.render_template(self.message, variables)
        )
        variables["batch_message"] = message
        if not self.notifiers:
            log.info("%s", message)
        failure: Exception | None = None
        for notifier in self.notifiers:
            try:
                notifier(variables)
            except Exception as error:
                log.exception("%s could not tell of the batch", type(notifier).__name__)
                failure = failure or error
        if failure is not None:
            raise failure

    def _find(self, context: Context) -> dict[str, Any] | None:
        """Return the manifest of the task's batch: the one it left, or the tables' newest."""
        ti = context["ti"]
        manifest = read_xcom(ti, MANIFEST_KEY)
        if manifest is None:
            batch_id = read_xcom(ti, BATCH_ID_KEY)
            manifest = self._look_up(batch_id) if batch_id else None
        return None if manifest is None else {**manifest, "url": batch_page(manifest["batch_id"])}

    def _look_up(self, batch_id: str) -> dict[str, Any] | None:
        from airflow_raif.domain.errors import RaifError
        from airflow_raif.hooks.runtime import open_batch_runtime
        from airflow_raif.services.manifest import MANIFEST_KEYS, manifest_of
        from airflow_raif.store import BatchMissingError

        try:
            with open_batch_runtime(batch_id) as (runtime, batch):
                return manifest_of(runtime, batch)
        except BatchMissingError:
            return None
        except RaifError as error:
            # Better told of without figures than not at all.
            log.warning("Batch %s cannot be looked up: %s", batch_id, error)
            return {**dict.fromkeys(MANIFEST_KEYS), "batch_id": batch_id}


def describe(task_instance: Any, batch: Mapping[str, Any] | None) -> str:
    """Return the message in one line. No word in it is a provider's or a model's, which could be markup.

    :param batch: a manifest, or as much of it as is known; ``None``: there is none.
    """
    from airflow_raif.services.manifest import in_words

    name = f"{task_instance.dag_id}.{task_instance.task_id}"
    if (task_instance.map_index if task_instance.map_index is not None else -1) >= 0:
        name += f" [{task_instance.map_index}]"
    if batch is None:
        return f"{name} made no batch in run {task_instance.run_id}; its log says why."
    if batch["counts"] is None:
        return f"Batch {batch['batch_id']} of {name}: its figures cannot be had now. {batch['url']}"
    what = f"Part {batch['part']} of batch" if "part" in batch else "Batch"
    return (
        f"{what} {batch['batch_id']} of {name} ({batch['provider']}, {batch['model']}) is {batch['status']}:"
        f" {in_words(batch)}. {batch['url']}"
    )
