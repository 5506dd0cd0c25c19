"""Whatever the lines of a result file look like, each row gets the right outcome and oddities are counted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from airflow_raif.adapters.jsonl import MAX_LINE_BYTES
from airflow_raif.domain.errors import MalformedResponseError, UnavailableError
from airflow_raif.domain.rounds import RoundPolicy
from airflow_raif.domain.wire_id import make_wire_id
from airflow_raif.emulator.faults import RowFault
from airflow_raif.services.advance import advance_batch
from airflow_raif.services.apply import apply_results
from airflow_raif.services.create import create_batch
from airflow_raif.services.poll import fetch_batch_status
from airflow_raif.services.runtime import Runtime
from airflow_raif.services.submit import submit_batch
from airflow_raif.spool.files import results_file
from airflow_raif.store import Store
from tests.gateway import Answer, Gateway
from tests.support import PROVIDERS, defaults_of, folder, read_rows, rows, runtime_of

DUPLICATE = "1 results of entries that had one already"
MALFORMED = "1 malformed lines, kept in the spool"
STRANGER = "1 results with an id that is not of this batch"
HTML = b"<!DOCTYPE html>\n<html><head><title>Please log in</title></head>\n<body>\n</body></html>\n"
PAGES = {
    "html": HTML,
    "one line of html": HTML.replace(b"\n", b""),
    "an error in json": json.dumps({"error": {"message": "no", "key": "k", "custom_id": "c"}}, indent=2).encode(),
    "an error in a line": b'{"error": {"message": "no"}}\n',
    "zeros": bytes(5000),
    "half a row": b'{"custom_id": "',
}


@dataclass
class Life:
    """One batch of a provider, whose result file a test writes itself; everything comes by file."""

    provider: str
    runtime: Runtime
    store: Store
    emulator: object
    home: Path
    batch_id: str = ""

    def end(self, count: int = 3, **arguments: object) -> list[bytes]:
        """Bring a batch to its end at the provider; return the lines of its results."""
        batch = create_batch(self.runtime, rows(count), defaults=defaults_of(self.provider), **arguments)
        self.batch_id = batch.batch_id
        submit_batch(self.runtime, self.batch_id)
        fetch_batch_status(self.runtime, self.batch_id)
        return self.path.read_bytes().split(b"\n")[:-1]

    @property
    def at_provider(self):
        return next(iter(self.emulator.state.batches[self.provider].values()))

    @property
    def path(self) -> Path:
        return self.at_provider.output.path

    def write(self, content: bytes) -> None:
        self.path.write_bytes(content)

    def fetch(self) -> list[dict]:
        """Fetch and apply, and open a round if there is reason to."""
        advance_batch(self.runtime, self.batch_id)
        return read_rows(apply_results(self.runtime, self.batch_id, folder(self.home / "out")).result_uri)

    def id_of(self, index: int) -> str:
        return make_wire_id(self.batch_id, index)

    def failure(self, index: int) -> bytes:
        error = {"code": "invalid_value", "type": "invalid_request_error", "message": "no"}
        row = {
            "openai": {"custom_id": self.id_of(index), "response": {"status_code": 400, "body": {"error": error}}},
            "anthropic": {"custom_id": self.id_of(index), "result": {"type": "errored", "error": error}},
            "gemini": {"key": self.id_of(index), "error": {"code": 3, "message": "no"}},
        }
        return json.dumps(row[self.provider]).encode()

    @property
    def kept(self) -> bytes:
        """The results as they lie in the spool."""
        return b"".join(self.runtime.folder(self.batch_id).blocks(results_file(0))())

    @property
    def is_kept(self) -> bool:
        return self.runtime.folder(self.batch_id).exists(results_file(0))

    def counts(self):
        return self.store.count_entries(self.store.get_batch(self.batch_id))

    @property
    def creates(self) -> int:
        return self.emulator.state.creates[self.provider]


@pytest.fixture(params=PROVIDERS)
def life(request, emulator, store, tmp_path, monkeypatch):
    monkeypatch.setattr("airflow_raif.adapters.gemini.INLINE_MAX_BYTES", 0)
    with runtime_of(request.param, emulator.url, store, tmp_path) as runtime:
        yield Life(request.param, runtime, store, emulator, tmp_path)


def joined(lines, end=b"\n"):
    return b"".join(line + end for line in lines)


def into_text(lines, inserted):
    """Put bytes into the first row's answer."""
    assert b'"text":"' in lines[0]
    return joined([lines[0].replace(b'"text":"', b'"text":"' + inserted, 1), *lines[1:]])


