"""Expire: end a batch that takes longer than its user will wait, after asking the provider once more."""

from __future__ import annotations

import logging

from airflow_raif.domain.batch import Batch
from airflow_raif.domain.errors import InvalidBatchError
from airflow_raif.services.cancel import cancel_batch
from airflow_raif.services.fetch import fetch_ended_parts
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.runtime import Runtime

log = logging.getLogger(__name__)


def expire_batch(runtime: Runtime, batch_id: str, *, may_cancel: bool = False) -> Batch:
    """Ask about a batch whose time is up; cancel it if it still runs and may be canceled; fetch what has ended.

    A cancel takes its time at the provider, so what such a batch finished may only be fetched by a later call.

    :return: the batch: terminal and fetched, or still running.
    :raises ProviderError: the provider cannot be asked; a later call goes on.
    """
    if not fetch_batch_status(runtime, batch_id).is_terminal and may_cancel:
        try:
            cancel_batch(runtime, batch_id)
        except InvalidBatchError as error:
            log.info("Nothing to cancel: %s", error)
    return fetch_ended_parts(runtime, batch_id)
