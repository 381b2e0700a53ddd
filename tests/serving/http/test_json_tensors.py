"""REST bodies to tensors and back."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tfship.export.runtimes.protocol import TensorSpec
from tfship.serving.http.json_tensors import decode_inputs, encode_outputs, parse_predict
from tfship.serving.protos.messages import types_pb2
from tfship.serving.protos.status import Code, StatusError
from tfship.serving.protos.tensors import DTYPES


def _specs(**dtypes: str) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, types_pb2.DataType.Value(dtype), None) for name, dtype in dtypes.items()}


def _decode(body: str, **dtypes: str) -> dict[str, NDArray[Any]]:
    return decode_inputs(parse_predict(body.encode()), _specs(**dtypes or {"x": "DT_FLOAT"}))


JSON_DTYPES = {
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_INT8": np.int8,
    "DT_INT16": np.int16,
    "DT_INT32": np.int32,
    "DT_INT64": np.int64,
    "DT_UINT8": np.uint8,
    "DT_UINT32": np.uint32,
    "DT_UINT64": np.uint64,
    "DT_BOOL": np.bool_,
}
ARRAYS = st.sampled_from(list(JSON_DTYPES)).flatmap(
    lambda name: st.tuples(
        st.just(name), hnp.arrays(JSON_DTYPES[name], hnp.array_shapes(min_side=1, max_dims=3, max_side=3))
    )
)


@given(ARRAYS, st.booleans())
def test_round_trip(named: tuple[str, NDArray[Any]], is_row: bool) -> None:
    dtype, array = named
    answer = encode_outputs({"y": array}, is_row=is_row)
    question = answer.replace(b"predictions", b"instances", 1).replace(b"outputs", b"inputs", 1)
    back = decode_inputs(parse_predict(question), _specs(x=dtype))["x"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)  # NaN equals NaN, and every float32 comes back exactly


@given(st.lists(st.binary(max_size=6), min_size=1, max_size=4), st.sampled_from(["y", "y_bytes"]))
def test_bytes_round_trip(strings: list[bytes], name: str) -> None:
    array = np.array([*strings, None], np.object_)[:-1]
    answer = encode_outputs({name: array}, is_row=False)
    back = decode_inputs(parse_predict(answer.replace(b"outputs", b"inputs", 1)), _specs(x="DT_STRING"))["x"]
    assert back.tolist() == strings


def test_float32_in_its_shortest_form() -> None:
    array = np.array([0.1, 1 / 3, 1e-45, 16777216, 3.4e38, np.nan, -np.inf], np.float32)
    assert encode_outputs({"y": array}, is_row=False) == (
        b'{"outputs": [0.1, 0.33333334, 1e-45, 16777216.0, 3.4e+38, NaN, -Infinity]}'
    )


def test_row_and_columnar_are_the_same_tensors() -> None:
    dtypes = {"a": "DT_FLOAT", "b": "DT_INT64"}
    row = _decode('{"instances": [{"a": [1, 2], "b": 3}, {"b": 4, "a": [5, 6]}]}', **dtypes)
    columns = _decode('{"inputs": {"a": [[1, 2], [5, 6]], "b": [3, 4], "unused": null}}', **dtypes)
    assert row.keys() == columns.keys()
    for name, array in row.items():
        assert array.dtype == columns[name].dtype
        assert array.tolist() == columns[name].tolist()


@pytest.mark.parametrize(
    ("body", "values"),
    [
        ('{"instances": [NaN, Infinity, -Infinity, 1e39]}', [math.nan, math.inf, -math.inf, math.inf]),
        ('\ufeff {"inputs": 1.5} and what follows', 1.5),
        ('{"inputs": [1], "inputs": [2]}', [1.0]),
        ('{"inputs": [[], []]}', [[], []]),
        ('{"instances": [{"x": [1]}]}', [[1.0]]),
    ],
)
def test_what_tensorflow_serving_takes(body: str, values: Any) -> None:
    np.testing.assert_array_equal(_decode(body)["x"], np.array(values, np.float32))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "document is empty"),
        ("  \n", "document is empty"),
        ("[1]", "Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"inputs": 1, "instances": [1]}', "only one of"),
        ('{"signature_name": 1, "inputs": 1}', "must be a string"),
        ('{"instances": 1}', "Expecting 'instances' to be an list/array"),
        ('{"instances": []}', "empty list"),
        ('{"instances": [[1], [2, 3]]}', "element: 1 .*tensor size: 1 but got: 2"),
        ('{"instances": [[1], 2]}', r"element: 1 .*shape \[1\] but got: \[\]"),
        ('{"instances": [1, "a"]}', 'element: 1 .*"a" Type: String is not of expected type: float'),
        ('{"instances": [true]}', "Type: True is not of expected type: float"),
        ('{"instances": [1, {"x": 2}]}', "Expecting value/list but got object at item 1"),
        ('{"instances": [{"x": 2}, 1]}', "Expecting object but got list at item 1"),
        ('{"instances": [{"z": 2}]}', "does not have named input: z"),
        ('{"instances": [{}]}', "keys must be equal to: x"),
        ('{"inputs": {}}', "Missing named input: x"),
        ('{"inputs": [[1, 2], [3]]}', "unexpected size: 1 at level: 1 expected size: 2"),
        ('{"inputs": [1, [2]]}', "Type: Array is not of expected type"),
        ('{"inputs": [null]}', "Type: Null"),
        ('{"inputs": ' + "[" * 100 + "1" + "]" * 100 + "}", "nested lists"),
        ('{"inputs": ' + "[" * 50_000 + "]" * 50_000 + "}", "too deeply"),
        ('{"inputs": ' + "9" * 5000 + "}", "JSON Parse error"),
        ('{"inputs": 1' + "0" * 400 + "}", "Number too big to be stored in double. at offset: 11"),
        ('{"inputs": [1, 1e999]}', "Number too big to be stored in double. at offset: 15"),
    ],
)
def test_what_is_refused(body: str, message: str) -> None:
    with pytest.raises(StatusError, match=message) as refusal:
        _decode(body)
    assert refusal.value.code is Code.INVALID_ARGUMENT
    assert len(refusal.value.message) < 1000


@pytest.mark.parametrize(
    "name", [name for name, dtype in JSON_DTYPES.items() if np.dtype(dtype).kind in "iu"]
)
def test_integers_are_never_wrapped(name: str) -> None:
    limits = np.iinfo(JSON_DTYPES[name])
    assert _decode(f'{{"inputs": [{limits.min}, {limits.max}]}}', x=name)["x"].tolist() == [
        limits.min,
        limits.max,
    ]
    for value in (limits.min - 1, limits.max + 1, "1.0", "true"):
        with pytest.raises(StatusError, match="is not of expected type"):
            _decode(f'{{"inputs": [0, {value}]}}', x=name)


@pytest.mark.parametrize(
    "value", ['{"b64": "!"}', '{"b64": "-_8="}', '"\\ud800"', '{"b64": 1}', "1", '{"b64": "é"}']
)
def test_strings_that_are_none(value: str) -> None:
    with pytest.raises(StatusError):
        _decode(f'{{"inputs": [{value}]}}', x="DT_STRING")


def test_strings_have_fewer_dimensions_than_numbers() -> None:
    deepest = "[" * 32 + '"x"' + "]" * 32
    assert _decode(f'{{"inputs": {deepest}}}', x="DT_STRING")["x"].shape == (1,) * 32
    with pytest.raises(StatusError, match="more than 32 nested lists"):
        _decode(f'{{"inputs": [{deepest}]}}', x="DT_STRING")


def test_types_that_json_has_not() -> None:
    with pytest.raises(StatusError, match="Conversion of JSON Value: 1 to type: half") as refusal:
        _decode('{"inputs": [1]}', x="DT_HALF")
    assert refusal.value.code is Code.UNIMPLEMENTED
    with pytest.raises(StatusError, match="complex64"):
        encode_outputs({"y": np.zeros(1, np.complex64)}, is_row=True)


def test_rows_need_a_batch() -> None:
    one, two = np.zeros(1, np.float32), np.zeros(2, np.float32)
    with pytest.raises(StatusError, match="y has no shape information"):
        encode_outputs({"y": np.float32(1) * one[0]}, is_row=True)
    with pytest.raises(StatusError, match="z has inconsistent batch size: 2 expecting: 1"):
        encode_outputs({"y": one, "z": two}, is_row=True)
    assert json.loads(encode_outputs({"y": one, "z": two}, is_row=False)) == {
        "outputs": {"y": [0.0], "z": [0.0, 0.0]}
    }


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just({"b64": "QQ=="}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyb"), inner, max_size=2),
    max_leaves=8,
)


@given(ANY_JSON, st.sampled_from(["inputs", "instances"]), st.sampled_from(list(DTYPES)))
def test_any_json_is_a_tensor_or_a_status(value: Any, key: str, dtype: int) -> None:
    try:
        tensors = decode_inputs(
            parse_predict(json.dumps({key: value}).encode()), {"x": TensorSpec("x", dtype, None)}
        )
    except StatusError:
        return
    assert tensors["x"].dtype == DTYPES[dtype].numpy
