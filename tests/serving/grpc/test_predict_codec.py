"""Requests and responses of Predict in bytes: what is looked up is what protobuf reads and writes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from tfship.export.runtimes.protocol import Signature
from tfship.serving.grpc.predict_codec import PredictCodec
from tfship.serving.inference.predict import PredictResult
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.status import StatusError
from tfship.serving.protos.tensors import from_proto, to_proto

NONE = Signature({}, {}, "")
DTYPES = ("float32", "float64", "int32", "int64", "uint8", "float16", "bool")


def request(array: NDArray[Any], name: str = "x", **fields: Any) -> Any:
    message = predict_pb2.PredictRequest(**fields)
    message.model_spec.name = "m"
    message.inputs[name].CopyFrom(to_proto(array))
    return message


def tensors(codec: PredictCodec, data: bytes) -> dict[str, NDArray[Any]]:
    return codec.read(data).tensors(NONE)


def same(codec: PredictCodec, data: bytes) -> None:
    """Compare with what protobuf reads."""
    message = predict_pb2.PredictRequest.FromString(data)
    found = codec.read(data)
    assert found.spec == message.model_spec
    assert list(found.output_filter) == list(message.output_filter)
    read = found.tensors(NONE)
    assert read.keys() == set(message.inputs)
    for name, proto in message.inputs.items():
        expected = from_proto(proto)
        assert (read[name].dtype, read[name].shape) == (expected.dtype, expected.shape)
        assert read[name].flags.aligned
        np.testing.assert_array_equal(read[name], expected)


@given(st.data())
def test_other_values_after_the_same_head(data: st.DataObject) -> None:
    codec = PredictCodec(2**20, packed=False)
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40))
    for _ in range(3):
        same(codec, request(data.draw(arrays.arrays(dtype, shape))).SerializeToString())


def test_the_same_size_with_another_head() -> None:
    codec = PredictCodec(2**20, packed=False)
    values = np.arange(6, dtype=np.float32)
    for message in [
        request(values.reshape(2, 3)),
        request(values.reshape(3, 2)),
        request(values.view(np.int32).reshape(2, 3)),
        request(values.reshape(2, 3), name="y"),
        request(values.reshape(2, 3), output_filter=["y"]),
        request(values.reshape(2, 3)),
    ] * 2:
        same(codec, message.SerializeToString())


def test_a_field_that_only_looks_like_the_values_is_not_taken_for_them() -> None:
    """An unknown field at the end, which has the bytes of `tensor_content` by chance."""
    codec = PredictCodec(2**20, packed=False)
    values = np.arange(8, dtype=np.float32)
    whole = request(values).SerializeToString()
    for other in (values, values + 1):
        content = other.tobytes()
        same(codec, whole + b"\x22" + bytes([len(content)]) + content)


def test_a_known_head_before_more_than_its_values() -> None:
    """The request is as long as another one, whose head is as long as this one's."""
    codec = PredictCodec(2**20, packed=False)
    known, longer = (request(np.zeros((1, size), np.float32)).SerializeToString() for size in (2, 3))
    for data in (known, longer):
        same(codec, data)
    output_filter = predict_pb2.PredictRequest(output_filter=["yy"]).SerializeToString()
    assert len(known + output_filter) == len(longer)
    same(codec, known + output_filter)


def test_a_shape_without_elements_has_no_values() -> None:
    codec = PredictCodec(2**20, packed=False)
    message = request(np.zeros((0, 2), np.float32))
    message.inputs["x"].tensor_content = b"whatever"
    for _ in range(2):
        same(codec, message.SerializeToString())


def test_what_is_invalid_stays_invalid() -> None:
    codec = PredictCodec(10, packed=False)
    good = request(np.zeros(10, np.float32)).SerializeToString()
    for _ in range(2):
        same(codec, good)
    with pytest.raises(StatusError, match="expected at most 10"):
        tensors(codec, request(np.zeros(11, np.float32)).SerializeToString())
    with pytest.raises(StatusError, match="Error parsing message"):
        codec.read(good[:-1])
    assert codec.read(b"").spec is None


def test_heads_are_forgotten_when_they_are_many() -> None:
    codec = PredictCodec(2**20, packed=False)
    for number in range(3000):
        same(codec, request(np.zeros(3, np.float32), name=f"x{number}").SerializeToString())
    assert len(codec._heads) <= 1024


@given(st.data(), st.booleans())
def test_responses_are_protobufs(data: st.DataObject, packed: bool) -> None:
    codec = PredictCodec(2**20, packed=packed)
    dtypes = st.sampled_from((*DTYPES, "complex64"))
    outputs = {}
    for name in data.draw(st.lists(st.sampled_from(["a", "b", "c"]), unique=True)):
        shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
        outputs[name] = data.draw(arrays.arrays(data.draw(dtypes), shape))
    outputs["text"] = np.array([b"x", b"\xff"], object)
    expected = predict_pb2.PredictResponse()
    expected.model_spec.name = "m"
    expected.model_spec.version.value = 7
    expected.model_spec.signature_name = "s"
    for name, array in outputs.items():
        expected.outputs[name].CopyFrom(to_proto(array, packed=packed))
    for _ in range(2):
        content = codec.write("m", PredictResult(7, "s", outputs))
        # Compared as bytes: NaN is never equal.
        found = predict_pb2.PredictResponse.FromString(content)
        assert found.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
