"""Rows of a query, and results upserted into a table, on SQLite and PostgreSQL through Airflow's own hooks."""

from __future__ import annotations

import datetime
import json
import resource
from decimal import Decimal
from itertools import islice
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException
from sqlalchemy import create_engine, make_url
from sqlalchemy.dialects.sqlite.base import ischema_names

from airflow_raif.destinations import sql as destination_module
from airflow_raif.destinations.sql import SqlTable
from airflow_raif.domain.errors import ConfigurationError, InvalidBatchError
from airflow_raif.emulator.faults import RowFault
from airflow_raif.operators.batch import ApplyBatchResultsOperator, BatchInferenceOperator, SubmitBatchOperator
from airflow_raif.sources.sql import sql_rows

OPENAI = {"conn_id": "openai_default", "model": "gpt-5-nano"}
ANSWER = {
    "type": "object",
    "properties": {
        "mood": {"type": "string", "enum": ["good", "bad"]},
        "words": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["mood", "words"],
    "additionalProperties": False,
}
MOOD = SqlTable("warehouse", "review", keys=["id"], columns={"mood": "output.mood"})


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def warehouse(request, tmp_path, connection):
    """A database of the user's own behind the connection ``warehouse``, with seven reviews."""
    if request.param == "sqlite":
        address = make_url(f"sqlite:///{tmp_path}/warehouse.db")
        connection("warehouse", conn_type="sqlite", host=f"{tmp_path}/warehouse.db")
    else:
        address = make_url(request.getfixturevalue("postgres").create_database())
        connection(
            "warehouse", conn_type="postgres", host=address.host, port=address.port, login=address.username,
            password=address.password, schema=address.database,
        )  # fmt: skip
    engine = create_engine(address)

    def run(statement):
        with engine.begin() as opened:
            result = opened.execution_options(no_parameters=True).exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []

    run("CREATE TABLE review (id INTEGER PRIMARY KEY, body TEXT, day DATE, price NUMERIC(8, 2), mood TEXT, note TEXT)")
    for n in range(7):
        day = datetime.date(2026, 1, 1 + n).isoformat()
        run(f"INSERT INTO review VALUES ({n}, 'Review % number :{n}', '{day}', {n}.50, NULL, 'note {n}')")
    yield SimpleNamespace(run=run, engine=engine, is_sqlite=request.param == "sqlite")
    engine.dispose()


@pytest.fixture
def infer(emulator, providers, context):
    """Run a whole batch in one task."""
    providers(emulator)

    def run(**arguments):
        arguments = {"output_type": ANSWER, "prompt_template": "{{ body }}", "id_column": "id", **arguments}
        return BatchInferenceOperator(
            task_id="t", **OPENAI, sql_conn_id="warehouse", deferrable=False, poll_interval=0.01, **arguments
        ).execute(context)

    return run


def test_from_a_table_back_into_it(infer, warehouse):
    """Each row's answer is in the row; whatever else is in it stays."""
    manifest = infer(sql="SELECT id, body FROM review WHERE id < 5 ORDER BY id", destination=MOOD)
    assert manifest["counts"]["completed"] == 5
    found = warehouse.run("SELECT id, mood, note FROM review ORDER BY id")
    assert [row[0] for row in found] == list(range(7))
    assert [row[1] in ("good", "bad") for row in found] == [True] * 5 + [False] * 2
    assert [row[2] for row in found] == [f"note {n}" for n in range(7)]


def test_into_another_table_with_keys_of_many_types(infer, warehouse):
    """JSON has neither dates nor decimals, and the table has; what is no text becomes JSON; nothing is there twice."""
    warehouse.run(
        "CREATE TABLE answer (day DATE, price NUMERIC(8, 2), moods TEXT, words TEXT, cost NUMERIC(12, 9), state TEXT,"
        " tokens INTEGER, share REAL)"
    )
    table = SqlTable(
        "warehouse",
        "answer",
        keys=["day", "price"],
        columns={
            "moods": "output.mood", "words": "output.words", "cost": "cost.batch", "state": "status",
            "tokens": "usage.input_tokens", "share": "price",
        },
    )  # fmt: skip
    for last in (3, 6, 6):
        manifest = infer(
            sql=f"SELECT id, body, day, price FROM review WHERE id <= {last} ORDER BY id", destination=table,
            on_input_change="resubmit",
        )  # fmt: skip
    rows = warehouse.run("SELECT day, price, moods, words, cost, state, tokens, share FROM answer ORDER BY day")
    assert len(rows) == 7
    for n, (day, price, mood, words, cost, state, tokens, share) in enumerate(rows):
        assert str(day) == f"2026-01-0{n + 1}"
        assert Decimal(str(price)) == Decimal(f"{n}.50")
        assert mood in ("good", "bad")
        assert words.startswith("[")
        assert 0 < Decimal(str(cost)) < 1
        assert (state, share) == ("completed", n + 0.5)
        assert tokens > 0
    assert sum(Decimal(str(row[4])) for row in rows) == Decimal(str(manifest["cost"]["batch"]))


def test_answers_as_json(warehouse):
    """A column of JSON takes them as they are."""
    warehouse.run("CREATE TABLE raw (id INTEGER PRIMARY KEY, answer JSON, share REAL, exact NUMERIC(30, 20))")
    table = SqlTable("warehouse", "raw", keys=["id"], columns={"answer": "output", "share": "n", "exact": "n"})
    answer = {"list": [1, 2.5, None, "ü"], "deep": {"a": True}}
    table.write(iter([{"custom_id": "a", "status": "completed", "id": 1, "output": answer, "n": 0.1}]))
    ((found, share, exact),) = warehouse.run("SELECT answer, share, exact FROM raw")
    assert (json.loads(found) if isinstance(found, str) else found) == answer
    assert share == pytest.approx(0.1)
    assert Decimal(str(exact)) == Decimal("0.1")


@pytest.mark.parametrize("failed", [False, True])
def test_rows_that_failed(infer, emulator, warehouse, failed):
    """They leave alone what an earlier night brought, unless they are asked for."""
    emulator.state.faults.rows.append(RowFault(kind="errored", rows=[1]))
    warehouse.run("UPDATE review SET mood = 'from before'")
    table = SqlTable(
        "warehouse", "review", keys=["id"], columns={"mood": "output.mood", "note": "reason"}, failed=failed
    )
    infer(sql="SELECT id, body FROM review WHERE id < 3 ORDER BY id", destination=table, max_rounds=0)
    found = warehouse.run("SELECT mood, note FROM review WHERE id < 3 ORDER BY id")
    assert found[1] == ((None, "errored") if failed else ("from before", "note 1"))
    assert found[0][0] in ("good", "bad")


def test_a_task_that_dies_while_it_writes_goes_on(infer, emulator, warehouse, monkeypatch):
    """Though its query finds other rows by then, since some were written: nothing is paid again, nothing is missing."""
    monkeypatch.setattr(destination_module, "CHUNK_ROWS", 2)
    real, calls = SqlTable._upsert, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise RuntimeError("the database went away")
        real(*arguments)

    monkeypatch.setattr(SqlTable, "_upsert", dies)
    query = {"sql": "SELECT id, body FROM review WHERE mood IS NULL ORDER BY id", "destination": MOOD}
    with pytest.raises(RuntimeError, match="went away"):
        infer(**query)
    assert len(warehouse.run("SELECT id FROM review WHERE mood IS NULL")) == 3
    assert infer(**query)["counts"]["completed"] == 7
    assert warehouse.run("SELECT id FROM review WHERE mood IS NULL") == []
    assert emulator.state.creates["openai"] == 1
    # Once all is written, other rows are other work.
    warehouse.run("UPDATE review SET mood = NULL WHERE id = 3")
    with pytest.raises(AirflowFailException, match="input changed"):
        infer(**query)


def test_in_three_steps(emulator, providers, context, warehouse):
    """Apply writes into the table, and again when it is cleared."""
    providers(emulator)
    manifest = SubmitBatchOperator(
        task_id="s", **OPENAI, sql="SELECT id, body FROM review ORDER BY id", sql_conn_id="warehouse", id_column="id",
        prompt_template="{{ body }}", output_type=ANSWER,
    ).execute(context)  # fmt: skip
    with pytest.MonkeyPatch.context():
        from airflow_raif.hooks.batch import BatchHook

        BatchHook("openai_default").fetch_batch_status(manifest["batch_id"])
        BatchHook("openai_default").fetch_batch_results(manifest["batch_id"])
    for part in (None, 0):
        warehouse.run("UPDATE review SET mood = NULL")
        ApplyBatchResultsOperator(task_id="a", batch=manifest, part=part, destination=MOOD).execute(context)
        assert warehouse.run("SELECT id FROM review WHERE mood IS NULL") == []


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        (SqlTable("warehouse", "missing", keys=["id"], columns={"mood": "output"}), "has no table 'missing'"),
        (
            SqlTable("warehouse", "review", keys=["key"], columns={"mood": "output.mood"}),
            "has no column 'key'; it has id",
        ),
        (SqlTable("warehouse", "review", keys=["id"], columns={"smell": "output.mood"}), "has no column 'smell'"),
        (SqlTable("warehouse", "review", keys=["id"], columns={"mood": "output.mod"}), "the output has mood, words"),
        (SqlTable("openai_default", "review", keys=["id"], columns={"mood": "output"}), "is no SQL database"),
    ],
)
def test_a_destination_that_cannot_be_written_shows_before_anything_is_paid(
    infer, emulator, warehouse, destination, message
):
    """Names what there is."""
    with pytest.raises(AirflowFailException, match=message):
        infer(sql="SELECT id, body FROM review", destination=destination)
    assert emulator.state.creates["openai"] == 0


