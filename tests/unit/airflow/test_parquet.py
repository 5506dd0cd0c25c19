"""Rows from Parquet files, and results into them: types, nulls and errors, whole or not at all, in little memory."""

from __future__ import annotations

import datetime
import json
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.io import attach
from pydantic import BaseModel

from airflow_raif.destinations import parquet as destination_module
from airflow_raif.destinations.parquet import Parquet
from airflow_raif.domain.errors import FailedBatchError
from airflow_raif.emulator.faults import RowFault
from airflow_raif.hooks.batch import BatchHook
from airflow_raif.operators.batch import ApplyBatchResultsOperator, BatchInferenceOperator, SubmitBatchOperator
from airflow_raif.sources.parquet import parquet_rows
from tests.support import read_rows

OPENAI = {"conn_id": "openai_default", "model": "gpt-5-nano"}
NOON = datetime.datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=datetime.UTC)
NAIVE = NOON.replace(tzinfo=None, microsecond=0)
ROWS = [{"custom_id": f"row {n}", "prompt": f"prompt {n}", "n": n, "even": n % 2 == 0} for n in range(7)]


class Place(BaseModel):
    """Part of an answer."""

    city: str
    floor: int | None


class Review(BaseModel):
    """An answer."""

    mood: Literal["good", "bad"]
    stars: int
    share: float
    words: list[str]
    place: Place


@pytest.fixture
def infer(emulator, providers, context):
    """Run a whole batch in one task; return its manifest."""
    providers(emulator)

    def run(**arguments):
        operator = BatchInferenceOperator(
            task_id="t", deferrable=False, poll_interval=0.01, **{**OPENAI, "requests": ROWS, **arguments}
        )
        operator.render_template_fields(context)
        return operator.execute(context)

    return run


@pytest.fixture
def refuse(infer, emulator):
    """Expect a task to fail for good before anything is paid."""

    def run(message, **arguments):
        with pytest.raises(AirflowFailException, match=message):
            infer(**arguments)
        assert emulator.state.creates["openai"] == 0

    return run


