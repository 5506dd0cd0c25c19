"""Airflow's names that are not public, all in one place, and what differs between its versions."""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow.configuration import AIRFLOW_HOME
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError
from airflow.sdk.observability.stats import Stats

from airflow_raif.domain.batch import Claim
from airflow_raif.domain.errors import TaskMissingError

__all__ = [
    "AIRFLOW_HOME",
    "AirflowNotFoundException",
    "ClearedTasks",
    "aask_database",
    "ask_database",
    "ask_secrets_backend",
    "clear_task",
    "connections_of_types",
    "ended_state",
    "initialize_metrics",
    "metrics_client",
    "read_xcom",
    "task_is_over",
    "task_state",
    "triggerer_heartbeat",
]

log = logging.getLogger(__name__)

#: Modules of Airflow's own secrets backends: environment, database and Execution API.
_OWN_BACKENDS = ("airflow.secrets.", "airflow.sdk.")
#: States of a task instance that a user or a run gave an end to.
_FINISHED = frozenset(("failed", "success", "skipped", "removed", "upstream_failed"))


async def ended_state(task_instance: Any) -> str | None:
    """Return the state that a trigger's task instance has really ended in; ``None``: it has not, or cannot be told.

    ``on_kill`` also runs when a triggerer lost its lease or the task was cleared; then the batch must live on.
    """
    from airflow.sdk.execution_time.comms import GetTaskStates, TaskStatesResult
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    map_index = task_instance.map_index if task_instance.map_index is not None else -1
    answer = await SUPERVISOR_COMMS.asend(
        GetTaskStates(
            dag_id=task_instance.dag_id,
            task_ids=[task_instance.task_id],
            run_ids=[task_instance.run_id],
            map_index=map_index if map_index >= 0 else None,
        )
    )
    if not isinstance(answer, TaskStatesResult):
        return None
    claim = Claim(task_instance.dag_id, task_instance.run_id, task_instance.task_id, map_index)
    state = _state_of(claim, answer.task_states)
    return state if state in _FINISHED else None


def task_is_over(task_instance: Any, claim: Claim) -> bool:
    """Whether the task instance that this worker runs has really ended, and was not given to another worker.

    A worker is told to end also when its task was cleared, its host is shut down, or it was silent for so long that a
    retry took its place; that retry may even have succeeded, and its batch is not this worker's to cancel any more.
    """
    return _is_current(task_instance) and task_state(task_instance, claim) in _FINISHED


def _is_current(task_instance: Any) -> bool:
    """Whether Airflow still knows this try: each has an id of its own, and the last one's counts."""
    from airflow.sdk.execution_time.comms import ValidateInletsAndOutlets

    try:
        # A question that is put by the id, and changes nothing.
        _supervisor().send(ValidateInletsAndOutlets(ti_id=task_instance.id))
    except AirflowRuntimeError as error:
        log.info("This try of the task has been given up: %s", error)
        return False
    return True


def task_state(task_instance: Any, claim: Claim) -> str | None:
    """Return the state of a task instance, asked for by a running one; ``None``: Airflow cannot tell."""
    try:
        states = task_instance.get_task_states(
            dag_id=claim.dag_id,
            task_ids=[claim.task_id],
            run_ids=[claim.run_id],
            map_index=claim.map_index if claim.map_index >= 0 else None,
        )
    except AirflowRuntimeError as error:
        log.warning("The state of %s cannot be told: %s", claim, error)
        return None
    return _state_of(claim, states)


