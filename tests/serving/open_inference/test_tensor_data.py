"""Tensors to JSON, binary data and typed contents, and back."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from numpy.typing import NDArray

from open_inference_fixtures.arrays import arrays, assert_same
from tfship.export.runtimes.protocol import TensorSpec
from tfship.serving.open_inference import binary_data, json_data, typed_contents
from tfship.serving.open_inference.datatypes import DATATYPES, check_datatype, check_shape, datatype_of
from tfship.serving.open_inference.messages import InferTensorContents
from tfship.serving.protos.messages import types_pb2
from tfship.serving.protos.status import Code, StatusError

IN_JSON = [name for name in DATATYPES if name != "BF16"]
TYPED = [name for name, each in DATATYPES.items() if each.contents]
FP32 = DATATYPES["FP32"]


def refused(function: Any, *arguments: Any) -> str:
    with pytest.raises(StatusError) as caught:
        function(*arguments)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


@pytest.mark.parametrize("name", DATATYPES)
@given(data=st.data())
@bounded(max_examples=30)
def test_binary_round_trip(name: str, data: st.DataObject) -> None:
    array = data.draw(arrays(name))
    encoded = binary_data.encode(array)
    for content in (bytes(encoded), memoryview(b"..." + encoded)[3:]):
        back = binary_data.decode("x", content, DATATYPES[name], array.size)
        assert_same(back.reshape(array.shape), array)


@pytest.mark.parametrize("name", DATATYPES)
@given(data=st.binary(max_size=40), count=st.integers(0, 2**40))
def test_binary_data_of_any_bytes(name: str, data: bytes, count: int) -> None:
    refusal = None
    try:
        found = binary_data.decode("x", data, DATATYPES[name], count)
    except StatusError as error:
        refusal = error
    if refusal:
        assert refusal.code is Code.INVALID_ARGUMENT
        assert refusal.message.startswith("input x has")
        return
    assert found.shape == (count,)
    assert found.dtype == DATATYPES[name].dtype.numpy
    assert bytes(binary_data.encode(found)) == data


def test_binary_numbers_are_not_copied() -> None:
    content = np.arange(6, dtype=np.float32).tobytes()
    found = binary_data.decode("x", memoryview(content)[8:], FP32, 4)
    assert np.shares_memory(found, np.frombuffer(content, np.uint8))
    array = np.arange(6, dtype=np.float32)
    assert np.shares_memory(np.frombuffer(binary_data.encode(array), np.uint8), array)


@pytest.mark.parametrize("name", TYPED)
@given(data=st.data())
@bounded(max_examples=30)
def test_typed_round_trip(name: str, data: st.DataObject) -> None:
    array = data.draw(arrays(name))
    contents = InferTensorContents()
    typed_contents.encode(array, DATATYPES[name], contents)
    back = typed_contents.decode("x", contents, DATATYPES[name], array.size)
    assert_same(back.reshape(array.shape), array)


def test_typed_contents_that_do_not_fit() -> None:
    contents = InferTensorContents(int_contents=[1, 300])
    assert refused(typed_contents.decode, "x", contents, DATATYPES["INT8"], 2) == (
        "input x has a value outside the range of INT8; expected -128 to 127"
    )
    assert refused(typed_contents.decode, "x", contents, DATATYPES["INT32"], 3) == (
        "input x has 2 values in int_contents; expected 3, as in its shape"
    )
    assert refused(typed_contents.decode, "x", contents, FP32, 2) == (
        "input x has datatype FP32 and values in int_contents; expected values in fp32_contents"
    )
    assert "expected its data in raw_input_contents" in refused(
        typed_contents.decode, "x", InferTensorContents(), DATATYPES["FP16"], 0
    )


@pytest.mark.parametrize("name", IN_JSON)
@given(data=st.data())
@bounded(max_examples=30)
def test_json_round_trip(name: str, data: st.DataObject) -> None:
    array = data.draw(arrays(name))
    if name == "BYTES":
        array = np.array([*(each.hex().encode() for each in array.ravel()), None], np.object_)[:-1].reshape(
            array.shape
        )
    text = json_data.encode("y", array)
    for document in (text, json.dumps(json.loads(text), indent=1).encode(), _nested(array, text)):
        back = json_data.decode("x", json.loads(document), DATATYPES[name], array.shape)
        assert_same(back, array)
        fast = json_data.read_numbers("x", document, (0, len(document)), DATATYPES[name], array.shape)
        if fast is not None:
            assert_same(fast, array)


def _nested(array: NDArray[Any], flat: bytes) -> bytes:
    cells = np.empty(array.size, np.object_)
    cells[:] = json.loads(flat)
    nested = cells.reshape(array.shape).tolist() if array.ndim else [cells[0]]
    return json.dumps(nested).encode()


@pytest.mark.parametrize(
    "name", ["FP16", "FP32", "FP64", "INT8", "INT32", "INT64", "UINT8", "UINT16", "UINT32"]
)
def test_numbers_take_the_fast_path(name: str) -> None:
    dtype = DATATYPES[name].dtype.numpy
    for text in (b"[1, 2, 3, 4]", b"[[1, 2], [3, 4]]"):
        found = json_data.read_numbers("x", text, (0, len(text)), DATATYPES[name], [2, 2])
        assert found is not None
        assert_same(found, np.array([[1, 2], [3, 4]], dtype))
    text = b"[1, 2, 3]"
    assert refused(json_data.read_numbers, "x", text, (0, len(text)), DATATYPES[name], [2, 2]) == (
        "data of input x has shape [3]; expected [4] or [2, 2]"
    )


def test_not_finite_in_json() -> None:
    array = np.array([np.nan, np.inf, -np.inf, 0.1], np.float32)
    text = json_data.encode("y", array)
    assert text == b"[NaN, Infinity, -Infinity, 0.1]"
    assert_same(json_data.decode("x", json.loads(text), FP32, [4]), array)


@pytest.mark.parametrize(
    ("name", "data", "shape", "message"),
    [
        ("FP32", 1.0, [], "data of input x is 1.0; expected an array"),
        ("FP32", [1, True], [2], "data of input x has the value true (True); expected a number"),
        ("FP32", [1, "1"], [2], "data of input x has the value \"1\" (String); expected a number"),
        ("FP32", [None], [1], "data of input x has the value null (Null)"),
        ("FP64", [10**400], [1], "data of input x has the value 1000000"),
        ("INT8", [1, 128], [2], "data of input x has the value 128 (Number); expected an integer from -128 to 127"),
        ("UINT64", [-1], [1], "expected an integer from 0 to 18446744073709551615 for UINT64"),
        ("INT64", [1.0], [1], "data of input x has the value 1.0 (Number); expected an integer"),
        ("INT64", [True], [1], "data of input x has the value true"),
        ("BOOL", [0], [1], "data of input x has the value 0 (Number); expected true or false"),
        ("BYTES", [1], [1], "data of input x has the value 1 (Number); expected a string"),
        ("BYTES", [{"b64": "AA=="}], [1], "expected a string"),
        ("BYTES", ["\ud800"], [1], "surrogate"),
        ("FP32", [[1], [2, 3]], [2, 2], "data of input x is ragged"),
        ("FP32", [[1], 2], [2, 1], "data of input x is ragged"),
        ("FP32", [1, [2]], [2, 1], "data of input x is ragged"),
        ("FP32", [[[1]]], [1, 1], "nested deeper than its shape's 2 dimensions"),
        ("FP32", [[1, 2], [3, 4]], [4, 1], "data of input x has shape [2, 2]; expected [4] or [4, 1]"),
        ("FP32", [], [2], "data of input x has shape [0]; expected [2] or [2]"),
        ("BF16", [1], [1], "expected binary data"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit(name: str, data: Any, shape: list[int], message: str) -> None:
    assert message in refused(json_data.decode, "x", data, DATATYPES[name], shape)


def test_outputs_that_json_cannot_represent() -> None:
    strings = np.array([b"\xff"], np.object_)
    assert refused(json_data.encode, "y", strings) == (
        "output y has BYTES that aren't UTF-8, which JSON can't represent; request binary_data"
    )
    bfloat16 = DATATYPES["BF16"].dtype.numpy
    assert refused(json_data.encode, "y", np.zeros(1, bfloat16)) == (
        "output y is BF16, which has no form in JSON; request binary_data"
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([-1, 2], "the shape of input x has the size -1; expected 0 to"),
        ([2**63, 2], "the shape of input x has the size 9223372036854775808; expected 0 to"),
        ([10**5000, 2], "expected 0 to"),
        ([0, 2**62], "elements; expected at most 100"),
        ([51, 2], "input x has shape [51, 2], 102 elements; expected at most 100"),
        ([1] * 65, "the shape of input x has 65 dimensions; expected at most 64"),
        ([2], "input x has shape [2]; expected [-1, 2] (-1: any size)"),
        ([2, 3], "input x has shape [2, 3]; expected [-1, 2] (-1: any size)"),
    ],
)
def test_shapes_that_do_not_fit(shape: list[int], message: str) -> None:
    spec = TensorSpec("x", types_pb2.DT_FLOAT, (-1, 2))
    assert message in refused(check_shape, "x", shape, spec, FP32, 100)


def test_shapes_that_fit() -> None:
    spec = TensorSpec("x", types_pb2.DT_FLOAT, (-1, 2))
    assert check_shape("x", [50, 2], spec, FP32, 100) == 100
    assert check_shape("x", [0, 2], spec, FP32, 100) == 0
    free = TensorSpec("x", types_pb2.DT_FLOAT, None)
    assert check_shape("x", [], free, FP32, 100) == 1
    assert check_shape("x", [3, 0, 5], free, FP32, 100) == 0


def test_datatypes() -> None:
    assert datatype_of("x", TensorSpec("x", types_pb2.DT_FLOAT, None)) is FP32
    assert refused(check_datatype, "x", "INT8", FP32) == 'input x has datatype "INT8"; expected FP32'
    assert "which isn't one of BOOL, UINT8" in refused(check_datatype, "x", "fp32", FP32)
    with pytest.raises(StatusError) as caught:
        datatype_of("input x", TensorSpec("x", types_pb2.DT_COMPLEX64, None))
    assert caught.value.code is Code.UNIMPLEMENTED
    assert "input x has TensorFlow's type complex64" in caught.value.message