def written(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return f"file://{path}"


# Rows from a file


def test_values_are_pythons_and_come_back_with_the_answer(infer, tmp_path):
    """Dates, decimals, lists and nulls, of the types that other tools write."""
    address = written(
        tmp_path / "rows.parquet",
        {
            "key": [7, 8],
            "text": ["Dune", None],
            "price": pa.array([Decimal("1.50"), None], pa.decimal128(8, 2)),
            # As pandas writes them.
            "at": pa.array([NOON, None], pa.timestamp("ns", "UTC")),
            "day": [datetime.date(2026, 1, 31), None],
            "clock": pa.array([datetime.time(1, 2), None], pa.time64("ns")),
            "took": pa.array([datetime.timedelta(seconds=90), None], pa.duration("ns")),
            "tags": [["a", None], []],
            "deep": [{"seen": [NAIVE]}, None],
            "by": pa.array([[("x", 1)], None], pa.map_(pa.string(), pa.int64())),
            "kind": pa.array(["new", None]).dictionary_encode(),
            "share": [0.1, float("nan")],
            "raw": [b"\xff", None],
            "none": pa.nulls(2),
        },
    )
    assert next(parquet_rows(address)) == {
        "key": 7, "text": "Dune", "price": Decimal("1.50"), "at": NOON, "day": datetime.date(2026, 1, 31),
        "clock": datetime.time(1, 2), "took": datetime.timedelta(seconds=90), "tags": ["a", None],
        "deep": {"seen": [NAIVE]}, "by": {"x": 1}, "kind": "new", "share": 0.1,
        "raw": b"\xff", "none": None,
    }  # fmt: skip
    template = "<{{ text }}> {{ price }} {{ tags | length }}"
    found = read_rows(infer(requests=address, id_column="key", prompt_template=template)["result_uri"])
    assert [row["custom_id"] for row in found] == ["7", "8"]
    first, second = ({name: row[name] for name in ("text", "price", "at", "day", "took", "tags", "deep", "by", "kind",
                                                   "share", "raw", "none")} for row in found)  # fmt: skip
    assert first == {
        "text": "Dune", "price": "1.50", "at": "2026-01-31T12:00:00.250000Z", "day": "2026-01-31", "took": "PT90S",
        "tags": ["a", None], "deep": {"seen": ["2026-01-31T12:00:00"]}, "by": {"x": 1}, "kind": "new", "share": 0.1,
        "raw": "/w==", "none": None,
    }  # fmt: skip
    assert {name for name, value in second.items() if value is not None} == {"tags"}


def test_of_a_large_file_little_is_here(tmp_path):
    """Also if all of it is one row group; what is not looked at is not read."""
    text = ["x" * 1000 + str(n) for n in range(40_000)]
    address = written(tmp_path / "rows.parquet", {"prompt": text, "n": range(40_000)}, compression="none")
    assert pq.ParquetFile(tmp_path / "rows.parquet").num_row_groups == 1
    del text
    before = pa.total_allocated_bytes()
    most = count = 0
    for row in parquet_rows(address):
        assert row["n"] == count
        count += 1
        most = max(most, pa.total_allocated_bytes() - before) if count % 1000 == 0 else most
    assert count == 40_000
    assert most < 10_000_000
    rows = parquet_rows(address)
    assert next(rows)["n"] == 0
    rows.close()
    assert pa.total_allocated_bytes() - before < 100_000


def test_rows_on_object_storage(infer):
    """And the answers beside them; there is no temporary name there, a file shows once it is whole."""
    storage = fsspec.filesystem("memory")
    attach("memory", fs=storage)
    with storage.open("/lake/in.parquet", "wb") as file:
        pq.write_table(pa.table({"prompt": ["a", "b"]}), file)
    manifest = infer(requests="memory://lake/in.parquet", destination=Parquet("memory://lake/out.parquet"))
    assert manifest["destination_uri"] == "memory://lake/out.parquet"
    with storage.open("/lake/out.parquet", "rb") as file:
        assert pq.read_table(file)["custom_id"].to_pylist() == ["0", "1"]
    assert sorted(storage.ls("/lake", detail=False)) == ["/lake/in.parquet", "/lake/out.parquet"]
    storage.rm("/lake", recursive=True)


def test_several_files_by_one_address(infer, context, tmp_path):
    """In the order of their names, of any format; the day of the run may be in the address."""
    context["ds"] = "2026-01-05"
    for name, prompts in (("b", ["c"]), ("a", ["a", "b"])):
        (tmp_path / "2026-01-05" / name).mkdir(parents=True)
        written(tmp_path / "2026-01-05" / name / "part.parquet", {"prompt": prompts, "place": [name] * len(prompts)})
    written(tmp_path / "other.parquet", {"prompt": ["no"]})
    found = read_rows(infer(requests=f"{tmp_path}/{{{{ ds }}}}/*/*.parquet")["result_uri"])
    assert [row["place"] for row in found] == ["a", "a", "b"]
    context["ds"] = "2026-01-06"
    context["ti"].run_id = "the next night"
    with pytest.raises(AirflowSkipException, match="no row came from the input"):
        infer(requests=f"file://{tmp_path}/{{{{ ds }}}}/*.parquet", on_empty="skip")
    with pytest.raises(AirflowFailException, match="no row came from the input"):
        infer(requests=f"file://{tmp_path}/{{{{ ds }}}}/*.jsonl")


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_files_in_folders_that_are_named_as_files(infer, tmp_path, storage):
    """As Spark writes them: the folder itself is no file."""
    files = fsspec.filesystem(storage)
    attach(storage, fs=files)
    for night in ("a", "b"):
        files.makedirs(f"{tmp_path}/{night}.parquet")
        with files.open(f"{tmp_path}/{night}.parquet/part-0.parquet", "wb") as file:
            pq.write_table(pa.table({"prompt": [night]}), file)
    found = infer(requests=f"{storage}://{tmp_path}/**/*.parquet")
    assert found["counts"]["completed"] == 2


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def spoil(path):
    content = path.read_bytes()
    at = content.index(b"prompt 3")
    path.write_bytes(content[: at - 60] + bytes(120) + content[at + 60 :])


@pytest.mark.parametrize(
    ("columns", "change", "message"),
    [
        (
            {"prompt": ["a"]},
            lambda path: path.write_bytes(b"prompt\na"),
            "cannot be read as a Parquet file after row 0",
        ),
        ({"prompt": ["a"]}, cut, "cannot be read as a Parquet file after row 0"),
        ({"prompt": ["a", None]}, None, "row 1: the request has neither prompt nor messages nor body"),
        ({"prompt": ["a", "b"], "custom_id": ["a", None]}, None, "row 1 has the custom_id None"),
        ({"prompt": ["a"], "status": ["new"]}, None, "row 0 has a column named 'status'.*rename"),
        (
            {"prompt": ["a"] * 300, "day": pa.array([0] * 299 + [2**30], pa.int32()).cast(pa.date32())},
            None,
            "row 299 of .* has a value in column 'day' that Python cannot hold",
        ),
        (
            {"prompt": ["a"], "by": pa.array([[("x", 1), ("x", 2)]], pa.map_(pa.string(), pa.int64()))},
            None,
            "row 0 of .* has a value in column 'by' that Python cannot hold",
        ),
        ({}, None, "the batch is empty"),
    ],
)
def test_a_file_that_cannot_be_sent(refuse, tmp_path, columns, change, message):
    """Names the row, the column and what to do."""
    path = tmp_path / "rows.parquet"
    address = written(path, columns)
    if change is not None:
        change(path)
    refuse(message, requests=address)


def test_two_columns_of_one_name(refuse, tmp_path):
    """Are named."""
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "rows.parquet")
    refuse("has several columns named 'prompt'; rename", requests=f"{tmp_path}/rows.parquet")


