"""JSON errors in the words of TensorFlow Serving's parser, and values as its messages show them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfship.serving.http.json_text import excerpt, parse_object
from tfship.serving.protos.status import StatusError


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The document is empty"),
        (b"   \n ", "The document is empty. at offset: 5"),
        (b'{"instances": [1.0', "Missing a comma or ']' after an array element. at offset: 18"),
        (b'{"a": {"b": [1]', "Missing a comma or '}' after an object member. at offset: 15"),
        (b'{"a": "]", "b": 1 2}', "Missing a comma or '}' after an object member. at offset: 18"),
        (b"this is not json", "Invalid value. at offset: 1"),
        (b'{"instances":[nan]}', "Invalid value. at offset: 15"),
        (b'{"instances":[+1]}', "Invalid value. at offset: 14"),
        (b'{"instances":[1.0,]}', "Invalid value. at offset: 18"),
        (b'{"instances":[1.0, ]}', "Invalid value. at offset: 19"),
        (b'{"a": 1,}', "Missing a name for object member. at offset: 8"),
        (b"{'a': 1}", "Missing a name for object member. at offset: 1"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a": "b', "Missing a closing quotation mark in string. at offset: 8"),
        (b'{"a": "\0"}', "Missing a closing quotation mark in string. at offset: 7"),
        ('{"ä": nope}'.encode(), "Invalid value. at offset: 8"),  # in bytes, not in letters
        (b"\xff", "not UTF-8. at offset: 0"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json(body: bytes, message: str) -> None:
    with pytest.raises(StatusError) as refused:
        parse_object(body)
    assert refused.value.message == f"JSON Parse error: {message}"


def test_values_are_shown_as_there() -> None:
    value = {"a": {"b": [1.0, {"c": None}]}, "d": {}, "e": []}
    assert excerpt(value) == (
        '{\n    "a": {\n        "b": [1.0, {\n            "c": null\n        }]\n    },\n    "d": {},\n    "e": []\n}'
    )
    assert excerpt([[0] * 1000] * 1000) == f"[[{'0, ' * 66}…"
    nested: Any = 1
    for _ in range(100_000):
        nested = [nested]
    assert excerpt(nested).endswith("…")


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_an_excerpt_is_the_value(value: Any) -> None:
    text = excerpt(value)
    assert len(text) <= 201
    if not text.endswith("…"):
        assert json.loads(text) == value
