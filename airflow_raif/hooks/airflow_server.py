"""Airflow's names that are not public, of its API server: who asks, who may do what, and the audit log.

Like :mod:`airflow_raif.hooks.airflow_compat`, but nothing of it is for workers and triggerers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from airflow_raif.domain.batch import Claim


def api_base_url() -> str:
    """Return where users reach Airflow, as far as it is configured, without a slash at the end; a path at least."""
    from airflow.configuration import conf

    return str(conf.get("api", "base_url", fallback="") or "").rstrip("/")


def get_user() -> Callable[..., Any]:
    """Return FastAPI's dependency that yields who asks; it answers 401 or 403 to who has no valid session or token."""
    from airflow.api_fastapi.core_api.security import get_user

    return get_user


def login_url(next_url: str) -> str:
    """Return where to log in, and go on from there."""
    return str(_auth_manager().get_url_login(next_url=next_url))


def authorized_dag_ids(user: Any, dag_ids: Collection[str]) -> set[str]:
    """Return those of the Dags that a user may read; whether also if Airflow does not know them any more."""
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    manager = _auth_manager()
    with create_session() as session:
        known = set(session.scalars(select(DagModel.dag_id)))
        allowed: set[str] = manager.get_authorized_dag_ids(user=user, method="GET", session=session)
    gone = set(dag_ids) - known
    return (allowed & set(dag_ids)) | set(manager.filter_authorized_dag_ids(dag_ids=gone, user=user, method="GET"))


def team_of_dag(dag_id: str) -> str | None:
    """Return the team that a Dag is of, if there are teams."""
    from airflow.models.dag import DagModel

    team: str | None = DagModel.get_team_name(dag_id)
    return team


def may_access_dag(user: Any, dag_id: str, team: str | None, method: str, entity: str | None = None) -> bool:
    """Whether a user may do something to a Dag, or to what belongs to it.

    :param team: see :func:`team_of_dag`.
    :param method: ``GET`` to read, ``PUT`` to edit.
    :param entity: a name of ``DagAccessEntity``, such as ``TASK_LOGS``.
    """
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails

    details = DagDetails(id=dag_id, team_name=team)
    what = DagAccessEntity[entity] if entity else None
    return bool(_auth_manager().is_authorized_dag(method=method, access_entity=what, details=details, user=user))


def may_access_connection(user: Any, conn_id: str, method: str) -> bool:
    """Whether a user may read (``GET``) or edit (``PUT``) a connection."""
    from airflow.api_fastapi.auth.managers.models.resource_details import ConnectionDetails
    from airflow.models import Connection

    details = ConnectionDetails(conn_id=conn_id, team_name=Connection.get_team_name(conn_id))
    return bool(_auth_manager().is_authorized_connection(method=method, details=details, user=user))


def write_audit_log(user: Any, event: str, claim: Claim | None, extra: Mapping[str, Any]) -> None:
    """Write who did something into Airflow's audit log, as its own API does."""
    from airflow.models.log import Log
    from airflow.utils.session import create_session

    task = {} if claim is None else {name: getattr(claim, name) for name in claim.__struct_fields__}
    name = user.get_name()
    with create_session() as session:
        session.add(Log(event=event, owner=name, owner_display_name=name, extra=json.dumps(extra), **task))


def signing_key() -> str:
    """Return the key that Airflow's API server signs with."""
    from airflow.api_fastapi.auth.tokens import get_signing_key

    return str(get_signing_key("api", "secret_key"))


def _auth_manager() -> Any:
    from airflow.api_fastapi.app import get_auth_manager

    return get_auth_manager()
