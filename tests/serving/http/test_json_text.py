"""Base64 as TensorFlow Serving reads it, and values as its messages show them."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from tfship.serving.http.json_text import excerpt, to_bytes
from tfship.serving.protos.status import StatusError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", b""),
        ("YQ==", b"a"),
        ("YQ", b"a"),
        ("YWI=", b"ab"),
        ("YWI", b"ab"),
        ("YWJj", b"abc"),
        ("Y Q\n=\t= \r\f\v", b"a"),
        ("\nYWJj\r\nZGVm\n", b"abcdef"),
        ("YQ..", b"a"),
        ("YWI.", b"ab"),
        ("YR==", b"a"),  # bits beyond the last byte
        (" \n", b""),
        ("+/+/", b"\xfb\xff\xbf"),
    ],
)
def test_base64(text: str, expected: bytes) -> None:
    assert to_bytes({"b64": text}) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Y",
        "YWJjZ",
        "YQ=",
        "YQ===",
        "YWI==",
        "YWJj=",
        "=",
        "YQ==YQ==",
        "Y=Q=",
        "-_8=",
        "!!!",
        "YQ\0",
        "é",
        "YQ\xa0==",
    ],
)
def test_invalid_base64(text: str) -> None:
    with pytest.raises(StatusError, match="Unable to base64 decode"):
        to_bytes({"b64": text})


@given(st.binary(), st.lists(st.sampled_from(" \t\n\v\f\r"), max_size=5), st.data())
def test_base64_with_white_space_and_with_or_without_padding(
    data: bytes, spaces: list[str], draw: st.DataObject
) -> None:
    encoded = base64.b64encode(data).decode()
    if draw.draw(st.booleans()):
        encoded = encoded.rstrip("=")
    elif draw.draw(st.booleans()):
        encoded = encoded.replace("=", ".")
    for space in spaces:
        at = draw.draw(st.integers(0, len(encoded)))
        encoded = encoded[:at] + space + encoded[at:]
    assert to_bytes({"b64": encoded}) == data


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
@bounded(max_examples=40)
def test_an_excerpt_is_the_value(value: Any) -> None:
    text = excerpt(value)
    assert len(text) <= 201
    if not text.endswith("…"):
        assert json.loads(text) == value
