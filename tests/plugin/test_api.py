"""The JSON API: what the pages show, for scripts."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import jsonschema
import pytest

from airflow_raif.domain.status import BatchStatus
from airflow_raif.domain.usage import Cost, Usage
from airflow_raif.plugin.prometheus import metrics_text
from airflow_raif.store import BatchTally, CostRow


@pytest.fixture
def get(client_of):
    return client_of("admin").get


def test_the_description_is_complete(get):
    """Every answer has a schema, every parameter that is not plain an explanation; nothing of the pages is in it."""
    described = get("/raif/api/openapi.json").json()
    assert described["servers"] == [{"url": "/raif"}]
    assert set(described["paths"]) == {
        "/api/batches", "/api/batches/counts", "/api/costs", "/api/metrics", "/api/batches/{batch_id}",
        "/api/batches/{batch_id}/failures", "/api/batches/{batch_id}/entries",
        "/api/batches/{batch_id}/entries/{index}", "/api/batches/{batch_id}/entries/{index}/{which}",
        "/api/batches/{batch_id}/{action}",
    }  # fmt: skip
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert operation["description"], path
            assert {"401", "403", "404"} <= set(operation["responses"])


def test_answers_follow_the_description(world, get):
    """Each is what its schema says."""
    described = get("/raif/api/openapi.json").json()
    paths = {
        "/api/batches": "/raif/api/batches",
        "/api/batches/counts": "/raif/api/batches/counts",
        "/api/costs": "/raif/api/costs?by=day&by=model",
        "/api/batches/{batch_id}": f"/raif/api/batches/{world.id('partial')}",
        "/api/batches/{batch_id}/failures": f"/raif/api/batches/{world.id('partial')}/failures",
        "/api/batches/{batch_id}/entries": f"/raif/api/batches/{world.id('partial')}/entries",
        "/api/batches/{batch_id}/entries/{index}": f"/raif/api/batches/{world.id('partial')}/entries/3",
    }
    for path, address in paths.items():
        schema = described["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(get(address).json(), {**schema, "components": described["components"]})


def test_pages_of_batches(world, get):
    """Cursors lead through all of them, whatever comes in meanwhile."""
    seen, after = [], None
    while True:
        page = get("/raif/api/batches", params={"limit": 4, **({"after": after} if after else {})}).json()
        seen += [batch["batch_id"] for batch in page["batches"]]
        if (after := page["next"]) is None:
            break
    assert seen == [batch.batch_id for batch in sorted(world.batches.values(), key=lambda each: -each.id)]
    running = get("/raif/api/batches?status=in_progress&status=submitted").json()["batches"]
    assert {batch["batch_id"] for batch in running} == {world.id("running"), world.id("started")}
    counts = get("/raif/api/batches/counts?status=pending&provider=openai").json()["counts"]
    assert counts == {"pending": 1, "in_progress": 1, "ended": 3}


def test_a_batch_with_its_parts(world, get):
    """Rows, tokens, money as exact decimals, parts with their times, and what can be done."""
    found = get(f"/raif/api/batches/{world.id('applied')}").json()
    batch = world.batches["applied"]
    assert found["rows"] == {"total": 60, "completed": 60, "failed": 0, "done_at_provider": 0}
    assert Decimal(found["cost"]["batch"]) * 10**12 == batch.cost.batch
    assert found["usage"]["input_tokens"] == batch.usage.input_tokens
    assert [part["request_count"] for part in found["parts"]] == [25, 25, 10]
    assert all(part["submitted_at"] < part["results_fetched_at"] for part in found["parts"])
    assert (found["dag_id"], found["map_index"], found["actions"]) == ("nightly_reviews", -1, [])
    running = get(f"/raif/api/batches/{world.id('running')}").json()
    assert running["actions"] == ["fetch", "cancel", "expire"]
    assert running["rows"]["done_at_provider"] > 0
    assert running["seconds_left"] > 0


def test_entries_and_payloads(world, get):
    """In pages by position; request and result as the bytes that went out and came in."""
    address = f"/raif/api/batches/{world.id('applied')}/entries"
    first = get(f"{address}?limit=25").json()
    assert ([entry["index"] for entry in first["entries"]], first["next"]) == ([*range(25)], 25)
    last = get(f"{address}?start=50&limit=25").json()
    assert (len(last["entries"]), last["next"], last["previous"]) == (10, None, 50)
    entry = get(f"{address}/30").json()
    assert (entry["custom_id"], entry["status"], entry["part"]) == ("review-00030", "completed", 1)
    sent = get(f"{address}/30/request")
    assert sent.headers["content-disposition"].startswith("attachment;")
    lines = (world.home / "spool" / world.id("applied") / "part-00001.requests.jsonl").read_bytes().split(b"\n")
    assert sent.content == lines[5]
    received = get(f"{address}/30/result")
    assert received.json()["custom_id"] == sent.json()["custom_id"]
    pending = f"/raif/api/batches/{world.id('pending')}/entries"
    assert get(f"{pending}/0/result").status_code == 404
    assert get(f"{pending}/0/request").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/raif/api/batches/{}/entries/99", 404),
        ("/raif/api/batches/{}/entries/-1", 422),
        ("/raif/api/batches/{}/entries/0/spool", 422),
        ("/raif/api/batches/{}/entries?limit=501", 422),
        ("/raif/api/batches/00000000000000000000000000000000", 404),
        ("/raif/api/batches?after=1", 422),
        ("/raif/api/batches?map_index=99999999999", 422),
        ("/raif/api/costs?by=hour", 422),
        ("/raif/api/nothing", 404),
    ],
)
def test_wrong_questions_are_answered_in_json(world, get, path, status):
    """With the reason."""
    answer = get(path.format(world.id("applied")))
    assert answer.status_code == status
    assert answer.json()["detail"]


def test_a_text_with_nul_finds_nothing_and_breaks_nothing(get):
    """PostgreSQL's text cannot hold it."""
    assert get("/raif/api/batches?q=zzz%00zzz").json()["batches"] == []


