"""Who may see and do what, by Airflow's own permissions for the Dag that a batch is of.

A batch that no Dag made belongs to its connection: who may read that may see the batch, and who may edit it may act.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Path

from airflow_raif.domain.batch import Batch
from airflow_raif.hooks.airflow_server import (
    authorized_dag_ids,
    get_user,
    may_access_connection,
    may_access_dag,
    team_of_dag,
)
from airflow_raif.hooks.store import find_store_at_once
from airflow_raif.store import Store, Visible


@dataclass(frozen=True)
class Viewer:
    """Somebody who is logged in, and what they may do."""

    user: Any
    _teams: dict[str, str | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name that the audit log has."""
        return str(self.user.get_name())

    def sees(self, store: Store) -> Visible:
        """Return which batches they may see."""
        dag_ids, conn_ids = store.owners()
        allowed = authorized_dag_ids(self.user, dag_ids)
        connections = {each for each in conn_ids if may_access_connection(self.user, each, "GET")}
        return Visible(
            dag_ids=None if allowed == dag_ids else frozenset(allowed),
            conn_ids=None if connections == conn_ids else frozenset(connections),
        )

    def may_see(self, batch: Batch) -> bool:
        """Whether they may see a batch."""
        return self._may(batch, "GET")

    def may_see_payload(self, batch: Batch) -> bool:
        """Whether they may read prompts and answers: whoever may read the task's log, which may show them."""
        return self._may(batch, "GET", "TASK_LOGS")

    def may_act(self, batch: Batch) -> bool:
        """Whether they may cancel, fetch, retry and expire a batch: whoever may clear its task."""
        return self._may(batch, "PUT", "TASK_INSTANCE")

    def _may(self, batch: Batch, method: str, entity: str | None = None) -> bool:
        if batch.claim is None:
            return may_access_connection(self.user, batch.conn_id, method)
        dag_id, team = batch.claim.dag_id, self._team_of(batch.claim.dag_id)
        is_seen = may_access_dag(self.user, dag_id, team, "GET")
        return is_seen and (entity is None or may_access_dag(self.user, dag_id, team, method, entity))

    def _team_of(self, dag_id: str) -> str | None:
        if dag_id not in self._teams:
            self._teams[dag_id] = team_of_dag(dag_id)
        return self._teams[dag_id]


def _viewer(user: Annotated[Any, Depends(get_user())]) -> Viewer:
    return Viewer(user)


ViewerDep = Annotated[Viewer, Depends(_viewer)]
StoreDep = Annotated[Store, Depends(find_store_at_once)]


def _seen_batch(batch_id: Annotated[str, Path(pattern="^[0-9a-f]{32}$")], viewer: ViewerDep, store: StoreDep) -> Batch:
    batch = store.read_batch(batch_id)
    if not viewer.may_see(batch):
        raise HTTPException(403, "You may not see the batches of this Dag.")
    return batch


SeenBatch = Annotated[Batch, Depends(_seen_batch)]


def _payload_batch(batch: SeenBatch, viewer: ViewerDep) -> Batch:
    if not viewer.may_see_payload(batch):
        raise HTTPException(403, "Only who may read the logs of this Dag's tasks sees prompts and answers.")
    return batch


#: A batch whose prompts and answers may be read.
PayloadBatch = Annotated[Batch, Depends(_payload_batch)]


def _acted_batch(batch: SeenBatch, viewer: ViewerDep) -> Batch:
    if not viewer.may_act(batch):
        raise HTTPException(403, "Only who may edit the task instances of this Dag acts on its batches.")
    return batch


#: A batch that may be acted on.
ActedBatch = Annotated[Batch, Depends(_acted_batch)]