@pytest.mark.parametrize("arguments", [{"requests": "rows.parquet"}, {"destination": Parquet("/tmp/out.parquet")}])
def test_without_pyarrow(refuse, monkeypatch, arguments):
    """The error names what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuse(r"pip install 'airflow-raif\[parquet\]'", **arguments)


# Results into a file


def test_columns_of_the_answer_have_types(infer, emulator, tmp_path):
    """Those of the schema, whatever the answers hold; the file says what the result file says."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[2]))
    manifest = infer(output_type=Review, max_rounds=0, destination=Parquet(f"file://{tmp_path}/out/moods.parquet"))
    assert manifest["destination_uri"] == f"file://{tmp_path}/out/moods.parquet"
    table = pq.read_table(tmp_path / "out" / "moods.parquet")
    review = pa.struct(
        [
            ("mood", pa.string()),
            ("stars", pa.int64()),
            ("share", pa.float64()),
            ("words", pa.list_(pa.string())),
            ("place", pa.struct([("city", pa.string()), ("floor", pa.int64())])),
        ]
    )
    types = dict(zip(table.schema.names, table.schema.types, strict=True))
    assert list(types) == [
        "custom_id", "n", "even", "status", "reason", "output", "raw_output", "tool_calls", "error", "model",
        "finish_reason", "usage", "cost",
    ]  # fmt: skip
    assert (types["n"], types["even"], types["output"]) == (pa.int64(), pa.bool_(), review)
    assert types["cost"].field("batch").type == pa.decimal128(24, 12)
    answers = read_rows(manifest["result_uri"])
    found = table.to_pylist()
    for row, told in zip(found, answers, strict=True):
        assert [row[name] for name in ("custom_id", "n", "status", "reason", "output", "model", "usage")] == [
            told[name] for name in ("custom_id", "n", "status", "reason", "output", "model", "usage")
        ]
        assert (row["cost"] or {}).get("batch") == (told["cost"] and Decimal(str(told["cost"]["batch"])))
    assert (found[2]["reason"], found[2]["output"], found[2]["error"]["message"]) == (
        "errored", None, answers[2]["error"]["message"],
    )  # fmt: skip
    assert sum(row["cost"]["batch"] for row in found if row["cost"]) == Decimal(manifest["cost"]["batch"])


def test_the_columns_of_each_night_are_the_same(emulator, infer, context, tmp_path):
    """Also of one whose answers all failed."""
    destinations = {
        night: Parquet(f"{tmp_path}/{night}.parquet", types={"n": "int64", "seen": "date32"}) for night in "ab"
    }
    infer(output_type=Review, max_rounds=0, destination=destinations["a"])
    context["ti"].run_id = "the next night"
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=list(range(7))))
    rows = [{**row, "n": None} for row in ROWS]
    with pytest.raises(FailedBatchError):
        infer(output_type=Review, max_rounds=0, destination=destinations["b"], requests=rows)
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert schema == pq.read_schema(tmp_path / "b.parquet")
    assert (schema.field("n").type, schema.field("seen").type) == (pa.int64(), pa.date32())


