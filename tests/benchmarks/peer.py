"""The peer: ``LLMBatchOperator`` of apache-airflow-providers-common-ai, its own execute and execute_complete.

It knows /v1/chat/completions and Anthropic; it has no store, no cost, no columns of the user's own, no input order
and no batch beyond one part.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from pydantic import BaseModel

from tests.benchmarks.rows import DIALECTS, KEY, SYSTEM, result_lines, rows

CONN_ID = "bench_peer"
_TASK = {"dag_id": "dag", "task_id": "task", "run_id": "run", "map_index": -1}


class Answer(BaseModel):
    """What rows.SCHEMA says."""

    summary: str
    category: Literal["a", "b"]


def _operator(dialect: str, home: Path, url: str, requests: list[Any]) -> Any:
    from airflow.providers.common.ai.operators.llm_batch import LLMBatchOperator

    provider, model, _ = DIALECTS[dialect]
    host = f"{url}/v1" if provider == "openai" else url
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps(
        {"conn_type": "pydanticai", "password": KEY, "host": host}
    )
    return LLMBatchOperator(
        task_id="task", requests=requests, result_path=f"file://{home}/peer", llm_conn_id=CONN_ID,
        model_id=f"{provider}:{model}", system_prompt=SYSTEM, deferrable=True,
        output_type=Answer if dialect == "structured" else str,
    )  # fmt: skip


def _context() -> Any:
    ti = SimpleNamespace(**_TASK, xcom_push=lambda **_: None)
    return {"task_instance": ti, "ti": ti}


def _key() -> str:
    from airflow.providers.common.ai.batch import state

    return state.compute_identity_key(**_TASK)


def prepare(dialect: str, home: Path, served: Path, count: int, *, shuffled: bool = False) -> None:
    """Write the state file of a submitted batch and its results; not measured."""
    from airflow.providers.common.ai.batch import state
    from airflow.sdk import ObjectStoragePath

    key = _key()
    with (served / f"peer-{count}").open("wb") as file:
        file.writelines(result_lines(dialect, state.key16(key), 0, count, shuffled=shuffled))
    provider, model, _ = DIALECTS[dialect]
    state.write_submitted(
        ObjectStoragePath(f"file://{home}/peer"), key=key, input_fingerprint="", output_schema_digest="",
        intent_at=None, adapter=provider, llm_conn_id=CONN_ID, model_id=f"{provider}:{model}",
        output_type_ref=None, batch_id=f"peer-{count}", provider_input_ref=None, request_count=count,
        submitted_at="",
    )  # fmt: skip


def fetch(dialect: str, home: Path, url: str) -> int:
    """Resume after the trigger, as Airflow would: fetch, parse and write the results."""
    operator = _operator(dialect, home, url, ["unused"])
    record = next((home / "peer" / "_airflow_batch_state").glob("*.json"))
    event = {"status": "success", "batch_id": json.loads(record.read_text())["batch_id"], "message": ""}
    return int(operator.execute_complete(_context(), event)["counts"]["succeeded"])


def submit(dialect: str, home: Path, url: str, count: int) -> int:
    """Validate and submit, up to the deferral. It takes a list, and of a row the prompt alone."""
    from airflow.sdk.exceptions import TaskDeferred

    operator = _operator(dialect, home, url, [{"prompt": row["prompt"]} for row in rows(count)])
    with contextlib.suppress(TaskDeferred):
        operator.execute(_context())
        raise AssertionError("it did not defer")
    return count
