"""The fast way of reading and writing numbers gives what the slow way gives, or gives up."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from tfship.export.runtimes.protocol import TensorSpec
from tfship.serving.http import json_numbers, json_tensors
from tfship.serving.protos.messages import types_pb2
from tfship.serving.protos.status import StatusError
from tfship.serving.protos.tensors import DTYPES

FLOAT, INT32 = DTYPES[types_pb2.DT_FLOAT], DTYPES[types_pb2.DT_INT32]
NUMBERS = st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
SHAPES = arrays.array_shapes(max_dims=4, max_side=4)


def _slow(body: bytes, dtype: int) -> NDArray[Any]:
    specs = {"x": TensorSpec("x:0", dtype, None)}
    return json_tensors.decode_inputs(json_tensors._parse(body, None), specs)["x"]


def _fast(body: bytes, dtype: Any) -> NDArray[Any] | None:
    numbers = json_numbers.read(body)
    return numbers.tensor(dtype) if numbers else None


@given(
    SHAPES.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32)))
)
def test_arrays_come_and_go_unchanged(array: NDArray[np.float32]) -> None:
    body = json.dumps({"instances": array.tolist()}).encode()
    found = _fast(body, FLOAT)
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, array)
    written = json_numbers.write(array)
    assert written is not None
    np.testing.assert_array_equal(np.array(json.loads(written), np.float32), array)


# Text that is nearly an array of numbers: brackets, commas, digits and what doesn't belong, in any order.
PIECES = st.lists(
    st.sampled_from(
        [
            *("[", "]", ",", "1", "2.5", "-3", "-", " ", "e1", '"a"', "{", "}", "true", "null", "0"),
            *("NaN", "Inf", "Infinity", "inity", "a", "1e999"),
        ]
    ),
    max_size=14,
).map("".join)


@pytest.mark.parametrize(
    "text",
    [
        "[0[]]",
        "[[]0]",
        "[1[,2]]",
        "[1 [ , 2 ] ]",
        "[[1],2[],[3]]",
        "[[NaN],1[]]",
        "[[1],[2]NaN]",
        "[[1,2]3,[]]",
    ],
)
def test_numbers_outside_the_innermost_arrays_are_refused(text: str) -> None:
    """Their brackets and commas are those of a regular array, and their numbers are as many."""
    body = f'{{"instances":{text}}}'.encode()
    assert _fast(body, FLOAT) is None
    with pytest.raises(StatusError, match="JSON Parse error"):
        _slow(body, types_pb2.DT_FLOAT)


@given(PIECES, st.sampled_from([types_pb2.DT_FLOAT, types_pb2.DT_INT32]), st.sampled_from(["", " ", "\n"]))
def test_what_is_taken_is_what_the_slow_way_takes(text: str, dtype: int, space: str) -> None:
    body = f'{{"instances":{space}[{text}]{space}}}'.encode()
    found = _fast(body, DTYPES[dtype])
    if found is not None:
        expected = _slow(body, dtype)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@given(st.recursive(NUMBERS, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=12))
def test_ragged_arrays_are_never_taken(value: Any) -> None:
    body = json.dumps({"inputs": [value]}).encode()
    found = _fast(body, FLOAT)
    try:
        expected = _slow(body, types_pb2.DT_FLOAT)
    except StatusError:
        assert found is None
    else:
        assert found is not None
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("body", "name", "is_row"),
    [
        (b'{"instances": [1]}', "", True),
        (b' {"inputs":[1] }\n', "", False),
        (b'{"signature_name": "a", "instances": [1]}', "a", True),
        (b'{"instances": [1], "signature_name": "a b"}', "a b", True),
    ],
)
def test_plain_bodies(body: bytes, name: str, is_row: bool) -> None:
    numbers = json_numbers.read(body)
    assert numbers is not None
    assert (numbers.signature_name, numbers.is_row) == (name, is_row)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b'{"instances": 1}',
        b'{"instances": [1]} x',
        b'{"instances": [1], "inputs": [1]}',
        b'{"instances": [1], "instances": [2]}',
        b'{"signature_name": "a", "instances": [1], "signature_name": "b"}',
        b'{"signature_name": "\\u0061", "instances": [1]}',
        b'{"signature_name": "\xff", "instances": [1]}',
        b'{"instances": [1]',
    ],
)
def test_other_bodies_go_the_slow_way(body: bytes) -> None:
    assert _fast(body, FLOAT) is None


@pytest.mark.parametrize(
    "text", ["[1[2]]", "[[1]2]", "[-[1]]", "[1 2]", "[,]", "[]", "[[],[]]", "[1e[5]]", "[01]", "[.5]"]
)
def test_what_only_looks_like_an_array_is_not_taken(text: str) -> None:
    assert _fast(f'{{"instances": {text}}}'.encode(), FLOAT) is None


@pytest.mark.parametrize("space", ["", " ", "\n"])
def test_nan_and_infinities_among_numbers(space: str) -> None:
    names = ["NaN", "1", "-NaN", "Inf", "-Inf", "-2.5e1", "Infinity", "-Infinity"]
    rows = f"{space}]{space},[{space}".join(f"{space},{space}".join(names[i : i + 4]) for i in (0, 4))
    body = f'{{"instances":[[{space}{rows}{space}]]}}'.encode()
    for dtype in (types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE):
        found = _fast(body, DTYPES[dtype])
        assert found is not None
        expected = [[np.nan, 1, np.nan, np.inf], [-np.inf, -25, np.inf, -np.inf]]
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(found, _slow(body, dtype))
    assert _fast(body, INT32) is None


@given(st.lists(st.floats(), min_size=1), st.booleans())
def test_all_doubles_come_back(values: list[float], nested: bool) -> None:
    body = json.dumps({"instances": [[each] for each in values] if nested else values}).encode()
    found = _fast(body, DTYPES[types_pb2.DT_DOUBLE])
    assert found is not None
    np.testing.assert_array_equal(found.ravel(), values)


@pytest.mark.parametrize(
    "text", ["[1NaN]", "[NaN1]", "[--NaN]", "[+Inf]", "[1e999]", "[NaN NaN]", "[Infi]", "[nan]"]
)
def test_other_names_are_not_taken(text: str) -> None:
    assert _fast(f'{{"instances": {text}}}'.encode(), FLOAT) is None


def test_integers_keep_their_range() -> None:
    assert _fast(b'{"instances": [2147483648]}', INT32) is None
    assert _fast(b'{"instances": [1.0]}', INT32) is None
    found = _fast(b'{"instances": [-2147483648, 2147483647]}', INT32)
    assert found is not None
    assert found.tolist() == [-(2**31), 2**31 - 1]


@pytest.mark.parametrize(
    "array",
    [
        np.array([np.nan], np.float32),
        np.array([np.inf], np.float32),
        np.array(1, np.float32),
        np.array([1.0]),
        np.array([True]),
    ],
)
def test_what_json_can_not_say_or_says_otherwise_is_left(array: NDArray[Any]) -> None:
    assert json_numbers.write(array) is None
