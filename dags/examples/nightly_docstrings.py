"""Every night: one summary and one category for each docstring of Python's standard library, in three steps.

Trigger it with another ``model`` and ``conn_id`` to run the same work on another provider.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from airflow.sdk import DAG, Param

from airflow_raif.operators.batch import ApplyBatchResultsOperator, SubmitBatchOperator
from airflow_raif.sensors.batch import WaitForBatchSensor

ANSWER = {
    "type": "object",
    "properties": {
        "summary": {"type": "string", "description": "What it does, in one line"},
        "category": {"type": "string", "enum": ["data", "text", "files", "network", "system", "language", "other"]},
    },
    "required": ["summary", "category"],
    "additionalProperties": False,
}


def docstrings(params: dict) -> Iterator[dict]:
    """Yield a row per documented module, class and function of the standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = (path for path in sorted(root.rglob("*.py")) if not {"site-packages", "test", "tests"} & set(path.parts))
    return islice((row for path in files for row in rows_of(path, root)), params["rows"])


def rows_of(path: Path, root: Path) -> Iterator[dict]:
    module = ".".join(path.relative_to(root).with_suffix("").parts)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # lib2to3 ships files that are wrong on purpose
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if docstring := ast.get_docstring(node):
            name = getattr(node, "name", module)
            line = getattr(node, "lineno", 0)
            yield {
                "custom_id": f"{module}:{name}:{line}",
                "module": module,
                "name": name,
                "prompt": f"Summarise in one line what this does, and say which category it belongs to.\n\n{docstring}",
            }


with DAG(
    dag_id="nightly_docstrings",
    schedule="0 2 * * *",
    catchup=False,
    params={
        "conn_id": Param("openai_default", type="string"),
        "model": Param("openai:gpt-5-nano", type="string"),
        "rows": Param(3000, type="integer", minimum=1),
    },
    doc_md=__doc__,
    tags=["raif"],
) as dag:
    submit = SubmitBatchOperator(
        task_id="submit",
        conn_id="{{ params.conn_id }}",
        model="{{ params.model }}",
        requests=docstrings,
        max_tokens=300,
        output_type=ANSWER,
        retries=1,
    )
    wait = WaitForBatchSensor(task_id="wait", batch=submit.output, retries=1)
    ApplyBatchResultsOperator(task_id="apply", batch=wait.output, retries=1)
