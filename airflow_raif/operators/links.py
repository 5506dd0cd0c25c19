"""Links of a task instance in Airflow's pages: to its batch's page, and to the provider's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

from airflow_raif.hooks.airflow_compat import read_xcom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator


class _BatchLink(BaseOperatorLink):
    """A link that the task pushed as soon as it knew its batch, long before it ends."""

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return what this task instance itself pushed; empty: it has no batch, or nothing to link to.

        Airflow asks for it once more when the task ends or is deferred, in the worker; there the task knows, and what
        it never pushed would be looked for in vain, with an error in the log.
        """
        pushed = getattr(operator, "_shown", None)
        if pushed is None:
            pushed = {self.xcom_key: read_xcom(ti_key, self.xcom_key)}
        return str(pushed.get(self.xcom_key) or "")


class BatchPageLink(_BatchLink):
    """The page of the task's batch."""

    name = "LLM batch"


class ProviderConsoleLink(_BatchLink):
    """The provider's own page of the batch job, where it has one: OpenAI's, and Anthropic's list of batches."""

    name = "Provider console"
