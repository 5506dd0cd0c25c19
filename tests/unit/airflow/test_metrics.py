"""Metrics through Airflow's own, as a StatsD server on loopback receives them."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from airflow_raif.domain.errors import FailedBatchError
from airflow_raif.emulator.faults import Faults, HttpFault, RowFault
from airflow_raif.emulator.settings import Progress
from airflow_raif.hooks.airflow_compat import initialize_metrics, metrics_client
from airflow_raif.hooks.batch import BatchHook
from airflow_raif.operators.batch import BatchInferenceOperator
from airflow_raif.triggers.batch import BatchTrigger
from tests.support import MODELS, PROVIDERS

# Airflow's client of metrics is never closed.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class StatsdServer:
    """Takes what is sent to it over UDP."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        values = {"ON": "True", "HOST": "127.0.0.1", "PORT": str(self.port), "INFLUXDB_ENABLED": "True"}
        self.settings = {f"AIRFLOW__METRICS__STATSD_{name}": value for name, value in values.items()}
        self._seen: list[tuple[str, str]] = []

    def received(self) -> list[tuple[str, str]]:
        """Return each metric's name with its tags, and its value with its kind; loopback loses and delays none."""
        self._socket.setblocking(False)
        while True:
            try:
                for line in self._socket.recv(65536).decode().splitlines():
                    name, _, value = line.partition(":")
                    self._seen.append((name.removeprefix("airflow."), value))
            except BlockingIOError:
                return self._seen

    def counts(self) -> dict[str, int]:
        """Return the sums of what was counted of us, by name and tags."""
        sums: Counter[str] = Counter()
        for name, value in self.received():
            if name.startswith("raif.") and value.endswith("|c"):
                sums[name] += int(value.removesuffix("|c"))
        return dict(sums)

    def values(self, name: str) -> list[float]:
        """Return the values of a gauge or a timer, in their order."""
        return [float(value.partition("|")[0]) for found, value in self.received() if found.startswith(name)]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def statsd(monkeypatch) -> Iterator[StatsdServer]:
    server = StatsdServer()
    for name, value in server.settings.items():
        monkeypatch.setenv(name, value)
    initialize_metrics()
    yield server
    monkeypatch.undo()
    initialize_metrics()
    server.close()


def run(context, **values):
    values = {"requests": ["a", "b", "c"], "max_tokens": 500, "deferrable": False, **values}
    provider = values.pop("provider", "openai")
    operator = BatchInferenceOperator(
        task_id="t", conn_id=f"{provider}_default", model=MODELS[provider], poll_interval=0.01, **values
    )
    return operator.execute(context)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_a_batch_counts(provider, emulator, providers, context, statsd):
    """Batches, parts, rows, tokens and cost come once each; a second attempt of the task counts nothing again."""
    providers(emulator)
    manifest = run(context, provider=provider)
    tags = f",provider={provider},model={MODELS[provider]}"
    cost = round(float(manifest["cost"]["batch"]) * 1e6)
    expected = {
        f"raif.batches.submitted{tags}": 1,
        f"raif.parts.submitted{tags}": 1,
        f"raif.requests.submitted{tags}": 3,
        f"raif.parts.ended{tags},status=ended": 1,
        f"raif.batches.ended{tags},status=ended": 1,
        f"raif.rows.completed{tags}": 3,
        f"raif.tokens.input{tags}": manifest["usage"]["input_tokens"],
        f"raif.tokens.output{tags}": manifest["usage"]["output_tokens"],
        f"raif.cost.microdollars{tags}": cost,
    }
    counts = statsd.counts()
    assert cost > 0
    assert {name: counts.get(name) for name in expected} == expected
    assert run(context, provider=provider)["batch_id"] == manifest["batch_id"]
    assert statsd.counts() == counts


def test_how_long_it_took(emulator_of, providers, context, statsd):
    """The time from submission to end, of the batch and of each part."""
    providers(emulator_of(progress=Progress.parse("polls:3")))
    run(context)
    for name in ("raif.batches.duration", "raif.parts.duration"):
        (took,) = statsd.values(name)
        assert 0 < took < 60_000