def test_columns_that_are_picked(infer, tmp_path):
    """With names and types of the user's own; dates and decimals, which JSON does not have."""
    rows = [
        {"custom_id": str(n), "prompt": f"p {n}", "day": datetime.date(2026, 1, 1 + n), "price": Decimal(f"{n}.50"),
         "at": NOON if n else None}
        for n in range(3)
    ]  # fmt: skip
    infer(
        requests=rows,
        output_type=Review,
        destination=Parquet(
            f"{tmp_path}/out.parquet",
            columns={
                "id": "custom_id", "day": "day", "price": "price", "at": "at", "mood": "output.mood", "city":
                "output.place.city", "review": "output", "tokens": "usage.output_tokens", "cost": "cost.batch",
            },
            types={"day": "date32", "price": "decimal128(8, 2)", "at": "timestamp[us, tz=UTC]", "review": "json"},
        ),
    )  # fmt: skip
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.names == ["id", "day", "price", "at", "mood", "city", "review", "tokens", "cost"]
    for n, row in enumerate(table.to_pylist()):
        assert (row["id"], row["day"], row["price"], row["at"]) == (
            str(n), datetime.date(2026, 1, 1 + n), Decimal(f"{n}.50"), NOON if n else None,
        )  # fmt: skip
        review = Review.model_validate_json(row["review"])
        assert (row["mood"], row["city"]) == (review.mood, review.place.city)
        assert row["tokens"] > 0
        assert row["cost"] > 0


@pytest.mark.parametrize("columns", [None, {"by": "user", "by_id": "user.id", "mood": "output.mood"}])
def test_own_columns_with_dots(infer, tmp_path, columns):
    """As of a table that was flattened: each is a column of its own, and an earlier answer is not the answer."""
    rows = [{"custom_id": "a", "prompt": "p", "user": "Ada", "user.id": 5, "output.mood": "of last night"}]
    infer(requests=rows, output_type=Review, destination=Parquet(f"{tmp_path}/out.parquet", columns=columns))
    (row,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    if columns is None:
        assert (row["user"], row["user.id"], row["output.mood"]) == ("Ada", 5, "of last night")
    else:
        assert (row["by"], row["by_id"]) == ("Ada", 5)
        assert row["mood"] in ("good", "bad")


def test_own_columns_are_typed_by_what_they_hold(infer, tmp_path):
    """What is sparse is null, integers beside others are numbers, objects are JSON text."""
    columns = [
        {"number": 1, "list": [1], "deep": {"a": [1, {"b": None}]}, "late": None, "nested": [[1], [2.5]]},
        {"number": 0.5, "list": [], "deep": None, "empty": None, "nested": None},
        {"number": None, "list": None, "late": "x", "flag": True, "mixed": [1, None]},
    ]
    infer(requests=[{"prompt": "p", **each} for each in columns], destination=Parquet(f"{tmp_path}/out.parquet"))
    table = pq.read_table(tmp_path / "out.parquet")
    own = table.select(["number", "list", "deep", "late", "nested", "empty", "flag", "mixed"])
    assert own.schema.types == [
        pa.float64(), pa.list_(pa.int64()), pa.string(), pa.string(), pa.list_(pa.list_(pa.float64())), pa.string(),
        pa.bool_(), pa.list_(pa.int64()),
    ]  # fmt: skip
    assert own.to_pylist() == [
        {"number": 1.0, "list": [1], "deep": '{"a":[1,{"b":null}]}', "late": None, "nested": [[1.0], [2.5]],
         "empty": None, "flag": None, "mixed": None},
        {"number": 0.5, "list": [], "deep": None, "late": None, "nested": None, "empty": None, "flag": None,
         "mixed": None},
        {"number": None, "list": None, "deep": None, "late": "x", "nested": None, "empty": None, "flag": True,
         "mixed": [1, None]},
    ]  # fmt: skip
    assert table.schema.field("output").type == pa.string()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "x"], "row '1' has 'x' in column 'v': it is of type string, and before it there was integer; .*types="),
        ([[1], ["x"]], r"row '1' has \['x'\] in column 'v'"),
        ([True, 1], "row '1' has 1 in column 'v': it is of type integer, and before it there was boolean"),
        ([0, 2**63], "row '1' has 9223372036854775808 in column 'v': it has more than 64 bits"),
        ([{"a": 1}, "x"], "row '1' has 'x' in column 'v': it is of type string, and before it there was json"),
    ],
)
def test_a_column_of_several_types(infer, emulator, tmp_path, values, message):
    """Is named with the row and the remedy; that brings it into the file, and nothing is paid again."""
    requests = [{"prompt": "p", "v": value} for value in values]
    path = tmp_path / "out.parquet"
    with pytest.raises(AirflowFailException, match=message):
        infer(requests=requests, destination=Parquet(str(path)))
    assert not path.exists()
    infer(requests=requests, destination=Parquet(str(path), types={"v": "json"}))
    assert [json.loads(each) for each in pq.read_table(path)["v"].to_pylist()] == values
    infer(requests=requests, destination=Parquet(str(path), types={"v": "string"}))
    assert pq.read_table(path)["v"].to_pylist()[0] == (
        values[0] if isinstance(values[0], str) else json.dumps(values[0], separators=(",", ":"))
    )
    assert emulator.state.creates["openai"] == 1


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("int64", "many", "row '1' has 'many' for column 'v', which is int64 in the Parquet file"),
        ("int64", 1.5, "row '1' has 1.5 for column 'v', which is int64"),
        ("date32", "yesterday", r"row '1' has 'yesterday' for column 'v', which is date32\[day\].*types="),
        (pa.decimal128(4, 2), "1000.5", r"row '1' has '1000.5' for column 'v', which is decimal128\(4, 2\)"),
        (pa.list_(pa.int64()), ["x"], r"row '1' has \['x'\] for column 'v', which is list"),
    ],
)
def test_a_value_that_is_not_of_the_type_that_was_given(infer, tmp_path, kind, value, message):
    """Is named with its row."""
    requests = [{"prompt": "p", "v": None}, {"prompt": "p", "v": value}]
    with pytest.raises(AirflowFailException, match=message):
        infer(requests=requests, destination=Parquet(f"{tmp_path}/out.parquet", types={"v": kind}))
    assert not list(tmp_path.glob("out*"))