def test_fields_of_a_text(infer, emulator, warehouse):
    """Without a schema there are none."""
    with pytest.raises(AirflowFailException, match="the output is a text, since there is no output_type"):
        infer(sql="SELECT id, body FROM review", destination=MOOD, output_type=None)
    assert emulator.state.creates["openai"] == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"custom_id": "a", "status": "completed", "output": "x"}, "row 'a' has no 'id'; a result row has custom_id"),
        ({"custom_id": "a", "status": "completed", "output": "x", "id": None}, "row 'a' has no id, which is a key"),
        ({"custom_id": "a", "status": "completed", "output": "x", "id": "one"}, "row 'a' has 'one' for column 'id'"),
    ],
)
def test_a_row_that_does_not_fit_is_named(warehouse, row, message):
    """And the rows before it are written."""
    table = SqlTable("warehouse", "review", keys=["id"], columns={"mood": "output"})
    with pytest.raises(InvalidBatchError, match=message):
        table.write(iter([row]))


def test_the_later_of_two_rows_with_one_key_counts(warehouse):
    """Whether they come together or not."""
    table = SqlTable("warehouse", "review", keys=["id"], columns={"mood": "output"})
    rows = [{"custom_id": str(n), "status": "completed", "output": f"mood {n}", "id": n % 9} for n in range(1010)]
    assert table.write(iter(rows)) == 1010
    assert warehouse.run("SELECT mood FROM review ORDER BY id") == [
        (f"mood {1008 + n if n < 2 else 999 + n}",) for n in range(9)
    ]