def into_row(lines, inserted):
    """Put a field into the first row."""
    return joined([b"{" + inserted + b"," + lines[0][1:], *lines[1:]])


def as_other_ids(life, lines):
    old = life.id_of(0)
    return joined([lines[0].replace(old.encode(), f" {old.upper()}\\t".encode()), *lines[1:]])


HARMLESS = {
    "Windows' line ends": lambda life, lines: joined(lines, b"\r\n"),
    "no line end": lambda life, lines: b"\n".join(lines),
    "blank lines": lambda life, lines: b"\n \r\n" + joined(lines, b"\n\t\n\n"),
    "a byte order mark": lambda life, lines: b"\xef\xbb\xbf" + joined(lines),
    "blanks around a line": lambda life, lines: joined([b"  " + line + b"\t" for line in lines]),
    "other line separators in a text": lambda life, lines: into_text(lines, "\u2028\u2029\u0085".encode()),
    "control characters in a text": lambda life, lines: into_text(lines, b"\t\v\f\x00\x1b"),
    "a cut character": lambda life, lines: into_text(lines, b"\xe6\xbc\xff"),
    "half a surrogate pair": lambda life, lines: into_text(lines, b"\\ud83d"),
    "ten megabytes": lambda life, lines: into_text(lines, b"x" * 10_000_000),
    "no number": lambda life, lines: into_row(lines, b'"x":NaN,"y":[Infinity,-Infinity]'),
    "a number beyond measure": lambda life, lines: into_row(lines, b'"x":1e999,"y":-1e999,"z":1e-999'),
    "numbers as text": lambda life, lines: re.sub(rb'(?i)(tokens?_?(?:count)?":)(\d+)', rb'\1"\2"', joined(lines)),
    "usage of another type": lambda life, lines: re.sub(rb'"(usage\w*)":\{', rb'"\1":7,"was":{', joined(lines)),
    "an id with blanks and in capitals": as_other_ids,
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_is_read_all_the_same(life, kind, caplog):
    """A row that says what it should is taken, however it is written, and nothing is sent again."""
    content = HARMLESS[kind](life, life.end())
    life.write(content)
    found = life.fetch()
    assert [row["status"] for row in found] == ["completed"] * 3
    assert [row["custom_id"] for row in found] == [f"row {n}" for n in range(3)]
    assert all(row["output"] for row in found)
    assert life.kept.removesuffix(b"\n") == content.removesuffix(b"\n")
    assert life.creates == 1
    assert "malformed" not in caplog.text


def test_separators_stay_in_the_text(life):
    """Only a line feed ends a line; what else Python calls one is part of the answer."""
    life.write(into_text(life.end(), "a\u2028b\u0085c".encode()))
    assert life.fetch()[0]["output"].startswith("a\u2028b\u0085c")


ODD = {
    "the same row twice": (lambda life, lines: [*lines, lines[1]], DUPLICATE),
    "a failure, then the answer": (lambda life, lines: [life.failure(1), *lines], DUPLICATE),
    "the answer, then a failure": (lambda life, lines: [*lines, life.failure(1)], DUPLICATE),
    "a stranger": (lambda life, lines: [*lines, lines[0].replace(life.id_of(0).encode(), b"stranger-0")], STRANGER),
    "an id beyond the batch": (
        lambda life, lines: [*lines, lines[0].replace(life.id_of(0).encode(), life.id_of(77).encode())],
        "1 results of entries that had one already, or are not in this part",
    ),
    "an id beyond measure": (
        lambda life, lines: [*lines, lines[0].replace(life.id_of(0).encode(), f"{life.id_of(0)}{'9' * 5000}".encode())],
        STRANGER,
    ),
    "a line that is no JSON": (lambda life, lines: [lines[0], b'{"id": "b", "custom_id": ', *lines[1:]], MALFORMED),
    "a row without an id": (lambda life, lines: [*lines, b'{"response": {}, "result": {}}'], MALFORMED),
    "a line that is no row": (lambda life, lines: [*lines, b"[]", b"null", b'"text"'], MALFORMED.replace("1", "3")),
    "nesting without an id": (lambda life, lines: [*lines, b"[" * 200_000], MALFORMED),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_what_is_too_much(life, kind, caplog):
    """Rows that come twice, or to nobody, change no answer; they are counted, and kept in the spool."""
    spoil, warning = ODD[kind]
    content = joined(spoil(life, life.end()))
    life.write(content)
    assert [row["status"] for row in life.fetch()] == ["completed"] * 3
    assert warning in caplog.text
    assert life.kept == content
    assert life.creates == 1


@pytest.mark.parametrize("far_apart", [False, True])
def test_the_answer_beats_the_failure_also_far_apart(life, monkeypatch, far_apart):
    """It was paid for; whether both come in one write to the tables does not matter."""
    if far_apart:
        monkeypatch.setattr("airflow_raif.services.fetch.OUTCOME_CHUNK", 1)
    lines = life.end()
    life.write(joined([life.failure(0), *lines, life.failure(2)]))
    found = life.fetch()
    assert [row["status"] for row in found] == ["completed"] * 3
    assert all(row["usage"] and row["cost"] and not row["error"] for row in found)


def test_a_cut_answer_beats_a_failure_and_a_whole_one_beats_both(life):
    """What was paid for stays known: the text of an answer that was cut off, too."""
    life.emulator.state.faults.rows.append(RowFault(kind="truncated", rows=[0, 1]))
    lines = life.end()
    whole = lines[2].replace(life.id_of(2).encode(), life.id_of(1).encode())
    life.write(joined([life.failure(0), lines[0], life.failure(0), lines[1], whole, life.failure(1), lines[2]]))
    first, *others = life.fetch()
    assert (first["reason"], bool(first["raw_output"])) == ("truncated", True)
    assert [row["status"] for row in others] == ["completed"] * 2


@pytest.mark.parametrize("first", ["answer", "failure"])
def test_an_id_in_output_and_error_file(emulator, store, tmp_path, first):
    """The answer is taken, whichever of OpenAI's two files holds it."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[0]))
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        life = Life("openai", runtime, store, emulator, tmp_path)
        lines = life.end()
        errors = life.at_provider.error_output.path
        answer = lines[0].replace(life.id_of(1).encode(), life.id_of(0).encode())
        outputs = [answer, *lines] if first == "answer" else [*lines, life.failure(0)]
        life.write(joined(outputs))
        if first == "failure":
            errors.write_bytes(joined([answer]))
        assert [row["status"] for row in life.fetch()] == ["completed"] * 3


UNREADABLE = {
    "deep nesting": lambda life, line: line[:-1] + b',"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "cut in the middle": lambda life, line: line[: len(line) // 2],
    "a stray byte": lambda life, line: line[:-1] + b"\x00}",
    "an answer of another shape": lambda life, line: json.dumps(
        {"custom_id": life.id_of(1), "key": life.id_of(1), "response": [], "result": 7}
    ).encode(),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_row_that_names_its_entry_and_cannot_be_read(life, kind):
    """It was answered and perhaps billed: the entry fails with that, and is not paid again."""
    lines = life.end()
    lines[1] = UNREADABLE[kind](life, lines[1])
    life.write(joined(lines))
    found = life.fetch()
    assert [row["status"] for row in found] == ["completed", "failed", "completed"]
    assert found[1]["reason"] in ("invalid_output", "errored")
    assert found[1]["error"]["message"]
    assert life.kept == joined(lines)
    assert life.creates == 1


def test_the_only_row_is_cut(life):
    """It is named, so the file is the batch's: this does not go on forever."""
    (line,) = life.end(1)
    life.write(line[: len(line) // 2])
    (row,) = life.fetch()
    assert (row["reason"], row["error"]["code"], life.creates) == ("invalid_output", "unreadable", 1)


def test_an_unreadable_row_goes_out_again_if_the_user_wants_that(life):
    """As every answer that is no valid output."""
    lines = life.end(round_policy=RoundPolicy(repeat_invalid_output=True))
    life.write(joined([lines[0], lines[1][:99], lines[2]]))
    advance_batch(life.runtime, life.batch_id)
    fetch_batch_status(life.runtime, life.batch_id)
    assert [row["status"] for row in life.fetch()] == ["completed"] * 3
    assert life.creates == 2


def test_missing_rows_go_out_again_only_if_every_line_was_read(life, caplog):
    """A line that cannot be read may be the answer, or the end of results that were cut off."""
    lines = life.end()
    life.write(joined([lines[0], b'{"torn', lines[2]]))
    found = life.fetch()
    assert (found[1]["reason"], life.creates) == ("missing", 1)
    assert "it is not sent again, since 1 lines of the results cannot be read" in found[1]["error"]["message"]
    assert MALFORMED in caplog.text


def test_rows_that_are_simply_not_there_go_out_again(life):
    """All that came was read, twice, and the row is not in it."""
    lines = life.end()
    life.write(joined([lines[0], lines[2]]))
    advance_batch(life.runtime, life.batch_id)
    assert life.creates == 2
    fetch_batch_status(life.runtime, life.batch_id)
    assert [row["status"] for row in life.fetch()] == ["completed"] * 3


@pytest.mark.parametrize("page", PAGES)
def test_a_page_in_place_of_results(life, page):
    """A gateway's page, with 200, is no result: nothing is kept of it, no row is missing, and later all are there."""
    lines = life.end()
    life.write(PAGES[page])
    with pytest.raises(
        MalformedResponseError, match="counts 3 answers of .* but no line of its results is a row of it"
    ):
        life.fetch()
    assert not life.is_kept
    assert life.counts().pending == 3
    life.write(joined(lines))
    assert [row["status"] for row in life.fetch()] == ["completed"] * 3
    assert life.creates == 1


def test_nothing_but_a_torn_row(life):
    """It is the same at each download and names the batch, so it is what the provider has: the task comes to an end."""
    (line,) = life.end(1)
    life.write(line[:-40])
    (row,) = life.fetch()
    assert (row["status"], row["reason"]) == ("failed", "invalid_output")
    assert life.kept.rstrip() == line[:-40]
    assert life.creates == 1


def test_the_results_of_another_batch(life):
    """Whatever mixed them up, they are not this batch's, so none of its rows is missing."""
    lines = life.end()
    life.write(joined(line.replace(life.batch_id[:16].encode(), b"0123456789abcdef") for line in lines))
    with pytest.raises(MalformedResponseError, match="no line of its results is a row of it"):
        life.fetch()
    assert life.counts().pending == 3


@pytest.mark.parametrize("content", [b"", b"\n\r\n\n"])
def test_an_empty_file(life, content):
    """The provider counts answers, so they are to come."""
    life.end()
    life.write(content)
    with pytest.raises(MalformedResponseError, match="counts 3 answers of .* but gives no results yet"):
        life.fetch()
    assert life.counts().pending == 3


@pytest.mark.parametrize(("answered", "is_certain"), [(0, True), (3, False)])
def test_no_file_at_all(emulator, store, tmp_path, answered, is_certain):
    """Both of OpenAI's file ids are null: the rows are missing if it answered none, and late otherwise."""
    with runtime_of("openai", emulator.url, store, tmp_path) as runtime:
        batch = create_batch(runtime, rows(3), defaults=defaults_of("openai"), round_policy=RoundPolicy(max_rounds=0))
        submit_batch(runtime, batch.batch_id)
        life = Life("openai", runtime, store, emulator, tmp_path, batch.batch_id)
        runtime.transport.send(runtime.adapter.get_request(life.at_provider.id))
        life.at_provider.output = life.at_provider.error_output = None
        life.at_provider.tally.succeeded = answered
        fetch_batch_status(runtime, batch.batch_id)
        if is_certain:
            assert [row["reason"] for row in life.fetch()] == ["missing"] * 3
        else:
            with pytest.raises(MalformedResponseError, match="counts 3 answers of .* but gives no results yet"):
                life.fetch()


@pytest.fixture
def gateway(emulator):
    with Gateway(emulator.url).serving() as opened:
        yield opened


@pytest.fixture(params=PROVIDERS)
def behind(request, gateway, emulator, store, tmp_path, monkeypatch):
    """A life behind a gateway."""
    monkeypatch.setattr("airflow_raif.adapters.gemini.INLINE_MAX_BYTES", 0)
    with runtime_of(request.param, gateway.url, store, tmp_path) as runtime:
        yield Life(request.param, runtime, store, emulator, tmp_path)


def cut(gateway, size, times):
    """Let the gateway cut so many downloads to a size."""
    left = [times]

    def change(call, answer):
        if call.is_download and left[0]:
            left[0] -= 1
            answer.body = answer.body[:size]
        return answer

    gateway.change = change
    return left


@pytest.mark.parametrize("at_line_end", [False, True])
def test_a_download_that_was_cut_once(behind, gateway, at_line_end):
    """It says of itself that it is whole, but looks incomplete: the next one has every row."""
    lines = behind.end(5)
    cut(gateway, len(joined(lines[:3])) - 7 * (not at_line_end), 1)
    assert [row["status"] for row in behind.fetch()] == ["completed"] * 5
    assert behind.kept == joined(lines)
    assert behind.creates == 1


def test_downloads_that_differ_each_time(behind, gateway):
    """Then none of them is taken for what the provider has."""
    lines = behind.end(5)
    sizes = iter(range(len(lines[0]) + 20, 10**6, 9))

    def change(call, answer):
        if call.is_download:
            answer.body = answer.body[: next(sizes)]
        return answer

    gateway.change = change
    with pytest.raises(MalformedResponseError, match="its results are other ones at each download"):
        behind.fetch()
    assert behind.counts().pending == 5
    assert not behind.is_kept


def test_downloads_that_are_always_cut(behind, gateway):
    """What came is applied; what did not is not paid again, since it may well have been answered."""
    lines = behind.end(5)
    cut(gateway, len(joined(lines[:3])) - 7, 99)
    found = behind.fetch()
    assert [row["reason"] for row in found] == [None, None, "invalid_output", "missing", "missing"]
    assert behind.creates == 1


def test_an_answer_that_does_not_say_where_it_ends(behind, gateway):
    """A lost connection could not be told from its end, so nothing of it is read."""
    lines = behind.end()

    def change(call, answer):
        return Answer(200, {}, answer.body, has_length=False) if call.is_download else answer

    gateway.change = change
    with pytest.raises(UnavailableError, match="does not say where its answer to GET .* ends"):
        behind.fetch()
    assert behind.counts().pending == 3
    gateway.change = lambda call, answer: answer
    assert [row["status"] for row in behind.fetch()] == ["completed"] * 3
    assert behind.kept == joined(lines)


def test_an_answer_that_ends_before_its_length(behind, gateway):
    """The connection was lost: the download is taken up again by the next attempt."""
    behind.end()

    def change(call, answer):
        if call.is_download:
            answer.headers["content-length"] = str(len(answer.body))
            return Answer(200, answer.headers, answer.body[:-10], has_length=False)
        return answer

    gateway.change = change
    with pytest.raises(UnavailableError, match="did not answer"):
        behind.fetch()
    assert behind.counts().pending == 3
    assert not behind.is_kept


def test_a_line_beyond_measure(life, monkeypatch, caplog):
    """Of a line that no provider writes only the beginning is read, in bounded memory: its entry fails alone."""
    monkeypatch.setattr("airflow_raif.adapters.jsonl.MAX_LINE_BYTES", 3 << 20)
    assert MAX_LINE_BYTES >= 200 << 20
    lines = life.end()
    lines[1] = lines[1].replace(b'"text":"', b'"text":"' + b"x" * (5 << 20), 1)
    life.write(joined(lines))
    found = life.fetch()
    assert [row["status"] for row in found] == ["completed", "failed", "completed"]
    assert (found[1]["reason"], found[1]["error"]["code"]) == ("invalid_output", "unreadable")
    assert MALFORMED in caplog.text
    assert life.creates == 1
