"""TensorProto and numpy, by TensorFlow's rules."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tfship.serving.protos.messages import tensor_pb2, types_pb2
from tfship.serving.protos.tensors import DTYPES, DType, dtype_of, from_proto, to_proto

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def _arrays(dtype: DType, shape: tuple[int, ...]) -> st.SearchStrategy[NDArray[Any]]:
    if dtype.is_string:
        return hnp.arrays(np.object_, shape, elements=st.binary(max_size=8), fill=st.nothing())
    if dtype.name == "bfloat16":
        floats = hnp.arrays(np.float32, shape, elements=st.floats(-(2.0**90), 2.0**90, width=32))
        return floats.map(lambda array: array.astype(dtype.numpy))
    return hnp.arrays(dtype.numpy, shape)


TENSORS = st.tuples(st.sampled_from(list(DTYPES.values())), SHAPES).flatmap(lambda each: _arrays(*each))


def _same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    if left.dtype == np.object_:
        return left.shape == right.shape and left.tolist() == right.tolist()
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@given(TENSORS, st.booleans())
def test_round_trip(array: NDArray[Any], packed: bool) -> None:
    wire = to_proto(array, packed=packed).SerializeToString()
    assert _same(from_proto(tensor_pb2.TensorProto.FromString(wire)), array)


@given(TENSORS)
def test_tensorflow_reads_what_is_written(array: NDArray[Any]) -> None:
    import tensorflow as tf

    for packed in (True, False):
        assert _same(np.asarray(tf.make_ndarray(to_proto(array, packed=packed)), array.dtype), array)


@given(TENSORS)
def test_what_tensorflow_writes_is_read(array: NDArray[Any]) -> None:
    import tensorflow as tf

    number = next(number for number, dtype in DTYPES.items() if dtype.numpy == array.dtype)
    values = array.tolist() if array.dtype == np.object_ else array
    assert _same(from_proto(tf.make_tensor_proto(values, number, array.shape)), array)


def _proto(dtype: str = "DT_FLOAT", shape: tuple[int, ...] = (), **fields: Any) -> Any:
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DataType.Value(dtype), **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("proto", "values"),
    [
        (_proto(shape=(3,), float_val=[1.0, 2.0]), [1.0, 2.0, 2.0]),
        (_proto(shape=(3,)), [0.0, 0.0, 0.0]),
        (_proto(shape=(2,), float_val=[1.0, 2.0, 3.0]), [1.0, 2.0]),
        (_proto(float_val=[7.0]), 7.0),
        (_proto("DT_STRING", (3,), string_val=[b"a"]), [b"a", b"a", b"a"]),
        (_proto("DT_STRING", (2,)), [b"", b""]),
        (_proto("DT_STRING", (2,), tensor_content=b"\x02\x01abc"), [b"ab", b"c"]),
        (_proto("DT_COMPLEX64", (2,), scomplex_val=[1.0, 2.0]), [1 + 2j, 1 + 2j]),
        (_proto("DT_BOOL", (2,), tensor_content=b"\x00\x02"), [False, True]),
        (_proto("DT_HALF", (2,), half_val=[0x3C00]), [1.0, 1.0]),
        (_proto(shape=(0, 5), float_val=[1.0]), []),
    ],
)
def test_missing_and_surplus_values(proto: Any, values: Any) -> None:
    assert from_proto(proto).tolist() == values


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (_proto("DT_INVALID"), "DT_INVALID"),
        (_proto("DT_RESOURCE"), "DT_RESOURCE"),
        (_proto(shape=(2, -1)), "negative"),
        (_proto(shape=(2**40, 2**40)), "larger than"),
        (_proto(shape=(2**40, 2**40, 0)), "larger than"),
        (_proto(shape=(2**24 + 2,), float_val=[1.0]), "has 16777218 elements and float_val 1; repeating"),
        (_proto("DT_STRING", (2**22,)), "repeating"),
        (_proto(shape=(1,) * 65), "a float tensor of rank 65; at most 64"),
        (_proto("DT_STRING", (1,) * 33), "a string tensor of rank 33; at most 32"),
        (_proto(shape=(2,), tensor_content=b"1234567"), "7 bytes"),
        (_proto("DT_INT8", (1,), int_val=[128]), "int8"),
        (_proto("DT_UINT8", (1,), int_val=[-1]), "uint8"),
        (_proto("DT_HALF", (1,), half_val=[65536]), "half"),
        (_proto("DT_STRING", (2,), tensor_content=b"\x02\x01ab"), "need"),
        (_proto("DT_STRING", (2,), tensor_content=b"\x82"), "lengths"),
    ],
)
def test_impossible_tensors(proto: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_proto(proto)


def test_large_tensors_without_content() -> None:
    array = np.arange(200_001, dtype=np.float32)
    assert _same(from_proto(to_proto(array, packed=False)), array)
    assert from_proto(_proto(shape=(2**24, 1), float_val=[1.0])).sum() == 2**24


def test_unknown_rank_is_a_scalar_unless_it_has_sizes() -> None:
    proto = _proto(float_val=[1.0])
    proto.tensor_shape.unknown_rank = True
    assert from_proto(proto).shape == ()
    proto.tensor_shape.dim.add(size=1)
    with pytest.raises(ValueError, match="unknown rank"):
        from_proto(proto)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_tensor_or_a_value_error(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        proto = tensor_pb2.TensorProto.FromString(data)
    except DecodeError:
        return
    if math.prod(max(dim.size, 1) for dim in proto.tensor_shape.dim) > 2**20:
        return  # allowed, but no reason to fill the memory here
    try:
        array = from_proto(proto)
    except ValueError:
        return
    assert array.shape == tuple(dim.size for dim in proto.tensor_shape.dim)


def test_arrays_that_no_tensor_can_hold() -> None:
    with pytest.raises(ValueError, match="datetime64"):
        to_proto(np.array(["2020-01-01"], "M8[D]"))


def test_references_have_the_type_that_they_refer_to() -> None:
    assert dtype_of(types_pb2.DT_FLOAT_REF) is DTYPES[types_pb2.DT_FLOAT]
    assert dtype_of(types_pb2.DT_RESOURCE) is None
