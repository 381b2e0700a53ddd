"""The gRPC API, without a network, and its messages."""

import struct
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from open_inference_fixtures.arrays import assert_same, vectors
from open_inference_fixtures.server import server, view
from tfship.serving.inference.request_context import Call
from tfship.serving.models.snapshot import ModelView
from tfship.serving.open_inference import binary_data, messages, typed_contents
from tfship.serving.open_inference.datatypes import DATATYPES
from tfship.serving.open_inference.grpc_service import SERVICE, OpenInferenceGrpc
from tfship.serving.open_inference.messages import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelReadyRequest,
    ServerLiveRequest,
    ServerMetadataRequest,
    ServerReadyRequest,
)
from tfship.serving.protos.status import Code, StatusError


def request_of(model: str, raw: bytes | None = None, **tensor: Any) -> Any:
    """Return a request with one input: raw, or with the fields `tensor`."""
    request = ModelInferRequest(model_name=model)
    request.inputs.add(**{"name": "x", "datatype": "FP32", "shape": [1, 2], **tensor})
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


def refusal(request: Any) -> str:
    with pytest.raises(StatusError) as caught:
        server().call_grpc("ModelInfer", request)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


def test_service_has_a_method_for_each_rpc() -> None:
    assert SERVICE.full_name == "inference.GRPCInferenceService"
    names = ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"]
    assert [each.name for each in SERVICE.methods] == names
    for each in SERVICE.methods:
        assert each.input_type.full_name == f"inference.{each.name}Request"
        assert each.output_type.full_name == f"inference.{each.name}Response"
        assert callable(getattr(OpenInferenceGrpc, each.name))


def test_messages_on_the_wire() -> None:
    """Bytes by hand: a tag is the field's number times 8, plus 2 for strings, messages and packed numbers."""
    wire = (
        b"\x0a\x01m" b"\x12\x012" b"\x1a\x01i"
        b"\x22\x08\x0a\x01p\x12\x03\x1a\x01v"
        b"\x2a\x18\x0a\x01x\x12\x04FP32\x1a\x02\x01\x02\x2a\x09\x32\x04\x00\x00\x80\x3f\x0a\x01\x01"
        b"\x32\x03\x0a\x01y"
        b"\x3a\x02ab"
    )  # fmt: skip
    request = ModelInferRequest.FromString(wire)
    assert (request.model_name, request.model_version, request.id) == ("m", "2", "i")
    assert request.parameters["p"].string_param == "v"
    assert (request.inputs[0].name, request.inputs[0].datatype, [*request.inputs[0].shape]) == (
        "x",
        "FP32",
        [1, 2],
    )
    assert [*request.inputs[0].contents.fp32_contents] == [1.0]
    assert [*request.inputs[0].contents.bool_contents] == [True]
    assert request.outputs[0].name == "y"
    assert [*request.raw_input_contents] == [b"ab"]
    response = ModelInferResponse(model_name="m", raw_output_contents=[b"ab"])
    response.outputs.add(name="y")
    assert response.SerializeToString() == b"\x0a\x01m\x2a\x03\x0a\x01y\x32\x02ab"


def test_maps_and_oneofs() -> None:
    file = descriptor_pb2.FileDescriptorProto()
    SERVICE.file.CopyToProto(file)
    found = {message.name: message for message in file.message_type}
    assert found["ModelInferRequest"].nested_type[0].name == "ParametersEntry"
    assert found["ModelInferRequest"].nested_type[0].options.map_entry
    parameter = messages.InferParameter(bool_param=True)
    parameter.int64_param = 3
    assert parameter.WhichOneof("parameter_choice") == "int64_param"


def test_server_and_models() -> None:
    shared = server()
    assert shared.call_grpc("ServerLive", ServerLiveRequest()).live
    assert shared.call_grpc("ServerReady", ServerReadyRequest()).ready
    metadata = shared.call_grpc("ServerMetadata", ServerMetadataRequest())
    assert (metadata.name, [*metadata.extensions]) == ("tfship", ["binary_tensor_data"])
    for name, version, ready in (
        ("times", "", True),
        ("times", "2", True),
        ("times", "3", False),
        ("z", "", False),
    ):
        request = ModelReadyRequest(name=name, version=version)
        assert shared.call_grpc("ModelReady", request).ready is ready
    with pytest.raises(StatusError, match="version"):
        shared.call_grpc("ModelReady", ModelReadyRequest(name="times", version="x"))
    with pytest.raises(StatusError, match="names no model"):
        shared.call_grpc("ModelReady", ModelReadyRequest())
    with view({"empty": ModelView()}):
        assert not shared.call_grpc("ServerReady", ServerReadyRequest()).ready
    model = shared.call_grpc("ModelMetadata", ModelMetadataRequest(name="times"))
    assert (model.name, [*model.versions], model.platform) == ("times", ["2", "10"], "tflite")
    (tensor,) = model.inputs
    assert (tensor.name, tensor.datatype, [*tensor.shape]) == ("x", "FP32", [-1, 2])
    with pytest.raises(StatusError) as caught:
        shared.call_grpc("ModelMetadata", ModelMetadataRequest(name="z"))
    assert caught.value.code is Code.NOT_FOUND


