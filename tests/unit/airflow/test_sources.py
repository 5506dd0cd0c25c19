"""Where an operator's rows come from, and how prompts and ids are made of their columns."""

from __future__ import annotations

import datetime
import json
import uuid
from decimal import Decimal

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_raif.domain.request import EntryRequest
from airflow_raif.operators.batch import BatchInferenceOperator, SubmitBatchOperator
from tests.support import read_rows

OPENAI = {"conn_id": "openai_default", "model": "gpt-5-nano"}
BOOKS = [{"isbn": 7, "title": "Dune", "pages": 412}, {"isbn": 8, "title": "Emma", "pages": None}]


@pytest.fixture
def infer(emulator, providers, context):
    """Run a whole batch; return its rows and the bodies that were sent."""
    providers(emulator)

    def run(**arguments):
        manifest = BatchInferenceOperator(
            task_id="t", **OPENAI, deferrable=False, poll_interval=0.01, **arguments
        ).execute(context)
        (sent,) = (
            file.path.read_bytes() for file in emulator.state.files["openai"].values() if file.purpose == "batch"
        )
        return read_rows(manifest["result_uri"]), [json.loads(line)["body"] for line in sent.splitlines()]

    return run


def refused(providers, emulator, context, message, **arguments):
    providers(emulator)
    with pytest.raises(AirflowFailException, match=message):
        SubmitBatchOperator(task_id="t", **OPENAI, **arguments).execute(context)
    assert emulator.state.creates["openai"] == 0


def test_a_template_makes_the_prompts(infer):
    """Each row's columns are in its prompt, and all of them come back with the answer."""
    found, sent = infer(
        requests=BOOKS, id_column="isbn", prompt_template="{{ title | upper }}{% if pages %}: {{ pages }}{% endif %}\n"
    )
    assert [body["input"] for body in sent] == ["DUNE: 412\n", "EMMA\n"]
    assert [(row["custom_id"], row["isbn"], row["title"], row["pages"], row["status"]) for row in found] == [
        ("7", 7, "Dune", 412, "completed"),
        ("8", 8, "Emma", None, "completed"),
    ]


def test_columns_are_only_columns(infer):
    """With a template no column is taken for a part of the request, and none is a template itself."""
    row = {"custom_id": "a", "prompt": "{{ 7 * 7 }}", "system": "{% raw %}", "max_tokens": "many"}
    found, sent = infer(requests=[row], prompt_template="<{{ prompt }}> {{ system }}")
    assert [body["input"] for body in sent] == ["<{{ 7 * 7 }}> {% raw %}"]
    assert "max_output_tokens" not in sent[0]
    assert {name: found[0][name] for name in row} == row


def test_a_function_makes_the_prompts(infer):
    """Of one row at a time: a prompt, or a request with settings of its own."""
    made = EntryRequest(prompt="same for both", columns={"made": True})

    def prompt(row):
        if row["pages"] is None:
            return {"prompt": f"How many pages has {row['title']}?", "max_tokens": 9, "asked": "pages"}
        return made if row["title"] == "Dune" else f"Sum up {row['title']}"

    books = [*BOOKS, {"isbn": 9, "title": "Ulysses", "pages": 730}, {"isbn": 10, "title": "Dune", "pages": 1}]
    found, sent = infer(requests=books, id_column="isbn", prompt_template=prompt, deduplicate=False)
    assert [body["input"] for body in sent] == [
        "same for both", "How many pages has Emma?", "Sum up Ulysses", "same for both",
    ]  # fmt: skip
    assert [body.get("max_output_tokens") for body in sent] == [None, 9, None, None]
    assert [(row["custom_id"], row["title"], row.get("asked"), row.get("made")) for row in found] == [
        ("7", "Dune", None, True), ("8", "Emma", "pages", None), ("9", "Ulysses", None, None),
        ("10", "Dune", None, True),
    ]  # fmt: skip