def test_costs(world, get):
    """Sums over all that may be seen, in groups, or one sum of all."""
    (total,) = get("/raif/api/costs").json()["costs"]
    by_dag = get("/raif/api/costs?by=dag").json()["costs"]
    assert Decimal(total["cost"]["batch"]) == sum(Decimal(row["cost"]["batch"] or 0) for row in by_dag)
    assert Decimal(total["cost"]["batch"]) * 10**12 == sum(
        world.store.get_batch(batch.batch_id).cost.batch or 0 for batch in world.batches.values()
    )
    assert get("/raif/api/costs?by=dag&by=dag").json()["costs"] == by_dag
    assert get("/raif/api/costs?until=2020-01-01").json()["costs"] == []


def figures(answer):
    """Read the text of a scrape as its format says; each family is explained, and there once."""
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.split("\n")
    assert lines.pop() == ""
    found, family = {}, ""
    for line in lines:
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {family} gauge"
        else:
            sample = re.fullmatch(r'(\w+)\{(\w+="[^"\\]*"(?:,\w+="[^"\\]*")*)\} (\d+(?:\.\d+)?)', line)
            assert sample[1] == family
            labels = tuple(re.findall(r'="([^"]*)"', sample[2]))
            assert found.setdefault((family, *labels), Decimal(sample[3])) == Decimal(sample[3])
    return found


def test_metrics_for_prometheus(world, get):
    """Batches by status, rows by outcome, cost, and how old the oldest is that waits; nothing of one that is over."""
    found = figures(get("/raif/api/metrics"))
    batches = [world.store.get_batch(batch.batch_id) for batch in world.batches.values()]
    for provider in ("openai", "anthropic", "gemini"):
        own = [batch for batch in batches if batch.provider == provider]
        for status, number in Counter(batch.status for batch in own).items():
            assert found["raif_batches", provider, status.value] == number
        rows = {outcome: found["raif_rows", provider, outcome] for outcome in ("completed", "failed", "pending")}
        assert rows["completed"] == sum(batch.completed_count for batch in own)
        assert rows["failed"] == sum(batch.failed_count for batch in own)
        assert sum(rows.values()) == sum(batch.request_count for batch in own)
        assert found["raif_cost_dollars", provider] * 10**12 == sum(batch.cost.batch or 0 for batch in own)
        waiting = [batch.created_at for batch in own if not batch.status.is_terminal]
        age = found.get(("raif_oldest_waiting_batch_age_seconds", provider))
        assert (age is None) is (not waiting)
        if waiting:
            assert 0 <= (datetime.now(UTC) - min(waiting)).total_seconds() - float(age) < 60


def test_a_name_in_metrics_is_escaped_and_an_unknown_price_is_no_zero():
    """Whatever a provider of a third party is called."""
    at = datetime(2026, 3, 4, tzinfo=UTC)
    tally = BatchTally(
        provider='a"\\\n}b', status=BatchStatus.PENDING, batch_count=1, request_count=2, completed_count=0,
        failed_count=0, oldest_at=at,
    )  # fmt: skip
    cost = CostRow(
        group={"provider": "a"}, batch_count=1, request_count=2, usage=Usage(), cost=Cost(), unpriced_count=2
    )
    told = metrics_text([tally], [cost], at)
    assert r'raif_batches{provider="a\"\\\n}b",status="pending"} 1' in told.split("\n")
    assert "raif_cost_dollars{" not in told
