"""The operator that looks after every task's batches, and a DAG of it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowException

from airflow_raif.operators import _waiting
from airflow_raif.operators._showing import ShowsItsBatch

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_raif.domain.sweep import SweepRules
    from airflow_raif.services.sweep import TaskState

_DOC = """Looks after the batches of all DAGs: fetches what nobody waits for any more, adopts lost submissions, warns
before results vanish at the provider. Its return value says what was done and what to look at."""


class MaintainBatchesOperator(BaseOperator):
    """Look once at every batch that is not done, of all DAGs and connections, and do what nobody is at.

    A batch whose waiting task is gone is polled and its results are fetched, so that no paid answer is lost at the
    provider; its task applies them when it is cleared or retried. A create whose reply was lost is looked up and
    adopted. It warns of results that will soon be deleted at the provider, and of all that needs a user. It never sends
    requests, opens rounds or applies results, and does nothing that a live task would mind.

    Returns ``{"counts", "done", "warnings"}``: what was done and what should be looked at, one line each. The task
    succeeds with warnings; it fails if there was something to do and nothing of it could be done.

    All that destroys something is off by default.

    :param grace: what was not touched for so long is taken to be left; keep it above the longest poll interval.
    :param max_age: a batch's time, from its submission; default: it ends when the provider ends it. One past its time
        is asked about once more, and fetched if it ended.
    :param cancel_expired: cancel batches past ``max_age``; what they finished is fetched. Otherwise they are told of.
    :param cancel_abandoned: cancel a batch that nobody polled for ``grace`` if the task that submitted it failed, was
        skipped or was removed; it makes up for kills that Airflow told nobody of. Not for DAGs where a failed task is
        cleared later to go on with its batch.
    :param warn_before: how long before a provider may delete results one is warned of it.
    :param delete_files_after: how long after a batch was applied its uploads and result files at the provider are
        deleted; default: never, the provider deletes them itself in time.
    :param delete_spools_after: how long after a batch was applied its requests and raw results in the spool are
        deleted; default: never. Afterwards a cleared task finds its result file where it was, but can neither write it
        anew nor repeat failed rows. Batches whose creation stopped half-way so long ago are forgotten, too.
    :param fail_on_warnings: fail the task if there is anything to look at, after everything was done.
    """

    ui_color = ShowsItsBatch.ui_color

    def __init__(
        self,
        *,
        grace: timedelta = timedelta(hours=2),
        max_age: timedelta | None = None,
        cancel_expired: bool = False,
        cancel_abandoned: bool = False,
        warn_before: timedelta = timedelta(days=7),
        delete_files_after: timedelta | None = None,
        delete_spools_after: timedelta | None = None,
        fail_on_warnings: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.grace = grace
        self.max_age = max_age
        self.cancel_expired = cancel_expired
        self.cancel_abandoned = cancel_abandoned
        self.warn_before = warn_before
        self.delete_files_after = delete_files_after
        self.delete_spools_after = delete_spools_after
        self.fail_on_warnings = fail_on_warnings
        self._check()

    def execute(self, context: Context) -> dict[str, Any]:
        """Make one pass and return its report."""
        from airflow_raif.hooks.runtime import open_runtime
        from airflow_raif.hooks.spool import spool_folder
        from airflow_raif.hooks.store import find_store
        from airflow_raif.services.sweep import sweep_batches

        with _waiting.airflow_errors():
            report = sweep_batches(
                find_store(),
                lambda batch: open_runtime(batch.conn_id, f"{batch.provider}:{batch.model}"),
                spool_folder(),
                self._rules(),
                task_state=_task_state(context) if self.cancel_abandoned else None,
            )
        counts = dict(report.counts)
        open_count = counts.pop("open", 0)
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "nothing was to be done"
        self.log.info("Looked at %s batches that were not done: %s", open_count, kinds)
        if report.is_futile or (self.fail_on_warnings and report.warnings):
            what = "nothing could be done" if report.is_futile else "there is something to look at"
            raise AirflowException(f"{what}: {'; '.join(report.as_dict()['warnings'])}")
        return report.as_dict()

    def _rules(self) -> SweepRules:
        from airflow_raif.domain.sweep import SweepRules

        return SweepRules(
            grace=self.grace,
            max_age=self.max_age,
            cancel_expired=self.cancel_expired,
            warn_before=self.warn_before,
            delete_files_after=self.delete_files_after,
            delete_spools_after=self.delete_spools_after,
        )

    def _check(self) -> None:
        for name in ("grace", "max_age", "warn_before", "delete_files_after", "delete_spools_after"):
            value = getattr(self, name)
            if value is None and name not in ("grace", "warn_before"):
                continue
            if not isinstance(value, timedelta) or value < timedelta(0):
                raise ValueError(f"{name} is {value!r}; give a timedelta, such as timedelta(days=30)")
        if self.cancel_expired and self.max_age is None:
            raise ValueError("cancel_expired says nothing without max_age; set how old a batch may be")


def maintenance_dag(dag_id: str = "raif_maintenance", schedule: Any = "@hourly", **parameters: Any) -> DAG:
    """Return a DAG of one :class:`MaintainBatchesOperator`; assign it to a name in a DAG file.

    :param dag_id: the DAG's name.
    :param schedule: when it runs; a batch's results are fetched at the latest so long after its task died.
    :param parameters: those of the operator.
    """
    with DAG(
        dag_id=dag_id,
        schedule=schedule,
        catchup=False,
        max_active_runs=1,
        doc_md=_DOC,
        tags=["raif"],
    ) as dag:
        MaintainBatchesOperator(task_id="maintain", **parameters)
    return dag


def _task_state(context: Context) -> TaskState:
    from airflow_raif.hooks.airflow_compat import task_state

    ti = context["ti"]
    return lambda claim: task_state(ti, claim)