def test_ids_come_from_a_column_also_without_a_template(infer):
    """Rows that are requests already may have their ids elsewhere; whatever a database holds as a key is one."""
    keys = [uuid.UUID(int=5), Decimal("3.10"), datetime.date(2026, 1, 31), "text", 12]
    found, _ = infer(requests=[{"key": key, "prompt": "p"} for key in keys], id_column="key")
    assert [row["custom_id"] for row in found] == list(map(str, keys))
    assert [row["key"] for row in found] == [*map(str, keys[:4]), 12]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"prompt_template": "{{ author }}"},
            "row 0: prompt_template fails.*'author' is undefined.*isbn, title, pages",
        ),
        ({"prompt_template": "{{ pages + 1 }}"}, "row 1: prompt_template fails with TypeError"),
        ({"prompt_template": "{{ ''.__class__.__mro__ }}"}, "row 0: prompt_template fails with SecurityError"),
        ({"prompt_template": "{{ var.value.secret }}"}, "row 0: prompt_template fails.*'var' is undefined"),
        ({"prompt_template": "{% if pages %}x{% endif %}"}, "row 1.*the prompt is ''; give a text"),
        ({"prompt_template": lambda row: row["author"]}, "row 0: prompt_template fails with KeyError: 'author'"),
        ({"prompt_template": lambda row: None}, "row 0 is a NoneType"),
        ({"prompt_template": "x", "id_column": "pages"}, "row 1 has None as its id in column 'pages'"),
        ({"prompt_template": "x", "id_column": "key"}, "row 0 has None as its id in column 'key'.*isbn, title, pages"),
        ({"prompt_template": "x", "requests": ["text"]}, "row 0 is a str; with a prompt_template"),
        ({"prompt_template": "x", "requests": [{"status": 1}]}, "row 0 has a column named 'status'.*rename"),
        ({"id_column": "key", "requests": [{"key": "a", "custom_id": "b"}]}, "row 0 has a column named 'custom_id'"),
        ({"id_column": "key", "requests": [{"key": 1.5}]}, "row 0 has 1.5 as its id"),
        ({"id_column": "key", "requests": [{"key": True}]}, "row 0 has True as its id"),
    ],
)
def test_what_makes_no_request_is_named(emulator, providers, context, arguments, message):
    """The row, the value and what to do; nothing is sent."""
    refused(providers, emulator, context, message, **{"requests": BOOKS, **arguments})


def test_a_template_that_is_none_shows_as_the_dag_is_parsed():
    """Before anybody runs it."""
    with pytest.raises(ValueError, match="prompt_template is no Jinja template: unexpected '}'"):
        SubmitBatchOperator(task_id="t", **OPENAI, requests=BOOKS, prompt_template="{{ title }")


def test_a_retry_finds_its_batch_and_another_template_is_other_work(emulator, providers, context):
    """What counts is what was sent."""
    providers(emulator)

    def submit(template):
        return SubmitBatchOperator(task_id="t", **OPENAI, requests=BOOKS, prompt_template=template).execute(context)

    assert submit("{{ title }}")["batch_id"] == submit("{{ title }}")["batch_id"]
    with pytest.raises(AirflowFailException, match="input changed"):
        submit("{{ title }}!")
    assert emulator.state.creates["openai"] == 1


def test_a_csv_file(infer, tmp_path):
    """As spreadsheets write it: a byte order mark, quotes, commas and line ends inside fields, blank lines, Windows."""
    path = tmp_path / "Rows.CSV"
    long = "x" * 200_000
    path.write_bytes(f'\ufeffkey,text\r\na,"one, ""two""\r\nthree\u2028four"\r\n\r\nb,\r\nc,{long}\r\n'.encode())
    found, sent = infer(requests=f"file://{path}", id_column="key", prompt_template="<{{ text }}>")
    assert [body["input"] for body in sent] == ['<one, "two"\r\nthree\u2028four>', "<>", f"<{long}>"]
    assert [row["custom_id"] for row in found] == ["a", "b", "c"]
    assert found[1]["text"] == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"key,text\na,1\nb,2,3\n", r"row 1 of .*\(line 3\) has 3 fields, not the 2"),
        (b"key,text\na\n", r"row 0 of .*\(line 2\) has 1 fields, not the 2"),
        (b"key,text\na,fine\nb,\xff\n", "of .* is no CSV in UTF-8"),
        (b'key,text\na,1\nb,"open\n', "row 1 of .* is no CSV in UTF-8"),
        (b"key,key\na,1\n", "has several columns named 'key'; rename"),
        (b"", "the batch is empty"),
        (b"key,text\n", "the batch is empty"),
    ],
)
def test_a_csv_file_that_is_none(emulator, providers, context, tmp_path, content, message):
    """Names the row and the line."""
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    refused(providers, emulator, context, message, requests=str(path), prompt_template="{{ text }}")
