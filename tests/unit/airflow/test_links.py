"""Links of a task instance: pushed as soon as the batch is known, to pages that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_raif.adapters.openai import OpenAIAdapter
from airflow_raif.adapters.registry import make_adapter
from airflow_raif.decorators.batch import raif_batch_task
from airflow_raif.emulator.settings import Progress
from airflow_raif.get_provider_info import get_provider_info
from airflow_raif.operators.batch import (
    ApplyBatchResultsOperator,
    BatchInferenceOperator,
    CancelBatchOperator,
    SubmitBatchOperator,
)
from airflow_raif.sensors.batch import WaitForBatchSensor
from tests.support import settings_of

OPENAI = {"conn_id": "openai_default", "model": "gpt-5-nano"}
PAGE, CONSOLE = "_link_BatchPageLink", "_link_ProviderConsoleLink"
SLOW = {"progress": Progress.parse("polls:1000")}


@pytest.mark.parametrize(
    ("provider", "host", "ids", "page"),
    [
        ("openai", None, ["batch_1"], "https://platform.openai.com/batches/batch_1"),
        ("openai", None, ["batch_1", "batch_2"], "https://platform.openai.com/batches"),
        ("openai", "https://api.openai.com/v1/", ["../x?y#z"], "https://platform.openai.com/batches/..%2Fx%3Fy%23z"),
        ("openai", "https://llm.example/v1", ["batch_1"], None),
        ("anthropic", None, ["msgbatch_1"], "https://platform.claude.com/settings/workspaces/default/batches"),
        ("anthropic", "https://llm.example", ["msgbatch_1"], None),
        ("gemini", None, ["batches/1"], None),
    ],
)
def test_pages_of_the_providers(provider, host, ids, page):
    """Each provider's own, of the one batch job where it can be told; none for servers that only speak its API."""
    settings = settings_of(provider, host or "")
    object.__setattr__(settings, "base_url", host)
    assert make_adapter(settings).console_page(ids) == page


def test_links_while_the_input_is_still_read(emulator_of, providers, context):
    """The batch's page can be looked at before the first row is sent."""
    providers(emulator_of(**SLOW))
    seen = []

    def rows():
        seen.append(dict(context["pushed"]))
        yield "a"

    SubmitBatchOperator(task_id="t", requests=rows, **OPENAI).execute(context)
    batch_id = context["pushed"]["raif_batch_id"]
    assert seen[0] == {"raif_batch_id": batch_id, PAGE: f"/raif/batches/{batch_id}"}


def test_the_providers_page_once_the_batch_is_there(emulator_of, providers, context, monkeypatch):
    """It is pushed before the task is deferred."""
    emulator = emulator_of(**SLOW)
    providers(emulator)
    monkeypatch.setattr(OpenAIAdapter, "default_base_url", f"{emulator.url}/v1")
    with pytest.raises(TaskDeferred):
        BatchInferenceOperator(task_id="t", requests=["a"], **OPENAI).execute(context)
    (provider_batch_id,) = emulator.state.batches["openai"]
    assert context["pushed"][CONSOLE] == f"https://platform.openai.com/batches/{provider_batch_id}"


def test_a_task_that_ends_knows_its_links(emulator, providers, context):
    """Airflow asks a worker for them; a server that has no page of its own is not looked up for one."""
    providers(emulator)
    task = SubmitBatchOperator(task_id="t", requests=["a"], **OPENAI)
    task.execute(context)
    page, console = (link.get_link(task, ti_key=context["ti"]) for link in task.operator_extra_links)
    assert page == context["pushed"][PAGE]
    assert console == ""


def test_every_task_of_a_batch_links_to_it(emulator, providers, context):
    """Sensor, apply and cancel know the batch they were given."""
    providers(emulator)
    manifest = SubmitBatchOperator(task_id="s", requests=["a"], **OPENAI).execute(context)
    for task in (
        WaitForBatchSensor(task_id="w", batch=manifest, deferrable=False, poke_interval=0.01),
        ApplyBatchResultsOperator(task_id="a", batch=manifest),
        CancelBatchOperator(task_id="c", batch=manifest),
    ):
        context["pushed"].clear()
        task.execute(context)
        assert context["pushed"][PAGE] == f"/raif/batches/{manifest['batch_id']}"
        assert context["pushed"]["raif_batch_id"] == manifest["batch_id"]


@pytest.mark.parametrize("base_url", ["https://air.example/team/", "https://air.example/team"])
def test_airflows_own_address(base_url, emulator, providers, context, monkeypatch):
    """Behind a proxy's path the page is there, too."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    providers(emulator)
    SubmitBatchOperator(task_id="s", requests=["a"], **OPENAI).execute(context)
    batch_id = context["pushed"]["raif_batch_id"]
    assert context["pushed"][PAGE] == f"https://air.example/team/raif/batches/{batch_id}"


def test_wrong_input_leaves_no_link(emulator, providers, context):
    """Nothing is kept of a batch whose input is wrong, so nothing leads to it."""
    providers(emulator)
    with pytest.raises(AirflowFailException):
        SubmitBatchOperator(task_id="t", requests=[7], **OPENAI).execute(context)
    assert context["pushed"] == {"raif_batch_id": None, PAGE: None}


def test_links_of_a_serialized_dag(monkeypatch):
    """Airflow's pages know both links of every operator, mapped and decorated ones too."""
    from airflow.serialization.serialized_objects import DagSerialization

    # The API server reads links, a scheduler does not; this one flag of the process is of whoever read a DAG last.
    monkeypatch.setattr(DagSerialization, "_load_operator_extra_links", True)

    @raif_batch_task(**OPENAI)
    def decorated():
        yield "a"

    with DAG("links") as dag:
        submit = SubmitBatchOperator(task_id="submit", requests=["a"], **OPENAI)
        wait = WaitForBatchSensor(task_id="wait", batch=submit.output, returns="parts")
        ApplyBatchResultsOperator.partial(task_id="apply", batch=submit.output).expand(part=wait.output)
        CancelBatchOperator(task_id="cancel", batch=submit.output)
        BatchInferenceOperator(task_id="whole", requests=["a"], **OPENAI)
        decorated()
    read = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    assert len(read.task_dict) == 6
    for task in read.task_dict.values():
        links = {name: link.xcom_key for name, link in task.operator_extra_link_dict.items()}
        assert links == {"LLM batch": PAGE, "Provider console": CONSOLE}, task.task_id


def test_links_are_registered():
    """Airflow lists them among the package's."""
    names = {Path(each).suffix[1:] for each in get_provider_info()["extra-links"]}
    assert names == {"BatchPageLink", "ProviderConsoleLink"}