@given(vectors(), st.booleans())
def test_infer_every_datatype(vector: tuple[str, NDArray[Any]], is_typed: bool) -> None:
    name, array = vector
    datatype = DATATYPES[name]
    request = request_of("echo", datatype=name, shape=array.shape)
    request.id = "7"
    request.parameters["signature_name"].string_param = name
    if is_typed and datatype.contents:
        typed_contents.encode(array, datatype, request.inputs[0].contents)
    else:
        request.raw_input_contents.append(bytes(binary_data.encode(array)))
    response = server().call_grpc("ModelInfer", request)
    assert (response.model_name, response.model_version, response.id) == ("echo", "1", "7")
    (output,) = response.outputs
    assert (output.name, output.datatype, [*output.shape]) == ("y", name, [*array.shape])
    if request.raw_input_contents:
        (raw,) = response.raw_output_contents
        assert not output.HasField("contents")
        assert_same(binary_data.decode("y", raw, datatype, array.size), array)
    else:
        assert not response.raw_output_contents
        assert_same(typed_contents.decode("y", output.contents, datatype, array.size), array)


def test_outputs_in_the_requested_order_and_version() -> None:
    request = ModelInferRequest(model_name="pair", model_version="1")
    request.inputs.add(name="b", datatype="INT64", shape=[1]).contents.int64_contents.append(2)
    request.inputs.add(name="a", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.5)
    for name in ("total", "a"):
        request.outputs.add(name=name)
    response = server().call_grpc("ModelInfer", request)
    assert [(each.name, each.contents.fp32_contents[0]) for each in response.outputs] == [
        ("total", 3.5),
        ("a", 1.5),
    ]


def test_call_has_the_timings() -> None:
    call = Call("ModelInfer", "GRPC")
    server().grpc.ModelInfer(request_of("times", struct.pack("<2f", 1, 2)), call)
    assert (call.model, call.runtime) == ("times", "TFLite")
    assert min(call.decode, call.inference, call.encode) > 0


def test_requests_that_are_refused() -> None:
    data = bytes(8)
    assert "missing x; signature serving_default" in refusal(ModelInferRequest(model_name="times"))
    assert refusal(ModelInferRequest()) == "the request names no model"
    assert 'unknown input "z"' in refusal(request_of("times", data, name="z"))
    assert 'datatype "INT8"; expected FP32' in refusal(request_of("times", data, datatype="INT8"))
    assert "shape [2]; expected [-1, 2]" in refusal(request_of("times", data, shape=[2]))
    assert "has the size -1" in refusal(request_of("times", data, shape=[-1, 2]))
    assert "elements; expected at most" in refusal(request_of("times", data, shape=[2**62, 2]))
    assert "4 bytes of binary data; expected 8" in refusal(request_of("times", bytes(4)))
    assert "0 values in fp32_contents; expected 2" in refusal(request_of("times"))
    request = request_of("times", data)
    request.raw_input_contents.append(data)
    assert refusal(request) == "raw_input_contents has 2 elements; expected 1, one for each input"
    request = request_of("times", data)
    request.inputs[0].contents.fp32_contents.extend([1, 2])
    assert "has contents, and the request raw_input_contents" in refusal(request)
    request = request_of("times", data)
    request.outputs.add(name="z")
    assert 'unknown output "z"; signature serving_default returns y' in refusal(request)
    request.outputs[0].name = "y"
    request.outputs.add(name="y")
    assert refusal(request) == "output y is requested twice; expected once"
    request = request_of("times", data)
    request.parameters["signature_name"].int64_param = 1
    assert "expected a string_param" in refusal(request)


def test_shared_memory_is_refused() -> None:
    request = request_of("times")
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(StatusError) as caught:
        server().call_grpc("ModelInfer", request)
    assert caught.value.code is Code.UNIMPLEMENTED
