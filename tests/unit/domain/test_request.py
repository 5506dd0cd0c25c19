"""Reading a DAG author's rows."""

import pytest

from airflow_raif.domain.errors import InvalidRequestError
from airflow_raif.domain.request import EntryRequest, RowReader, request_of


def test_text_is_a_prompt():
    """The shortest row is a text."""
    assert request_of("hello", 0) == EntryRequest(prompt="hello")


def test_other_keys_are_the_users_columns():
    """What is no part of a request travels to the result."""
    request = request_of({"custom_id": 7, "prompt": "p", "system_prompt": "s", "lang": "en"}, 0)
    assert request == EntryRequest(custom_id="7", prompt="p", system="s", columns={"lang": "en"})


@pytest.mark.parametrize("native", [{"messages": [], "max_tokens": 3}, {"input": "x"}, {"contents": []}])
def test_native_params_alone_are_a_body(native):
    """The shape that Anthropic's API gives a request is understood."""
    assert request_of({"custom_id": "a", "params": native}, 0) == EntryRequest(custom_id="a", body=native)


def test_params_beside_a_prompt_are_merged_later():
    """With a prompt, params are additions."""
    assert request_of({"prompt": "p", "params": {"top_p": 1}}, 0).params == {"top_p": 1}


@pytest.mark.parametrize("row", [None, 3, b"bytes", ["a"]])
def test_a_row_of_another_kind_is_named(row):
    """The error names the row and what to give."""
    with pytest.raises(InvalidRequestError, match=r"row 4 is a .*; give a prompt") as caught:
        request_of(row, 4)
    assert caught.value.row == 4


@pytest.mark.parametrize("custom_id", ["", None, True, 1.5, ["a"]])
def test_a_custom_id_that_is_none_is_named(custom_id):
    """A missing id is an error of its own row."""
    with pytest.raises(InvalidRequestError, match="row 2 has the custom_id"):
        request_of({"custom_id": custom_id, "prompt": "p"}, 2)


@pytest.mark.parametrize("name", ["status", "output", "cost"])
def test_a_column_that_the_result_needs_is_refused(name):
    """No column of the user's is overwritten silently."""
    with pytest.raises(InvalidRequestError, match=f"column named '{name}'.*rename"):
        request_of({"prompt": "p", name: 1}, 0)
    with pytest.raises(InvalidRequestError, match=f"column named '{name}'.*rename"):
        request_of(EntryRequest(prompt="p", columns={name: 1}), 0)


ROWS = [
    {"custom_id": "a", "prompt": "p", "lang": "en"},
    {"custom_id": "b", "prompt": "q", "lang": "fr"},
    {"custom_id": 7, "prompt": "q", "lang": "fr"},
    {"custom_id": "", "prompt": "q", "lang": "fr"},
    {"custom_id": "c", "prompt": None, "lang": "fr"},
    {"custom_id": "c", "prompt": ["q"], "lang": "fr"},
    {"lang": "de", "prompt": "r"},
    {"lang": "it", "prompt": "s"},
    {"lang": "it", "prompt": 5},
    "text",
    {"prompt": "p", "system_prompt": "s"},
    {"prompt": "p", "system_prompt": None},
    {"prompt": "p", "status": 1},
    {"prompt": "p", 3: 1},
    {"prompt": "p", "max_tokens": 5},
    {"prompt": "p", "max_tokens": 6},
    {"custom_id": "d"},
    {"custom_id": "e"},
    7,
]


@pytest.mark.parametrize("rows", [ROWS, ROWS[::-1], ROWS * 2, [row for row in ROWS for _ in range(2)]])
def test_rows_one_after_the_other_are_read_as_each_alone(rows):
    """Whatever came before a row, it is the same request, or the same error."""

    def told(read, row, index):
        try:
            return read(row, index)
        except InvalidRequestError as error:
            return str(error), error.row

    reader = RowReader()
    for index, row in enumerate(rows):
        assert told(reader, row, index) == told(request_of, row, index)
