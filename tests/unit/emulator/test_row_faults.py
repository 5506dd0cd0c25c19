"""Every way a row, a file of results or a call can go wrong, as each provider shows it on the wire."""

from __future__ import annotations

import json
import typing
from concurrent.futures import ThreadPoolExecutor, wait

import httpx
import pytest

from airflow_raif.emulator.faults import Faults, HttpFault, RowFault, RowKind
from airflow_raif.emulator.settings import Progress

PROVIDERS = ("openai", "anthropic", "gemini")
EACH = pytest.mark.parametrize("provider", [*PROVIDERS, "gemini file"])
SCHEMA = {
    "type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a", "b"],
    "additionalProperties": False,
}  # fmt: skip


class Caller:
    """A plain client of one provider: what is on the wire, with no SDK between."""

    def __init__(self, provider: str, url: str) -> None:
        self.provider, _, self.mode = provider.partition(" ")
        headers = {"authorization": "Bearer good", "x-api-key": "good", "anthropic-version": "2023-06-01"}
        if self.provider == "openai":
            del headers["anthropic-version"]
        if self.provider == "gemini":
            headers = {"x-goog-api-key": "good"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=20, trust_env=False)

    def create(self, *texts: str) -> httpx.Response:
        return getattr(self, f"_create_{self.provider}")(texts)

    def _create_openai(self, texts):
        lines = b"".join(
            json.dumps(
                {
                    "custom_id": f"row-{n}", "method": "POST", "url": "/v1/responses",
                    "body": {
                        "model": "gpt-5-nano", "input": text,
                        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}},
                    },
                }
            ).encode() + b"\n"
            for n, text in enumerate(texts)
        )  # fmt: skip
        file = self.http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", lines)}).json()
        body = {"input_file_id": file["id"], "endpoint": "/v1/responses", "completion_window": "24h"}
        return self.http.post("/v1/batches", json=body)

    def _create_anthropic(self, texts):
        params = {
            "model": "claude-haiku-4-5", "max_tokens": 200,
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        }  # fmt: skip
        requests = [
            {"custom_id": f"row-{n}", "params": {**params, "messages": [{"role": "user", "content": text}]}}
            for n, text in enumerate(texts)
        ]
        return self.http.post("/v1/messages/batches", json={"requests": requests})

    def _create_gemini(self, texts):
        config = {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}
        requests = [{"contents": [{"parts": [{"text": text}]}], "generationConfig": config} for text in texts]
        if self.mode:
            lines = "".join(json.dumps({"key": f"row-{n}", "request": one}) + "\n" for n, one in enumerate(requests))
            source = {"fileName": self.upload(lines.encode())}
        else:
            rows = [{"request": one, "metadata": {"key": f"row-{n}"}} for n, one in enumerate(requests)]
            source = {"requests": {"requests": rows}}
        path = "/v1beta/models/gemini-2.5-flash:batchGenerateContent"
        return self.http.post(path, json={"batch": {"displayName": "x", "inputConfig": source}})

    def upload(self, content: bytes) -> str:
        headers = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
        address = self.http.post("/upload/v1beta/files", headers=headers, json={}).headers["x-goog-upload-url"]
        headers = {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0"}
        return self.http.post(address, headers=headers, content=content).json()["file"]["name"]

    def path(self, made: dict) -> str:
        folder = {"openai": "/v1/batches/{}", "anthropic": "/v1/messages/batches/{}", "gemini": "/v1beta/{}"}
        return folder[self.provider].format(made["id"] if "id" in made else made["name"])

    def get(self, made: dict) -> dict:
        return self.http.get(self.path(made)).json()

    def results(self, shown: dict) -> tuple[bytes, bytes]:
        """The bytes of the output and of the error file; inline rows as lines."""
        if self.provider == "openai":
            ids = [shown["output_file_id"], shown["error_file_id"]]
            output, errors = (self.http.get(f"/v1/files/{one}/content").content if one else b"" for one in ids)
            return output, errors
        if self.provider == "anthropic":
            return self.http.get(shown["results_url"]).content, b""
        if self.mode:
            name = shown["response"]["responsesFile"]
            return self.http.get(f"/v1beta/{name}:download", params={"alt": "media"}).content, b""
        rows = shown["response"]["inlinedResponses"]["inlinedResponses"]
        return b"".join(json.dumps(row).encode() + b"\n" for row in rows), b""


@pytest.fixture
def caller(provider, emulator):
    """A client of the provider a test is about."""
    opened = Caller(provider, emulator.url)
    yield opened
    opened.http.close()


def finish(caller, *texts):
    return caller.results(caller.get(caller.create(*texts).json()))


def key_of(row):
    return row.get("custom_id") or row.get("key") or row.get("metadata", {}).get("key")


def parse(data):
    return {key_of(row): row for row in map(json.loads, data.splitlines())}


def outcome_of(provider, row):
    """One word for how a row ended."""
    if provider == "openai":
        if row["error"]:
            return row["error"]["code"]
        body = row["response"]["body"]
        if row["response"]["status_code"] != 200:
            return row["response"]["status_code"]
        refused = body["output"][-1]["content"][0]["type"] == "refusal"
        return "refusal" if refused else body["status"]
    if provider == "anthropic":
        result = row["result"]
        if result["type"] == "errored":
            return result["error"]["error"]["type"]
        return result["message"]["stop_reason"] if result["type"] == "succeeded" else result["type"]
    return row["error"]["code"] if "error" in row else row["response"]["candidates"][0]["finishReason"]


OUTCOMES = {
    "errored": (400, "invalid_request_error", 3),
    "overloaded": (500, "overloaded_error", 14),
    "expired": ("batch_expired", "expired", 4),
    "canceled": ("batch_cancelled", "canceled", 1),
    "truncated": ("incomplete", "max_tokens", "MAX_TOKENS"),
    "refused": ("refusal", "refusal", "SAFETY"),
    "": ("completed", "end_turn", "STOP"),
}


@EACH
@pytest.mark.parametrize("kind", OUTCOMES)
def test_the_outcome_of_a_row(provider, caller, emulator, kind):
    """A row that is named by its id goes wrong alone, and the batch ends well."""
    if kind:
        emulator.state.faults.rows.append(RowFault(kind=kind, ids=["row-1"]))
    output, errors = finish(caller, "a", "b", "c")
    expected = dict(zip(PROVIDERS, OUTCOMES[kind], strict=True))[caller.provider]
    rows = parse(output) | parse(errors)
    assert rows.keys() == {"row-0", "row-1", "row-2"}
    assert outcome_of(caller.provider, rows["row-1"]) == expected
    assert outcome_of(caller.provider, rows["row-2"]) == outcome_of(caller.provider, rows["row-0"])
    is_failed = kind in ("errored", "overloaded", "expired", "canceled")
    assert list(parse(errors)) == (["row-1"] if is_failed and provider == "openai" else [])


@EACH
def test_a_missing_row_is_in_no_file(caller, emulator):
    """The provider lost it."""
    emulator.state.faults.rows.append(RowFault(kind="missing", rows=[1]))
    output, errors = finish(caller, "a", "b", "c")
    assert parse(output).keys() == {"row-0", "row-2"}
    assert not errors


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini file"])
def test_lines_go_wrong_in_the_file(provider, caller, emulator):
    """Duplicated, malformed and blank lines come beside the row's own."""
    for n, kind in enumerate(("duplicated", "malformed", "blank")):
        emulator.state.faults.rows.append(RowFault(kind=kind, rows=[n]))
    output, _ = finish(caller, "a", "b", "c")
    lines = output.split(b"\n")[:-1]
    assert lines[0] == lines[1]
    assert [len(lines), lines.count(b"")] == [6, 1]
    broken = [line for line in lines if line and not line.endswith(b"}")]
    assert len(broken) == 1
    assert {key_of(json.loads(line)) for line in lines if line.endswith(b"}")} == {"row-0", "row-1", "row-2"}


@pytest.mark.parametrize("provider", ["openai"])
def test_a_row_in_both_files(caller, emulator):
    """The same row is in the output and in the error file."""
    emulator.state.faults.rows.append(RowFault(kind="in_both_files", contains="needle"))
    output, errors = finish(caller, "a", "needle", "c")
    assert list(parse(errors)) == ["row-1"]
    assert parse(output).keys() == {"row-0", "row-1", "row-2"}


@EACH
def test_answers_that_are_no_json_hold_odd_characters_or_no_usage(caller, emulator):
    """An answer may be broken JSON, hold a line separator of Unicode, or come without its tokens."""
    for n, kind in enumerate(("invalid_json", "line_separator", "no_usage")):
        emulator.state.faults.rows.append(RowFault(kind=kind, rows=[n]))
    output, _ = finish(caller, "a", "b", "c")
    rows = [json.loads(line) for line in output.split(b"\n")[:-1]]
    bodies = [json.dumps(row, ensure_ascii=False) for row in rows]
    assert '"{{' in bodies[0]
    assert "\u2028" in bodies[1]
    tokens = ("input_tokens", "promptTokenCount")
    assert [any(f'"{name}"' in body for name in tokens) for body in bodies] == [True, True, False]


@EACH
def test_whole_files_go_wrong(provider, caller, emulator):
    """Rows come in another order, with CRLF, and with the last line torn off."""
    emulator.state.faults.shuffle = True
    texts = [str(n) for n in range(12)]
    output, _ = finish(caller, *texts)
    order = list(parse(output))
    assert sorted(order) != order
    assert len(order) == 12
    if provider == "gemini":
        return
    emulator.state.faults = Faults(crlf=True)
    output, _ = finish(caller, *texts)
    assert output.count(b"\r\n") == output.count(b"\n") == 12
    emulator.state.faults = Faults(torn_last_line=True)
    output, _ = finish(caller, *texts)
    with pytest.raises(json.JSONDecodeError):
        json.loads(output.split(b"\n")[-1])
    assert output.count(b"\n") == 11


def test_every_kind_of_row_fault_is_tested_here():
    """A new kind has to be added above."""
    here = {*OUTCOMES, "missing", "duplicated", "malformed", "blank", "in_both_files"} - {""}
    assert here | {"invalid_json", "line_separator", "no_usage"} == set(typing.get_args(RowKind))


@EACH
def test_rows_go_wrong_by_share(provider, caller, emulator):
    """A share is spread evenly over the rows, each time the same."""
    emulator.state.faults.rows.append(RowFault(kind="errored", fraction=0.25, batches=1))
    for expected in (["row-3", "row-7"], []):
        output, errors = finish(caller, *(str(n) for n in range(8)))
        rows = parse(output) | parse(errors)
        wrong = dict(zip(PROVIDERS, OUTCOMES["errored"], strict=True))[caller.provider]
        assert [key for key, row in rows.items() if outcome_of(caller.provider, row) == wrong] == expected


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_expires_or_is_canceled_after_a_share(provider, caller, emulator):
    """What was done before stays; Gemini's expired and canceled batches have no results."""
    for name, status in (("expire_after", "expired"), ("cancel_after", "canceled")):
        emulator.state.faults = Faults(**{name: 0.5})
        shown = caller.get(caller.create("a", "b", "c", "d").json())
        if provider == "gemini":
            words = {"expired": "BATCH_STATE_EXPIRED", "canceled": "BATCH_STATE_CANCELLED"}
            assert (shown["metadata"]["state"], shown["done"]) == (words[status], True)
            assert "response" not in shown
            assert ("error" in shown) is (status == "canceled")
            continue
        output, errors = caller.results(shown)
        rows = parse(output) | parse(errors)
        words = dict(zip(PROVIDERS, OUTCOMES[status], strict=True))
        assert [outcome_of(provider, rows[f"row-{n}"]) for n in (2, 3)] == [words[provider]] * 2
        assert outcome_of(provider, rows["row-0"]) == dict(zip(PROVIDERS, OUTCOMES[""], strict=True))[provider]
        if provider == "anthropic":
            assert shown["processing_status"] == "ended"
            assert (shown["cancel_initiated_at"] is None) is (status == "expired")
            assert shown["request_counts"] == {
                "processing": 0, "succeeded": 2, "errored": 0, "canceled": 0, "expired": 0, status: 2,
            }  # fmt: skip


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_unknown_status_is_shown_while_a_batch_runs(provider, emulator_of):
    """A word that no client knows stands where the status is."""
    emulator = emulator_of(progress=Progress("polls", 2), faults=Faults(unknown_status="warming_up"))
    caller = Caller(provider, emulator.url)
    with caller.http:
        made = caller.create("a").json()
        first, second = json.dumps(caller.get(made)), json.dumps(caller.get(made))
    assert "warming_up" in first
    assert "warming_up" not in second


# HTTP


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("status", [429, 500, 503, 529])
@pytest.mark.parametrize("retry_after", [None, 7, 0.5])
def test_a_call_fails_with_a_status(provider, caller, emulator, status, retry_after):
    """The call fails in the provider's own shape, with or without a hint; the next one is served."""
    emulator.state.faults.http.append(
        HttpFault(route=f"{provider}.batches.create", status=status, retry_after=retry_after)
    )
    reply = caller.create("a")
    assert reply.status_code == status
    assert reply.headers.get("retry-after") == (None if retry_after is None else f"{retry_after:g}")
    error = reply.json()["error"]
    named = {
        "openai": ("type", {429: "requests"}.get(status, "server_error")),
        "anthropic": ("type", {429: "rate_limit_error", 529: "overloaded_error"}.get(status, "api_error")),
        "gemini": ("status", {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 529: "UNKNOWN"}[status]),
    }
    name, word = named[provider]
    assert error[name] == word
    assert emulator.state.creates[provider] == 0
    assert caller.create("a").status_code == 200


@EACH
@pytest.mark.parametrize(("moment", "made"), [("before", 0), ("after", 1)])
def test_the_reply_of_a_create_is_lost(caller, emulator, moment, made):
    """The client sees a closed socket; whether the batch exists depends on the moment."""
    emulator.state.faults.http.append(HttpFault(route=f"{caller.provider}.batches.create", drop=moment))
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        caller.create("a")
    assert emulator.state.creates[caller.provider] == len(emulator.state.batches[caller.provider]) == made
    assert caller.create("a").status_code == 200
    assert emulator.state.creates[caller.provider] == made + 1


@EACH
@pytest.mark.parametrize(("moment", "made"), [("before", 0), ("after", 1)])
def test_a_call_is_held_until_the_fault_is_taken_off(caller, emulator, moment, made):
    """The client waits, with its batch made or not, until somebody lets the call go on."""
    route = f"{caller.provider}.batches.create"
    fault = HttpFault(route=route, hold=moment)
    emulator.state.faults.http.append(fault)
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(caller.create, "a")
        while not emulator.state.requests[route] or emulator.state.creates[caller.provider] < made:
            assert not wait([reply], timeout=0.01).done
        assert not reply.done()
        assert emulator.state.creates[caller.provider] == made
        emulator.state.faults.http.remove(fault)
        assert reply.result().status_code == 200
    assert emulator.state.creates[caller.provider] == 1


@pytest.mark.parametrize("provider", ["openai"])
def test_faults_strike_all_calls_until_they_are_taken_back(caller, emulator):
    """A negative count strikes for ever; new faults take the place of all old ones."""
    knob = f"{emulator.url}/_emulator/faults"
    fault = {"route": "openai.*", "status": 500, "times": -1}
    assert caller.http.put(knob, json={"http": [fault]}).status_code == 200
    assert {caller.http.get("/v1/batches").status_code for _ in range(5)} == {500}
    assert caller.http.put(knob, json={}).json()["http"] == []
    assert caller.http.get("/v1/batches").status_code == 200


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_state_counts_calls_and_shows_batches(provider, caller, emulator):
    """Counters and batches are seen from outside."""
    made = caller.create("a", "b").json()
    caller.get(made)
    state = caller.http.get(f"{emulator.url}/_emulator/state").json()
    assert state["requests"][f"{provider}.batches.create"] == state["requests"][f"{provider}.batches.get"] == 1
    assert state["creates"] == {provider: 1}
    [batch] = state["batches"][provider]
    assert (batch["status"], batch["rows"], batch["looks"]) == ("ended", 2, 1)
    assert state["files"]["openai"] == (2 if provider == "openai" else 0)
