"""gRPC against a running server."""

import socket
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from serving_fixtures import ROW, Client, config_of, serving, tiny_models
from tfship.serving.protos.messages import get_model_metadata_pb2, get_model_status_pb2, predict_pb2
from tfship.serving.protos.tensors import to_proto
from tfship.serving.server.model_server import Settings


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    names = ("double", "texts", "conv", "pair")
    with serving(config_of(**{name: tiny_models() / name for name in names})) as client:
        yield client


def _request(model: str = "double", x: NDArray[Any] | None = ROW) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    if x is not None:
        request.inputs["x"].CopyFrom(to_proto(x))
    return request


def test_predict(client: Client) -> None:
    answer = client.call("Predict", _request())
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("double", 1)
    assert answer.model_spec.signature_name == "serving_default"
    assert list(answer.outputs["y"].float_val) == [2.0, 4.0]  # where clients look for it


def test_packed_answers() -> None:
    with serving(config_of(double=tiny_models() / "double"), Settings(packed_answers=True)) as client:
        output = client.call("Predict", _request()).outputs["y"]
    assert output.tensor_content == (2 * ROW).tobytes()
    assert not output.float_val


def test_strings_and_several_inputs(client: Client) -> None:
    strings = np.array([b"a\0", b"\xff"], np.object_)
    assert client.predict("texts", s=strings)["upper"].tolist() == [b"A\0", b"\xff"]
    outputs = client.predict("pair", a=np.array([1.5], np.float32), b=np.array([2], np.int64))
    assert outputs["total"].tolist() == [3.5]


def test_output_filter(client: Client) -> None:
    request = predict_pb2.PredictRequest(output_filter=["total"])
    request.model_spec.name = "pair"
    request.inputs["a"].CopyFrom(to_proto(np.zeros(1, np.float32)))
    request.inputs["b"].CopyFrom(to_proto(np.zeros(1, np.int64)))
    assert list(client.call("Predict", request).outputs) == ["total"]
    request.output_filter[:] = ["total", "total"]
    assert client.refusal("Predict", request) == ("INVALID_ARGUMENT", "duplicate output tensor alias: total")
    request.output_filter[:] = ["none"]
    assert client.refusal("Predict", request)[0] == "INVALID_ARGUMENT"


def test_large_tensors_pass(client: Client) -> None:
    many = np.ones((2**20, 2), np.float32)  # 8 MiB, beyond gRPC's usual limit of 4
    np.testing.assert_array_equal(client.predict("double", x=many)["y"], 2 * many)


def test_refusals(client: Client) -> None:
    assert client.refusal("Predict", predict_pb2.PredictRequest()) == (
        "INVALID_ARGUMENT",
        "Missing ModelSpec",
    )
    assert client.refusal("Predict", _request("nope"))[0] == "NOT_FOUND"
    assert "input size does not match" in client.refusal("Predict", _request(x=None))[1]
    assert client.refusal("Predict", _request(x=ROW.astype(np.int32))) == (
        "INVALID_ARGUMENT",
        "Expects arg[0] to be float but int32 is provided",
    )
    broken = _request()
    broken.inputs["x"].tensor_content = b"123"
    assert client.refusal("Predict", broken)[1].startswith("tensor parsing error: x")
    bomb = _request()
    bomb.inputs["x"].ClearField("tensor_content")
    bomb.inputs["x"].tensor_shape.dim[0].size = 2**40
    assert client.refusal("Predict", bomb)[0] == "INVALID_ARGUMENT"
    other = _request()
    other.model_spec.signature_name = "other"
    assert client.refusal("Predict", other) == (
        "FAILED_PRECONDITION",
        'Serving signature key "other" not found.',
    )
    assert client.states("double") == {"1": "AVAILABLE"}


def test_shapes_that_abort_tensorflow_are_refused(client: Client) -> None:
    with pytest.raises(grpc.RpcError, match="its signature expects") as refusal:
        client.predict("conv", image=np.zeros((4, 4, 1), np.float32))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_status_and_metadata(client: Client) -> None:
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "double"
    (version,) = client.call("GetModelStatus", status).model_version_status
    assert (version.version, version.state, version.status.error_code) == (1, 30, 0)
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "double"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert client.call("GetModelMetadata", metadata).metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_default"].outputs["y"].dtype == 1
    metadata.metadata_field[:] = ["other"]
    assert client.refusal("GetModelMetadata", metadata)[0] == "INVALID_ARGUMENT"


def test_bytes_that_are_no_message(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with client.channel() as channel:
        for method in ("PredictionService/Predict", "ModelService/HandleReloadConfigRequest"):
            for data in (b"\xff\xff", b"\x0a\x02\x0a\x01", b"\x0a\x03\x0a\x01\xff"):
                with pytest.raises(grpc.RpcError, match="Error parsing message") as refusal:
                    channel.unary_unary(f"/tensorflow.serving.{method}", None, None)(data, timeout=100)
                assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not caplog.records  # grpcio would log a traceback


def test_headers_that_are_no_text_leave_no_traceback(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def frame(kind: int, flags: int, payload: bytes) -> bytes:
        return struct.pack(">IBBI", len(payload), kind, flags, int(kind == 1))[1:] + payload

    fields = (
        *((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a/b"), (b":authority", b"a")),
        *((b"te", b"trailers"), (b"content-type", b"application/grpc"), (b"x\xff", b"y")),
    )
    # HPACK's plainest form: a name and a value with their lengths (RFC 7541, 6.2.2).
    block = b"".join(bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    with socket.create_connection(("127.0.0.1", client.grpc_port), 10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, b"") + frame(1, 5, block))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    assert not caplog.records


@pytest.mark.parametrize("letter", ["x", "%", "\0", "\u20ac", "\U0001f600"])
def test_messages_are_cut_to_what_a_client_reads(client: Client, letter: str) -> None:
    code, message = client.refusal("Predict", _request(letter * 100_000))
    assert code == "NOT_FOUND"
    assert message.startswith(f"Servable not found for request: Latest({letter * 400}")
    assert message.endswith(f"{letter}…")
