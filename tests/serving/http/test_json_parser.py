"""The parser reads what RapidJSON reads, and reports errors in its words."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from tfship.serving.http.json_parser import parse
from tfship.serving.protos.status import StatusError

CONSTANTS = {
    "NaN": math.nan,
    "-NaN": math.nan,
    "Inf": math.inf,
    "-Inf": -math.inf,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
}
TOO_BIG = "Number too big to be stored in double"


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(one == other)


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
        (b"[-]", "Invalid value. at offset: 2"),
        (b"[-x]", "Invalid value. at offset: 2"),
        (b"[+Inf]", "Invalid value. at offset: 1"),
        (b"[+NaN]", "Invalid value. at offset: 1"),
        (b"[Na]", "Invalid value. at offset: 3"),
        (b"[inf]", "Invalid value. at offset: 1"),
        (b"[In]", "Invalid value. at offset: 3"),
        (b"[Infi]", "Invalid value. at offset: 5"),
        (b"[-Infinit]", "Invalid value. at offset: 9"),
        (b"[INF]", "Invalid value. at offset: 2"),
        (b"[Infx]", "Missing a comma or ']' after an array element. at offset: 4"),
        (b"[NaNaN]", "Missing a comma or ']' after an array element. at offset: 4"),
        (b"[1NaN]", "Missing a comma or ']' after an array element. at offset: 2"),
        (b"[1.]", "Miss fraction part in number. at offset: 3"),
        (b'{"a": -1.e5}', "Miss fraction part in number. at offset: 9"),
        (b"[1e]", "Miss exponent in number. at offset: 3"),
        (b"[1.5E+]", "Miss exponent in number. at offset: 6"),
        (b"[1.5.]", "Missing a comma or ']' after an array element. at offset: 4"),
        (b"[01]", "Missing a comma or ']' after an array element. at offset: 2"),
        (b"[1e999]", f"{TOO_BIG}. at offset: 1"),
        (b"[0, -1e999, nope", f"{TOO_BIG}. at offset: 4"),
        (b'{"\xc3\xa41e999": "1e999", "a": [ 1e999]}', f"{TOO_BIG}. at offset: 28"),
        (b"[" + b"9" * 400 + b"]", f"{TOO_BIG}. at offset: 1"),
        (b"[" + b"9" * 400 + b".5e-5]", f"{TOO_BIG}. at offset: 1"),
        (b"[" + b"9" * 100_000 + b"]", f"{TOO_BIG}. at offset: 1"),
        (b"[NaN, 1.8e308]", f"{TOO_BIG}. at offset: 6"),
    ],
)
def test_what_is_no_json(body: bytes, message: str) -> None:
    with pytest.raises(StatusError) as refused:
        parse(body)
    assert refused.value.message == f"JSON Parse error: {message}"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[NaN,-NaN, Inf ,-Inf,Infinity\n,-Infinity]", list(CONSTANTS.values())),
        (b'{"NaN": "Inf", "a": [Inf, "\\"NaN", NaN]}', {"NaN": "Inf", "a": [math.inf, '"NaN', math.nan]}),
        (b'{"a": Inf, "a": NaN}', {"a": math.inf}),
        (b"[-9223372036854775808, 18446744073709551615, -0]", [-(2**63), 2**64 - 1, 0]),
        (b"[-9223372036854775809, 18446744073709551616]", [-(2.0**63), 2.0**64]),
        (b"[1" + b"0" * 300 + b"]", [1e300]),
        (b"[1.7976931348623157e308, 1e-999, 0e999]", [1.7976931348623157e308, 0.0, 0.0]),
        (b"\xef\xbb\xbf [Inf]", [math.inf]),
        (b"[1][NaN", [1]),
        (b"[Inf] 1e999", [math.inf]),
    ],
)
def test_values(body: bytes, expected: Any) -> None:
    assert _alike(parse(body), expected)


def test_many_quotes_and_backslashes_take_linear_time() -> None:
    with pytest.raises(StatusError):
        parse(b'[NaN, \\"' + b'\\"' * 1_000_000)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
@bounded(max_examples=40)
def test_python_s_json_comes_back(value: Any) -> None:
    assert _alike(parse(json.dumps(value).encode()), value)


@given(
    st.lists(st.sampled_from(list(CONSTANTS)) | st.integers(-9, 9).map(str), min_size=1),
    st.sampled_from(["", " "]),
)
def test_names_of_numbers(names: list[str], space: str) -> None:
    expected = [CONSTANTS[name] if name in CONSTANTS else int(name) for name in names]
    assert _alike(parse(f"[{f'{space},{space}'.join(names)}]".encode()), expected)


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_numbers(number: str) -> None:
    integer = number.lstrip("-").isdigit() and -(2**63) <= int(number) < 2**64
    expected = int(number) if integer else float(number)
    if math.isinf(expected):
        with pytest.raises(StatusError, match=f"{TOO_BIG}. at offset: 2"):
            parse(f"[ {number}]".encode())
    else:
        assert _alike(parse(f"[ {number}]".encode()), [expected])