def test_rows_that_failed(emulator_of, providers, context, statsd):
    """Failed rows are counted by their reason, and a task that fails for them counts like another one."""
    providers(emulator_of(faults=Faults(rows=[RowFault(kind="refused", fraction=1.0)])))
    with pytest.raises(FailedBatchError):
        run(context)
    tags = f"provider=openai,model={MODELS['openai']}"
    assert statsd.counts()[f"raif.rows.failed,{tags},reason=refused"] == 3
    assert statsd.counts()[f"raif.batches.ended,{tags},status=ended"] == 1
    assert not [name for name in statsd.counts() if name.startswith("raif.rows.completed")]


def test_parts_are_counted_one_by_one(emulator, providers, connection, context, statsd):
    """A batch of three parts is one batch."""
    connection(
        "openai_default", conn_type="raif_openai", password="good-key", host=f"{emulator.url}/v1",
        extra={"max_requests": 1},
    )  # fmt: skip
    run(context)
    tags = f"provider=openai,model={MODELS['openai']}"
    counts = statsd.counts()
    assert [counts[f"raif.{what}.submitted,{tags}"] for what in ("batches", "parts", "requests")] == [1, 3, 3]
    assert [counts[f"raif.{what}.ended,{tags},status=ended"] for what in ("batches", "parts")] == [1, 3]


async def test_what_the_poller_waits_for(emulator_of, providers, statsd, no_backoff):
    """The gauges say how much is waited for, and nothing once nobody waits; silence of the provider is counted."""
    emulator = emulator_of(progress=Progress.parse("polls:6"))
    providers(emulator)
    hook = BatchHook("openai_default", f"openai:{MODELS['openai']}")

    def submit() -> str:
        batch_id = hook.create_batch(["a"], max_tokens=50).batch_id
        hook.submit_batch(batch_id)
        return batch_id

    ids = [await asyncio.to_thread(submit) for _ in range(2)]
    emulator.state.faults.http.append(HttpFault(route="openai.batches.*", status=500, times=20))

    async def wait(batch_id: str) -> None:
        trigger = BatchTrigger(
            conn_id="openai_default", batch_id=batch_id, model=f"openai:{MODELS['openai']}", poll_intervals=[0.02]
        )
        assert [event.payload["status"] async for event in trigger.run()] == ["ended"]

    await asyncio.gather(*map(wait, ids))
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
    assert statsd.values("raif.poller.parts,conn_id=openai_default")[-1] == 0
    assert max(statsd.values("raif.poller.batches,conn_id=openai_default")) == 2
    assert max(statsd.values("raif.poller.parts,conn_id=openai_default")) == 2
    assert statsd.counts()["raif.poller.unanswered,conn_id=openai_default"] >= 1


def test_metrics_that_cannot_be_sent_stop_no_work(emulator, providers, context, monkeypatch, caplog):
    """A broken client of metrics is logged, and the batch that was paid for is applied."""

    def broken(*args, **kwargs):
        raise RuntimeError("no such metric")

    for name in ("incr", "gauge", "timing"):
        monkeypatch.setattr(metrics_client(), name, broken, raising=False)
    providers(emulator)
    assert run(context)["counts"]["completed"] == 3
    assert "The metric raif.batches.submitted could not be sent" in caplog.text


def test_nothing_is_sent_by_default(emulator, providers, context):
    """Airflow sends no metrics unless it is told to, and so do we."""
    providers(emulator)
    assert run(context)["counts"]["completed"] == 3


def test_a_process_that_airflow_set_up_no_metrics_for(statsd):
    """Triggerers have metrics of Airflow's own, and the SDK's are not set up there; ours arrive all the same."""
    code = "from airflow_raif.hooks.metrics import AirflowMetrics; AirflowMetrics().gauge('raif.poller.parts', 3, {})"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **statsd.settings}, check=True, timeout=60)
    assert statsd.values("raif.poller.parts") == [3]