def _state_of(claim: Claim, states: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Read a state from Airflow's answer, by run and task; a mapped task's name ends with its index there."""
    name = claim.task_id if claim.map_index < 0 else f"{claim.task_id}_{claim.map_index}"
    state = states.get(claim.run_id, {}).get(name)
    return None if state is None else str(state)


def metrics_client() -> Any:
    """Return what metrics are handed to, with ``incr``, ``gauge`` and ``timing``.

    Tasks find it set up. A triggerer and the command line set up a copy of it that is not the SDK's (3.2 and 3.3).
    """
    # Airflow 3.2 keeps it in the class, 3.3 in its module.
    if vars(Stats).get("factory") is None and getattr(sys.modules[Stats.__module__], "_factory", None) is None:
        initialize_metrics()
    return Stats


def initialize_metrics() -> None:
    """Set metrics up as ``[metrics]`` says, as Airflow does it in a task's process."""
    from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

    if inspect.signature(get_stats_factory).parameters:  # 3.2
        Stats.initialize(factory=get_stats_factory(Stats))  # type: ignore[call-arg]
    else:
        Stats.initialize(factory=get_stats_factory(), export_legacy_names=False)


def read_xcom(task_instance: Any, key: str) -> Any:
    """Return what a task instance itself pushed to XCom; ``None``: nothing."""
    from airflow.sdk.execution_time.xcom import XCom

    return XCom.get_value(ti_key=task_instance, key=key)


def ask_database() -> None:
    """Ask Airflow for something that only its database can answer.

    :raises Exception: it does not answer.
    """
    from airflow.sdk.execution_time.comms import GetDRCount

    if (comms := _supervisor()) is not None:
        comms.send(GetDRCount(dag_id="raif"))
    elif os.environ.get("_AIRFLOW_PROCESS_CONTEXT") == "server":
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            session.execute(select(1))


async def aask_database() -> None:
    """As :func:`ask_database`, without blocking the event loop of a triggerer."""
    from airflow.sdk.execution_time.comms import GetDRCount

    comms = _supervisor()
    if hasattr(comms, "asend"):
        await comms.asend(GetDRCount(dag_id="raif"))
    else:  # ``dag.test``
        ask_database()


def ask_secrets_backend(conn_id: str) -> None:
    """Ask the secrets backend that is configured, if there is one, for a connection.

    That it may not be read is an answer: a policy that names each secret refuses those that do not exist, too.

    :raises Exception: it does not answer; Airflow takes that for the connection being in none.
    """
    from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded

    for backend in ensure_secrets_backend_loaded():
        if not type(backend).__module__.startswith(_OWN_BACKENDS):
            try:
                backend.get_connection(conn_id=conn_id)
            except Exception as error:
                if not _is_refusal(error):
                    raise


def _is_refusal(error: Exception) -> bool:
    """Whether a service refused what was asked of it; each one's client has its own way to say so."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, Mapping) else ""
    said = f"{type(error).__name__} {code}".lower()
    return "denied" in said or "forbidden" in said or getattr(error, "status_code", None) == 403


def _supervisor() -> Any:
    """Return what stands for Airflow in a task or a triggerer; ``None`` elsewhere."""
    from airflow.sdk.execution_time import task_runner

    return getattr(task_runner, "SUPERVISOR_COMMS", None)


@dataclass(frozen=True)
class ClearedTasks:
    """Tasks of one run that were cleared, or would be."""

    #: In the order of their names; a mapped one with its index.
    names: list[str]
    #: Those among them that are not over: they run, wait, or are about to.
    unfinished: list[str]
    #: Nothing runs before its Dag is unpaused.
    is_paused: bool


def clear_task(claim: Claim, *, dry_run: bool = False) -> ClearedTasks:
    """Have a task instance, and all that is downstream of it in its run, run again, as Airflow's own clear does.

    Only in a process that sees Airflow's database: the API server, a command. Who may do it is to be asked before.

    :param dry_run: only tell what would be cleared.
    :raises TaskMissingError: Airflow does not know the Dag, the run or the task any more.
    """
    from airflow.models.dag import DagModel
    from airflow.models.dagbag import DBDagBag
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import clear_task_instances, find_relevant_relatives
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == claim.dag_id, DagRun.run_id == claim.run_id))
        dag = DBDagBag(load_op_links=False).get_dag_for_run(run, session=session) if run is not None else None
        found: list[Any] = []
        if dag is not None and dag.has_task(claim.task_id):
            plain = [claim.task_id] if claim.map_index < 0 else []
            mapped = [] if plain else [(claim.task_id, claim.map_index)]
            after = find_relevant_relatives(
                plain, mapped, dag=dag, run_id=claim.run_id, direction="downstream", session=session
            )
            tasks = [*plain, *mapped, *after]
            found = list(dag.clear(dry_run=True, task_ids=tasks, run_id=claim.run_id, session=session))
        if not any((ti.task_id, ti.map_index) == (claim.task_id, claim.map_index) for ti in found):
            raise TaskMissingError(claim.dag_id, claim.run_id, claim.task_id)
        unfinished = [_name_of(ti) for ti in found if _is_unfinished(ti, run)]
        is_paused = session.scalar(select(DagModel.is_paused).where(DagModel.dag_id == claim.dag_id))
        cleared = ClearedTasks(sorted(map(_name_of, found)), sorted(unfinished), bool(is_paused))
        if not dry_run:
            clear_task_instances(found, session)
    return cleared


def _is_unfinished(ti: Any, run: Any) -> bool:
    """Whether a task instance runs, waits, or is about to; one without a state comes to its turn while its run goes."""
    return str(run.state) in ("queued", "running") if ti.state is None else str(ti.state) not in _FINISHED


def _name_of(ti: Any) -> str:
    return str(ti.task_id) if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"


def triggerer_heartbeat() -> tuple[datetime | None, bool]:
    """Return when a triggerer was last heard of, and whether one is alive; asked of Airflow's database."""
    from airflow.jobs.job import most_recent_job

    job = most_recent_job("TriggererJob")
    return (None, False) if job is None else (job.latest_heartbeat, bool(job.is_alive()))


def connections_of_types(types: Collection[str]) -> list[str]:
    """Return the connections of some types in Airflow's database and environment; secrets backends cannot be listed."""
    from airflow.models import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = set(session.scalars(select(Connection.conn_id).where(Connection.conn_type.in_(list(types)))))
    for name, value in os.environ.items():
        conn_id = name.removeprefix("AIRFLOW_CONN_").lower()
        if name.startswith("AIRFLOW_CONN_") and _type_of(value) in types:
            found.add(conn_id)
    return sorted(found)


def _type_of(connection: str) -> str:
    """Return the type of a connection that is written as an address or as JSON."""
    try:
        return (
            str(json.loads(connection).get("conn_type", ""))
            if connection.startswith("{")
            else (connection.partition("://")[0].replace("-", "_"))
        )
    except ValueError:
        return ""
