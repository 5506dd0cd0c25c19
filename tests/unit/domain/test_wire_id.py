"""The id an entry has at the provider."""

import re

import pytest

from airflow_raif.domain.wire_id import index_of, make_wire_id, wire_prefix

BATCH = "0123456789abcdef0123456789abcdef"


def test_a_wire_id_is_legal_everywhere_and_tells_its_row():
    """It fits the strictest provider's pattern and leads back to the row."""
    wire_id = make_wire_id(BATCH, 4_999_999)
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", wire_id)
    assert index_of(wire_id, wire_prefix(BATCH)) == 4_999_999


@pytest.mark.parametrize("foreign", ["", "7", "fedcba9876543210-7", wire_prefix(BATCH), wire_prefix(BATCH) + "-1",
                                     wire_prefix(BATCH) + "1x", wire_prefix(BATCH) + "²"])  # fmt: skip
def test_foreign_ids_are_not_of_the_batch(foreign):
    """An id that this batch never gave leads to no row."""
    assert index_of(foreign, wire_prefix(BATCH)) is None


@pytest.mark.parametrize("given", [" {}", "{}\r\n", "\t{} "])
def test_ids_that_a_server_pads_or_capitalises(given):
    """They are as good as ours, which are in lower case and hold no blank."""
    wire_id = make_wire_id("abcdef0123456789" * 2, 12)
    assert index_of(given.format(wire_id.upper()), wire_prefix("abcdef0123456789" * 2)) == 12


def test_an_index_beyond_measure_is_none():
    """No table holds it."""
    assert index_of("a" * 16 + "-" + "9" * 5000, "a" * 16 + "-") is None
