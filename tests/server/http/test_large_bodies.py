"""Large bodies are read beside the event loop, and so that it goes on."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidRequest
from server.http.security import read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_the_slow_reader_reads_as_the_quick_one(value):
    assert read_json(json.dumps(value).encode(), few_values=-1) == value


@pytest.mark.parametrize("body", [b"[1,,2]" + b"," * 200_000, b"[" * 200_000, b"[1] " + b"," * 200_000])
def test_what_is_no_json_is_none_at_any_length(body):
    with pytest.raises((ValueError, RecursionError)):
        read_json(body)


def test_many_ids_are_read_whole():
    ids = [random.Random(1).randrange(50_000) for _ in range(200_000)]
    assert read_json(json.dumps({"prompt": ids}).encode()) == {"prompt": ids}


@pytest.mark.parametrize("body", [b"[" + b"[]," * 1_300_000 + b"[]]", b'{"a": [' + b"1," * 1_300_000 + b"1]}"])
def test_more_values_than_anybody_needs_are_refused(body):
    with pytest.raises(InvalidRequest, match="more than 1200000 values"):
        read_json(body)