def test_columns_of_any_names(warehouse):
    """Also those that begin as others' names do."""
    warehouse.run("CREATE TABLE odd (id INTEGER PRIMARY KEY, key_id TEXT, mood TEXT)")
    warehouse.run("INSERT INTO odd VALUES (1, 'kept', 'x')")
    row = {"custom_id": "a", "status": "completed", "output": "new", "id": 1}
    for column in ("mood", "key_id"):
        SqlTable("warehouse", "odd", keys=["id"], columns={column: "output"}).write(iter([row]))
        assert warehouse.run("SELECT * FROM odd") == [(1, "kept" if column == "mood" else "new", "new")]


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("CHAR(6)", "ab"),
        ("TIMESTAMP WITH TIME ZONE", "2026-01-05T10:00:00"),
        ("TIMESTAMP", "2026-01-05T10:00:00Z"),
        ("TIMESTAMP", "2026-01-05"),
        ("DATE", "2026-01-05T00:00:00"),
        ("REAL", 0.1),
        ("NUMERIC(8, 2)", 0.126),
        ("INTEGER", True),
        ("UUID", "7f3a0c1e-1b1f-4c5e-9e61-0a5b6e1b9a11"),
    ],
)
def test_keys_that_the_database_gives_in_a_form_of_its_own(warehouse, kind, key):
    """Are found all the same."""
    if warehouse.is_sqlite and "ZONE" in kind:
        pytest.skip("SQLite has no such type")
    warehouse.run(f"CREATE TABLE odd (code {kind} PRIMARY KEY, mood TEXT)")
    table = SqlTable("warehouse", "odd", keys=["code"], columns={"mood": "output"})
    for output in ("good", "bad"):
        table.write(iter([{"custom_id": "a", "status": "completed", "output": output, "code": key}]))
    assert warehouse.run("SELECT mood FROM odd") == [("bad",)]


