"""An address that stands in the DAG is a template; one that comes from elsewhere is data."""

from __future__ import annotations

from tests.integration.test_example_dags import load, output_of

DAGS = """
from airflow.sdk import DAG, task
from airflow_raif.operators.batch import BatchInferenceOperator

OPENAI = {{"conn_id": "openai_default", "model": "gpt-5-nano"}}

with DAG("addresses", schedule=None, params={{"name": "mine"}}) as dag:

    @task
    def upstream():
        return ["{home}/{{{{ params.name }}}}.jsonl"]

    BatchInferenceOperator(task_id="stands", requests="{home}/{{{{ params.name }}}}.jsonl", **OPENAI)
    BatchInferenceOperator.partial(task_id="comes", **OPENAI).expand(requests=upstream())
"""


def test_what_is_rendered(migrated, emulator_of, connections, monkeypatch, tmp_path):
    """What a task hands on may be anybody's text, and Airflow's variables and connections are in reach of templates."""
    connections(emulator_of())
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "addresses.py").write_text(DAGS.format(home=tmp_path))
    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(tmp_path / "dags"))
    (tmp_path / "mine.jsonl").write_text('"a"\n')
    (tmp_path / "{{ params.name }}.jsonl").write_text('"a"\n"b"\n')
    run = load(tmp_path / "dags", "addresses").dag.test()
    assert run.state == "success"
    assert output_of(run, "stands")["request_count"] == 1
    assert output_of(run, "comes", 0)["request_count"] == 2
