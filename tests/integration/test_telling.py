"""What a task of real Airflow tells of its batch: links, messages, lineage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow_raif.emulator.faults import RowFault
from airflow_raif.emulator.server import EmulatorServer
from airflow_raif.emulator.settings import EmulatorSettings
from tests.support import base_url

BASE_URL = "https://airflow.example/team"


@pytest.fixture(scope="module")
def night(new_home: Callable[[str], Path]) -> SimpleNamespace:
    """One run of the three DAGs, in an Airflow that sends lineage; what it left behind."""
    home = new_home("telling")
    rows = {"good": ["a", "b", "c"], "bad": ["refuse", "refuse", "c"], "none": [7]}
    for name, prompts in rows.items():
        (home / f"{name}.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    emulator = EmulatorServer(EmulatorSettings())
    emulator.state.faults.rows.append(RowFault(kind="refused", contains="refuse"))
    dags = Path(__file__).parent / "dags"
    transport = {"type": "file", "log_file_path": str(home / "events.jsonl"), "append": True}
    with emulator:
        connection = {"conn_type": "raif_openai", "password": "good-key", "host": base_url("openai", emulator.url)}
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__API__BASE_URL": f"{BASE_URL}/",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
            "AIRFLOW_CONN_OPENAI_DEFAULT": json.dumps(connection),
        }
        done = subprocess.run(
            [sys.executable, str(dags / "telling.py"), str(home / "seen.json")],
            capture_output=True, text=True, env=environment, timeout=600, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(
        log=done.stdout + done.stderr,
        told={name: (home / f"{name}.told").read_text().splitlines() for name in rows},
        events=[json.loads(line) for line in (home / "events.jsonl").read_text().splitlines()],
        home=home,
        **json.loads((home / "seen.json").read_text()),
    )


def event(night, kind, dag_id):
    (found,) = [each for each in night.events if each["eventType"] == kind and each["job"]["name"] == f"{dag_id}.ask"]
    return found


def test_a_task_that_succeeds(night):
    """The link leads to the batch's page, and the message has the figures."""
    assert night.good["state"] == "success"
    manifest = night.good["return_value"]
    page = f"{BASE_URL}/raif/batches/{manifest['batch_id']}"
    # The emulator is not the provider, whose pages do not know the batch.
    assert night.good["links"] == {"LLM batch": page, "Provider console": ""}
    usage, cost = manifest["usage"], manifest["cost"]
    (told,) = night.told["good"]
    assert told == (
        f"good: Batch {manifest['batch_id']} of good.ask (openai, gpt-5-nano) is ended: 3 of 3 rows completed;"
        f" {usage['input_tokens']} tokens in, {usage['output_tokens']} out;"
        f" ${cost['batch']} (${cost['standard']} without batches). {page}"
    )


def test_a_task_that_fails_for_its_rows(night):
    """What came of the rows is told also where it fails the task."""
    assert night.bad["state"] == "failed"
    assert night.bad["links"]["LLM batch"] == f"{BASE_URL}/raif/batches/{night.bad['raif_batch_id']}"
    (told,) = night.told["bad"]
    assert told.startswith(f"bad: ended: Batch {night.bad['raif_batch_id']} of bad.ask (openai, gpt-5-nano) is ended:")
    assert ": 1 of 3 rows completed, 2 refused; " in told


def test_a_task_that_fails_before_it_has_a_batch(night):
    """There is nothing to link to, which is no error, and the message says so."""
    assert night.none["state"] == "failed"
    assert night.told["none"] == [f"bad: : none.ask made no batch in run {night.none['run_id']}; its log says why."]
    assert night.none["links"] == {"LLM batch": "", "Provider console": ""}
    assert "Failed to push an xcom for task operator extra link" not in night.log


def test_lineage(night):
    """Airflow's OpenLineage provider sends where rows came from and went to, and what the batch cost."""
    ended = event(night, "COMPLETE", "good")
    assert [(each["namespace"], each["name"]) for each in ended["inputs"]] == [("file", f"{night.home}/good.jsonl")]
    (output,) = ended["outputs"]
    assert f"{output['namespace']}://{output['name']}" == night.good["return_value"]["result_uri"]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 3
    facet = ended["run"]["facets"]["raif_batch"]
    manifest = night.good["return_value"]
    assert facet["batchId"] == manifest["batch_id"]
    assert (facet["provider"], facet["model"], facet["connId"]) == ("openai", "gpt-5-nano", "openai_default")
    assert (facet["status"], facet["requestCount"], facet["counts"]["completed"]) == ("ended", 3, 3)
    assert facet["usage"] == manifest["usage"]
    assert (facet["cost"], facet["standardCost"]) == (
        float(manifest["cost"]["batch"]),
        float(manifest["cost"]["standard"]),
    )


def test_lineage_of_a_task_that_failed(night):
    """The batch was paid for and its results are there, so they are told of; without a batch only the input is."""
    failed = event(night, "FAIL", "bad")
    assert failed["run"]["facets"]["raif_batch"]["counts"]["reasons"] == {"refused": 2}
    assert len(failed["outputs"]) == 1
    none = event(night, "FAIL", "none")
    assert [each["name"] for each in none["inputs"]] == [f"{night.home}/none.jsonl"]
    assert "raif_batch" not in none["run"]["facets"]
    assert none["outputs"] == []


def test_no_key_in_what_is_told(night):
    """Neither lineage nor a message nor a log has the provider's key."""
    everything = night.log + json.dumps(night.events) + json.dumps(night.told)
    assert "good-key" not in everything