@pytest.mark.parametrize("kind", ["JSON", "JSONB", "TEXT[]"])
def test_a_key_of_many_values(warehouse, kind):
    """Cannot tell a row, which shows before anything is paid."""
    if warehouse.is_sqlite and kind == "TEXT[]":
        pytest.skip("SQLite takes it for a text")
    if warehouse.is_sqlite and kind not in ischema_names:
        pytest.skip("SQLAlchemy 2.0 knows no such type of SQLite, whose column is one of texts then")
    warehouse.run(f"CREATE TABLE odd (tags {kind}, mood TEXT)")
    with pytest.raises(ConfigurationError, match=r"column 'tags' of 'odd' is .*, which cannot be a key"):
        SqlTable("warehouse", "odd", keys=["tags"], columns={"mood": "output"}).check(None)


def test_two_keys_that_are_one_to_the_database(warehouse):
    """The later row counts, though they come together."""
    kind = "TEXT COLLATE NOCASE" if warehouse.is_sqlite else "CHAR(6)"
    warehouse.run(f"CREATE TABLE odd (code {kind} PRIMARY KEY, mood TEXT)")
    rows = [
        {"custom_id": code, "status": "completed", "output": f"mood of {code}", "code": code}
        for code in (["ab", "AB"] if warehouse.is_sqlite else ["ab", "ab  "])
    ]
    SqlTable("warehouse", "odd", keys=["code"], columns={"mood": "output"}).write(iter(rows))
    assert warehouse.run("SELECT mood FROM odd") == [(rows[-1]["output"],)]


def test_a_row_that_another_task_inserts_meanwhile(warehouse, monkeypatch):
    """Is updated; what another constraint than the key's refuses is named."""
    warehouse.run("CREATE TABLE odd (id INTEGER PRIMARY KEY, mood TEXT NOT NULL)")
    table, real = SqlTable("warehouse", "odd", keys=["id"], columns={"mood": "output"}), SqlTable._write_chunk

    def inserted_first(self, engine, *arguments, **more):
        if not warehouse.run("SELECT id FROM odd"):
            from sqlalchemy import event

            @event.listens_for(engine, "before_cursor_execute")
            def insert(connection, _cursor, statement, *_):
                if statement.startswith("INSERT") and not warehouse.run("SELECT id FROM odd"):
                    warehouse.run("INSERT INTO odd VALUES (1, 'of the other')")

        real(self, engine, *arguments, **more)

    monkeypatch.setattr(SqlTable, "_write_chunk", inserted_first)
    table.write(iter([{"custom_id": "a", "status": "completed", "output": "mine", "id": 1}]))
    assert warehouse.run("SELECT * FROM odd") == [(1, "mine")]
    with pytest.raises(InvalidBatchError, match="row 'b' cannot be written into odd: .*mood"):
        table.write(iter([{"custom_id": "b", "status": "completed", "output": None, "id": 2}]))


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        ("UUID", "7f3a0c1e", "7f3a0c1e"),
        ("STRING", "x", "x"),
        ("TIMESTAMPTZ", "2026-01-05T10:00:00Z", "2026-01-05T10:00:00Z"),
        ("BYTEA", "eA==", "eA=="),
        ("NUMERIC", "12.5", 12.5),
        ("NUMERIC", True, 1),
        ("", {"a": 1}, '{"a":1}'),
    ],
)
@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
def test_types_that_sqlite_does_not_know(warehouse, kind, value, found):
    """SQLite takes anything for them, and so does its table here."""
    warehouse.run(f"CREATE TABLE odd (id INTEGER PRIMARY KEY, answer {kind})")
    row = {"custom_id": "a", "status": "completed", "output": value, "id": 1}
    SqlTable("warehouse", "odd", keys=["id"], columns={"answer": "output"}).write(iter([row]))
    assert warehouse.run("SELECT answer FROM odd") == [(found,)]


@pytest.mark.parametrize("warehouse", ["sqlite"], indirect=True)
def test_a_column_of_jsonb_in_sqlite(warehouse):
    """Holds JSON, though only SQLite 3.45 and later has a function for it."""
    warehouse.run("CREATE TABLE odd (id INTEGER PRIMARY KEY, answer JSONB)")
    row = {"custom_id": "a", "status": "completed", "output": {"a": 1}, "id": 1}
    SqlTable("warehouse", "odd", keys=["id"], columns={"answer": "output"}).write(iter([row]))
    assert [json.loads(answer) for (answer,) in warehouse.run("SELECT answer FROM odd")] == [{"a": 1}]


