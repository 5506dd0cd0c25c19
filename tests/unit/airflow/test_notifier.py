"""The notifier: what it hands to others, and what it does when something is not to be had."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.sdk import BaseNotifier

from airflow_raif.domain.errors import PartialBatchError
from airflow_raif.emulator.faults import RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.notifications.batch import BatchNotifier
from airflow_raif.operators.batch import ApplyBatchResultsOperator, BatchInferenceOperator, SubmitBatchOperator
from airflow_raif.sensors.batch import WaitForBatchSensor
from airflow_raif.services.manifest import MANIFEST_KEYS

OPENAI = {"conn_id": "openai_default", "model": "gpt-5-nano", "requests": ["a", "b"]}


class Mail(BaseNotifier):
    """Stands for a notifier of any package."""

    template_fields = ("subject",)

    def __init__(self, subject, broken=False):
        super().__init__()
        self.subject = subject
        self.broken = broken
        self.sent = []

    def notify(self, context):
        if self.broken:
            raise ConnectionError("no mail today")
        self.sent.append(self.subject)


@pytest.fixture
def xcom(monkeypatch, airflow_database, context):
    """Stand in for the supervisor that reads XCom: what the task pushed."""
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import XComResult

    others = task_runner.SUPERVISOR_COMMS.send

    def send(message):
        if type(message).__name__ == "GetXCom":
            own = (context["ti"].dag_id, context["ti"].run_id, context["ti"].task_id)
            assert (message.dag_id, message.run_id, message.task_id) == own
            return XComResult(key=message.key, value=context["pushed"].get(message.key))
        return others(message)

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", SimpleNamespace(send=send), raising=False)


def tell(context, subject="{{ batch_message }}", **arguments):
    mail = Mail(subject)
    BatchNotifier(mail, **arguments)(context)
    return mail.sent[0]


def test_a_submission(emulator_of, providers, context, xcom):
    """A task without a manifest of results is told of by what the tables have now."""
    providers(emulator_of(progress=Progress.parse("polls:99")))
    manifest = SubmitBatchOperator(task_id="t", **OPENAI).execute(context)
    said = tell(context, "{{ batch.status }} {{ batch.counts.pending }} {{ batch.url }} {{ batch_message }}")
    page = f"/raif/batches/{manifest['batch_id']}"
    assert said.startswith(f"in_progress 2 {page} Batch {manifest['batch_id']} of dag.task (openai, gpt-5-nano) is")
    assert said.endswith(f"0 of 2 rows completed; 0 tokens in, 0 out; cost unknown. {page}")


def test_a_wait(emulator, providers, context, xcom):
    """The sensor's own batch is known, too."""
    providers(emulator)
    manifest = SubmitBatchOperator(task_id="t", **OPENAI).execute(context)
    context["pushed"].clear()
    WaitForBatchSensor(task_id="t", batch=manifest, deferrable=False, poke_interval=0.01).execute(context)
    assert "is ended: 2 of 2 rows completed" in tell(context)


def test_one_part(emulator, providers, connection, context, xcom):
    """A mapped task tells of its own part, and of its place."""
    connection(
        "openai_default", conn_type="raif_openai", password="good-key", host=f"{emulator.url}/v1",
        extra={"max_requests": 1},
    )  # fmt: skip
    batch = BatchInferenceOperator(task_id="t", deferrable=False, poll_interval=0.01, **OPENAI).execute(context)
    context["pushed"].clear()
    context["ti"].map_index = 1
    ApplyBatchResultsOperator(task_id="t", batch=batch, part=1).execute(context)
    said = tell(context)
    assert said.startswith(f"Part 1 of batch {batch['batch_id']} of dag.task [1] (openai, gpt-5-nano) is ended: 1 of 1")


def test_a_message_of_the_users_own(emulator, providers, context, xcom):
    """It sees the manifest and Airflow's variables; what is in the manifest is not rendered once more."""
    providers(emulator)
    context["run_id"] = "nightly"
    metadata_template = "{{ run_id }}: {{ batch.counts.reasons.refused }} refused, {{ batch.cost.batch }} USD"
    emulator.state.faults.rows.append(RowFault(kind="refused", rows=[1]))
    operator = BatchInferenceOperator(
        task_id="t", deferrable=False, poll_interval=0.01, max_failed_fraction=0.1, **OPENAI
    )
    with pytest.raises(PartialBatchError):
        operator.execute(context)
    cost = context["pushed"]["raif_manifest"]["cost"]["batch"]
    assert tell(context, message=metadata_template) == f"nightly: 1 refused, {cost} USD"
    context["pushed"]["raif_manifest"]["error"] = "{{ 7 * 7 }}"
    assert tell(context, message="{{ batch.error }}") == "{{ 7 * 7 }}"


def test_the_providers_own_words_are_in_no_message(emulator, providers, context, xcom):
    """An error's text could be markup of whatever shows the message."""
    providers(emulator)
    BatchInferenceOperator(task_id="t", deferrable=False, poll_interval=0.01, **OPENAI).execute(context)
    context["pushed"]["raif_manifest"]["error"] = "<!channel> <script>"
    assert "<" not in tell(context)


def test_tables_that_are_away(emulator_of, providers, context, xcom, monkeypatch):
    """The message goes out without figures, and no template fails for what is missing."""
    providers(emulator_of(progress=Progress.parse("polls:99")))
    batch_id = SubmitBatchOperator(task_id="t", **OPENAI).execute(context)["batch_id"]
    monkeypatch.setenv("AIRFLOW__RAIF__SQL_ALCHEMY_CONN", "postgresql://raif:x@127.0.0.1:9/raif")
    monkeypatch.setenv("AIRFLOW__RAIF__STORE_TIMEOUT", "0")
    said = tell(context, "{{ batch.status }} {{ batch.cost }} {{ batch_message }}")
    assert said == f"None None Batch {batch_id} of dag.task: its figures cannot be had now. /raif/batches/{batch_id}"


def test_each_notifier_is_called(emulator_of, providers, context, xcom, caplog):
    """One that raises keeps no other from telling it, and the callback fails with its error."""
    providers(emulator_of(progress=Progress.parse("polls:99")))
    SubmitBatchOperator(task_id="t", **OPENAI).execute(context)
    seen, last = [], Mail("{{ batch.provider }}")
    notifier = BatchNotifier(lambda each: seen.append(each["batch"]["batch_id"]), Mail("x", broken=True), last)
    with pytest.raises(ConnectionError, match="no mail today"):
        notifier(context)
    assert seen == [context["pushed"]["raif_batch_id"]]
    assert last.sent == ["openai"]
    assert "Mail could not tell of the batch" in caplog.text


def test_without_notifiers_the_log_has_it(emulator_of, providers, context, xcom, caplog):
    """The line is in the task's log."""
    caplog.set_level("INFO")
    providers(emulator_of(progress=Progress.parse("polls:99")))
    SubmitBatchOperator(task_id="t", **OPENAI).execute(context)
    BatchNotifier()(context)
    assert f"Batch {context['pushed']['raif_batch_id']} of dag.task" in caplog.text


def test_the_keys_of_a_manifest(emulator, providers, context):
    """What a message's template may use is there whether the tables answer or not."""
    providers(emulator)
    assert set(SubmitBatchOperator(task_id="t", **OPENAI).execute(context)) == set(MANIFEST_KEYS)