def test_a_column_that_no_row_has(infer, tmp_path):
    """Is no column of nulls."""
    with pytest.raises(AirflowFailException, match="no row has 'shelf', which column 'place' of"):
        infer(destination=Parquet(f"{tmp_path}/out.parquet", columns={"place": "shelf"}))


def test_vectors(infer, tmp_path):
    """Are lists of numbers."""
    infer(
        requests=["a", "b"], endpoint="/v1/embeddings", model="text-embedding-3-small",
        destination=Parquet(f"{tmp_path}/out.parquet"),
    )  # fmt: skip
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("output").type == pa.list_(pa.float64())
    assert [len(each) for each in table["output"].to_pylist()] == [1536, 1536]


def test_only_what_completed(infer, emulator, tmp_path):
    """By option."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[0, 3]))
    infer(
        max_rounds=0, output_type=Review,
        destination=Parquet(f"{tmp_path}/out.parquet", columns={"n": "n", "mood": "output.mood"}, failed=False),
    )  # fmt: skip
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["n"] for row in found] == [1, 2, 4, 5, 6]
    assert all(row["mood"] for row in found)


def test_whole_or_as_it_was(infer, monkeypatch, tmp_path):
    """A task that dies while it writes leaves the file of the night before; a retry writes the new one, unpaid."""
    monkeypatch.setattr(destination_module, "ROW_GROUP_BYTES", 1)
    monkeypatch.setattr(destination_module, "CHUNK_ROWS", 2)
    address = written(tmp_path / "out.parquet", {"custom_id": ["from before"]})
    real = destination_module._batch
    calls = []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(destination_module, "_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        infer(destination=Parquet(address))
    assert pq.read_table(tmp_path / "out.parquet")["custom_id"].to_pylist() == ["from before"]
    infer(destination=Parquet(address))
    first = (tmp_path / "out.parquet").read_bytes()
    assert pq.read_table(tmp_path / "out.parquet")["n"].to_pylist() == list(range(7))
    infer(destination=Parquet(address))
    assert (tmp_path / "out.parquet").read_bytes() == first
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(("rows", "size", "groups"), [(4, 1 << 20, [4, 3]), (100, 1, [2, 2, 2, 1])])
def test_row_groups_are_of_bounded_size(infer, monkeypatch, tmp_path, rows, size, groups):
    """By rows and by bytes."""
    monkeypatch.setattr(destination_module, "CHUNK_ROWS", 2)
    monkeypatch.setattr(destination_module, "ROW_GROUP_ROWS", rows)
    monkeypatch.setattr(destination_module, "ROW_GROUP_BYTES", size)
    infer(destination=Parquet(f"{tmp_path}/out.parquet"))
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == groups


def test_each_part_has_a_file_of_its_own(emulator, providers, context, connection, tmp_path):
    """Whose name tells where its rows are in the input; all of them are read as one table."""
    providers(emulator)
    connection(
        "openai_default", conn_type="raif_openai", password="good-key", host=f"{emulator.url}/v1",
        extra={"max_requests": 3},
    )  # fmt: skip
    batch = SubmitBatchOperator(task_id="s", **OPENAI, requests=ROWS, output_type=Review).execute(context)
    BatchHook("openai_default").fetch_batch_status(batch["batch_id"])
    for part in (2, 0, 1):
        context["ti"].map_index = part
        manifest = ApplyBatchResultsOperator(
            task_id="a", batch=batch, part=part, destination=Parquet(f"{tmp_path}/out/moods.parquet")
        ).execute(context)
        assert manifest["destination_uri"] == f"file://{tmp_path}/out/moods-{3 * part:012d}.parquet"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"moods-{row:012d}.parquet" for row in (0, 3, 6)]
    assert pq.read_table(tmp_path / "out")["n"].to_pylist() == list(range(7))
    assert [row["n"] for row in parquet_rows(f"{tmp_path}/out/{names[1]}")] == [3, 4, 5]


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        (Parquet("/out.parquet", types={"n": "timestamp[day, tz=UTC]"}), "Arrow has no type named 'timestamp"),
        (Parquet("/out.parquet", types={"n": "decimal128(80, 2)"}), "Arrow has no type named 'decimal128"),
        (Parquet("/out.parquet", types={"n": "integer"}), "Arrow has no type named 'integer', .* column 'n'; give a"),
        (
            Parquet("/out.parquet", columns={"m": "output.mod"}),
            "column 'm' is to hold 'output.mod', but the output has",
        ),
        (Parquet("/out.parquet", columns={"c": "cost.total"}), "'cost.total', but the cost has batch, standard"),
        (Parquet("/{{ 'out' }}"), "give the address of a file that ends with .parquet, not '/out'"),
        (Parquet("nowhere://lake/out.parquet"), "'nowhere://lake' cannot be opened: .*nowhere"),
    ],
)
def test_a_file_that_cannot_be_written_shows_before_anything_is_paid(refuse, destination, message):
    """Names what there is."""
    refuse(message, destination=destination, output_type=Review)


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("s3://lake/out", {}, "give the address of a file that ends with .parquet"),
        ("s3://lake/out.parquet", {"columns": {}}, "give columns to be written"),
        ("s3://lake/out.parquet", {"columns": {"a": "b"}, "types": {"c": "string"}}, "types of these alone"),
    ],
)
def test_a_wrong_destination_shows_as_the_dag_is_parsed(path, arguments, message):
    """Says what to give."""
    with pytest.raises(ValueError, match=message):
        Parquet(path, **arguments)


def test_the_address_is_a_template(tmp_path):
    """And what Airflow's pages show of it is the same each time the DAG is parsed."""
    made = [Parquet(f"{tmp_path}/{{{{ ds }}}}.parquet", types={"n": pa.int64()}) for _ in range(2)]
    assert repr(made[0]) == repr(made[1])
    operator = ApplyBatchResultsOperator(task_id="t", batch="b" * 32, destination=made[0])
    operator.render_template_fields({"ds": "2026-01-05"})
    assert Path(operator.destination.path).name == "2026-01-05.parquet"


@pytest.mark.parametrize("is_mapped", [False, True])
def test_each_execution_renders_it_anew(is_mapped):
    """Tasks and runs of one process may share a destination, as in ``dag.test()``."""
    shared = Parquet("file:///moods/{{ ds }}.parquet")
    arguments = {"task_id": "t", **OPENAI, "destination": shared}
    found = []
    with DAG("d", schedule=None) as dag:
        if is_mapped:
            task = BatchInferenceOperator.partial(**arguments).expand(requests=[["x"]])
        else:
            task = BatchInferenceOperator(**arguments, requests=["x"])
    for day in ("2026-01-05", "2026-01-06"):
        instance = SimpleNamespace(task=task.prepare_for_execution(), map_index=0, is_mapped=is_mapped)
        run = SimpleNamespace(conf={})
        instance.task.render_template_fields({"ds": day, "ti": instance, "dag": dag, "dag_run": run})
        found.append(instance.task.destination.path)
    assert found == ["file:///moods/2026-01-05.parquet", "file:///moods/2026-01-06.parquet"]