@pytest.mark.parametrize(
    ("kind", "output", "is_in_sqlite"),
    [("INTEGER", 1 << 70, True), ("VARCHAR(9)", "no longer than that", False), ("TEXT", "NUL: \0", False)],
)
def test_a_value_that_only_the_database_refuses(warehouse, kind, output, is_in_sqlite):
    """Is named, too, and the rows before it are written."""
    if warehouse.is_sqlite and not is_in_sqlite:
        pytest.skip("SQLite takes it")
    warehouse.run(f"CREATE TABLE odd (id INTEGER PRIMARY KEY, answer {kind})")
    rows = [
        {"custom_id": f"row {n}", "status": "completed", "output": each, "id": n}
        for n, each in enumerate([7, output, 8])
    ]
    with pytest.raises(InvalidBatchError, match="row 'row 1' cannot be written into odd: "):
        SqlTable("warehouse", "odd", keys=["id"], columns={"answer": "output"}).write(iter(rows))
    assert warehouse.run("SELECT id FROM odd") == [(0,)]


@pytest.mark.parametrize(
    ("keys", "columns"), [([], {"a": "b"}), ("id", {"a": "b"}), (["id"], {}), (["id"], {"id": "x"})]
)
def test_a_table_without_keys_or_columns(keys, columns):
    """Shows as the DAG is parsed."""
    with pytest.raises(ValueError, match="give keys as a list of columns"):
        SqlTable("warehouse", "review", keys=keys, columns=columns)


def test_a_query(warehouse):
    """As it stands: what looks like a placeholder is none; with parameters, those of the driver."""
    (row,) = sql_rows("SELECT id, body, 'x :y 50%' AS odd FROM review WHERE body LIKE '%5' OR id = 9", "warehouse")
    assert row == {"id": 5, "body": "Review % number :5", "odd": "x :y 50%"}
    mark = "?" if warehouse.is_sqlite else "%s"
    assert list(sql_rows(f"SELECT id FROM review WHERE id > {mark} AND body LIKE {mark}", "warehouse", [4, "%6"])) == [
        {"id": 6}
    ]


def test_a_query_that_fails_with_one_of_its_rows(warehouse):
    """As it is read: another attempt would fail, too."""
    odd = "json(body)" if warehouse.is_sqlite else "body::INTEGER"
    found = sql_rows(f"SELECT CASE WHEN id < 5 THEN '1' ELSE {odd} END AS n FROM review ORDER BY id", "warehouse")
    with pytest.raises(InvalidBatchError, match="the database refuses the query: "):
        list(found)


def test_a_query_is_read_as_a_stream(warehouse):
    """Of millions of rows no more are here than are looked at."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) SELECT i FROM n"
    rows = sql_rows(numbers, "warehouse")
    assert [row["i"] for row in islice(rows, 3)] == [1, 2, 3]
    rows.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT id, body AS id FROM review", "several columns named 'id'; name each with AS"),
        ("UPDATE review SET note = 'x'", "the statement returns no rows|the database refuses the query"),
        ("SELECT body FROM revue", "the database refuses the query: .*revue"),
        ("SELECT boddy FROM review", "the database refuses the query: .*boddy"),
        ("SELEKT", "the database refuses the query: .*SELEKT"),
    ],
)
def test_a_query_that_is_none(infer, emulator, warehouse, sql, message):
    """Named, and nothing sent or written."""
    with pytest.raises(AirflowFailException, match=message):
        infer(sql=sql)
    assert warehouse.run("SELECT id FROM review WHERE note = 'x'") == []
    assert emulator.state.creates["openai"] == 0


@pytest.mark.parametrize(
    "arguments", [{}, {"requests": ["a"], "sql": "SELECT 1", "sql_conn_id": "c"}, {"sql": "SELECT 1"}]
)
def test_rows_come_from_one_place(arguments):
    """Shows as the DAG is parsed."""
    with pytest.raises(ValueError, match="give either requests, or sql and sql_conn_id"):
        SubmitBatchOperator(task_id="t", **OPENAI, **arguments)


def test_a_query_is_a_template():
    """Unlike prompts: the day of the run belongs into it."""
    operator = SubmitBatchOperator(
        task_id="t", **OPENAI, sql="SELECT '{{ ds }}'", sql_conn_id="c", prompt_template="{{ body }}"
    )
    operator.render_template_fields({"ds": "2026-01-05"})
    assert (operator.sql, operator.prompt_template) == ("SELECT '2026-01-05'", "{{ body }}")


def test_a_connection_that_is_no_database(connection):
    """Says so."""
    connection("web", conn_type="raif_openai", password="k")
    with pytest.raises(ConfigurationError, match="connection 'web' is no SQL database"):
        next(sql_rows("SELECT 1", "web"))
