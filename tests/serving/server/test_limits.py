"""What one client may take up: past each limit it is told so at once, and others are answered as if nothing were."""

import contextlib
import json
import re
import select
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_fixtures import (
    ROW,
    TFLITE,
    Client,
    config_of,
    eventually,
    publish,
    serving,
    slow_steps,
    tiny_models,
)
from tfship.serving.http import json_text
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.status import StatusError
from tfship.serving.protos.stubs import PredictionServiceStub
from tfship.serving.protos.tensors import to_proto
from tfship.serving.server import flag_settings, flags
from tfship.serving.server.model_server import Settings
from tfship.serving.server.settings import Limits

PATH = "/v1/models/m:predict"
LIMITS = Limits(
    body_bytes=100_000,
    header_bytes=5000,
    json_depth=20,
    tensor_elements=1000,
    connections=8,
    requests=4,
    request_seconds=1.0,
    slowest_bytes_per_second=1000,
    idle_seconds=2.0,
)


@contextlib.contextmanager
def _limited(tmp_path: Path, limits: Limits) -> Iterator[Client]:
    publish(tmp_path / "m", 1)
    settings = Settings(loader=TFLITE, limits=limits, grpc_threads=2, rest_threads=2)
    with serving(config_of(m=tmp_path / "m"), settings) as client:
        yield client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with _limited(tmp_path_factory.mktemp("limits"), replace(LIMITS, idle_seconds=300.0)) as client:
        yield client


def _request(rows: int = 1) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(to_proto(np.tile(ROW, (rows, 1))))
    return request


def _raw(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 30)
    connection.sendall(data)
    return connection


def _rest_of(connection: socket.socket) -> bytes:
    """Return all that comes until the other end closes."""
    received = b""
    with contextlib.closing(connection), contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(2**16):
            received += piece
    return received


def _answers(client: Client) -> bool:
    return client.rest(PATH, {"instances": [[1, 2]]})[0] == 200 and np.array_equal(
        client.predict("m", x=ROW)["y"], ROW
    )


def test_bodies(client: Client) -> None:
    rows = [[1, 2]] * 20_000
    status, answer = client.rest(PATH, {"instances": rows})
    assert (status, answer) == (413, {"error": "The body is larger than 100000 bytes"})
    # Said by the header, or found out on the way.
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\n".encode()
    declared = _raw(client.rest_port, head + b"content-length: 100001\r\nconnection: close\r\n\r\n")
    assert _rest_of(declared).startswith(b"HTTP/1.1 413 ")
    chunked = _raw(client.rest_port, head + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n")
    chunked.sendall(b"30000\r\n" + b" " * 0x30000)
    assert _rest_of(chunked).startswith(b"HTTP/1.1 413 ")
    code, details = client.refusal("Predict", _request(20_000))
    assert (code, "larger than max (" in details) == ("RESOURCE_EXHAUSTED", True)
    # A message that is small until it is unpacked.
    with client.channel() as channel, pytest.raises(grpc.RpcError) as error:
        PredictionServiceStub(channel).Predict(_request(20_000), compression=grpc.Compression.Gzip)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert _answers(client)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 6000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % index for index in range(1000)),
        b"GET / HTTP/1.1\r\na: " + b"x" * 200_000,
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: " + b"x" * 200_000,
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"x" * 200_000,
    ],
    ids=["path", "many", "endless", "trailer", "chunk"],
)
def test_headers(client: Client, head: bytes) -> None:
    """None of these ends: the answer can't wait for it."""
    connection = socket.create_connection(("127.0.0.1", client.rest_port), 30)
    with contextlib.closing(connection):
        with contextlib.suppress(ConnectionError):  # refused before all of it was sent
            for begin in range(0, len(head), 4096):
                if select.select([connection], [], [], 0)[0]:
                    break  # the answer is there
                connection.sendall(head[begin : begin + 4096])
        received = connection.recv(2**16)
    assert b" 431 Request Header Fields Too Large\r\n" in received or b" 404 " in received
    assert _answers(client)


def test_metadata(client: Client) -> None:
    with client.channel() as channel, pytest.raises(grpc.RpcError) as error:
        PredictionServiceStub(channel).Predict(_request(), metadata=[("a", "x" * 6000)])
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    with client.channel() as channel:
        assert PredictionServiceStub(channel).Predict(_request(), metadata=[("a", "x" * 2000)]).outputs


def test_json_depth(client: Client) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        body = f'{{"instances": {opening * 20}1{closing * 20}}}'.encode()
        status, answer = client.rest(PATH, body)
        assert (status, answer["error"]) == (400, "JSON Parse error: nested more than 20 deep")
        _, answer = client.rest("/v1/models/m:classify", body)
        assert answer["error"] == "JSON Parse error: nested more than 20 deep"
    strings = f'{{"signature_name": "{"[" * 100}", "instances": [[1, 2]]}}'.encode()
    assert "not found" in client.rest(PATH, strings)[1]["error"]


_JSON = st.recursive(
    st.none() | st.text('[]{}"\\a', max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\a', max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


@given(_JSON)
def test_depth_is_counted_outside_of_strings(value: Any) -> None:
    document = {"x": value}
    body, depth = json.dumps(document).encode(), _depth(document)
    assert json_text.parse_object(body, depth) == document
    with pytest.raises(StatusError, match=f"nested more than {depth - 1} deep"):
        json_text.parse_object(body, depth - 1)


def test_tensor_elements(client: Client) -> None:
    status, answer = client.rest(PATH, {"instances": [[1, 2]] * 501})
    assert (status, answer["error"]) == (400, "x has 1002 elements; expected at most 1000")
    request = _request(501)
    code, details = client.refusal("Predict", request)
    assert (code, details) == (
        "INVALID_ARGUMENT",
        "tensor parsing error: x (shape [501, 2] has 1002 elements; expected at most 1000)",
    )
    # A few bytes that stand for many elements.
    request.inputs["x"].tensor_content = b""
    request.inputs["x"].float_val.append(1)
    assert client.refusal("Predict", request)[0] == "INVALID_ARGUMENT"


def test_requests_that_arrive_slowly_do_not_count_until_they_are_there(client: Client) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 23\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS.requests):
            stack.enter_context(contextlib.closing(_raw(client.rest_port, head + b"{")))
        assert client.rest(PATH, {"instances": [[1, 2]]})[0] == 200


def test_a_pipelined_request_has_its_own_time(client: Client) -> None:
    whole = b"GET /v1/models/m HTTP/1.1\r\nhost: x\r\n\r\n"
    for half in (b"GET /v1/mod", f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 23\r\n\r\n{{".encode()):
        answers = _rest_of(_raw(client.rest_port, whole + half))
        assert answers.count(b"HTTP/1.1 200 ") == 1
        assert answers.count(b"HTTP/1.1 408 ") == 1


def _half_calls(count: int) -> h2.connection.H2Connection:
    """Begin calls of Predict, and send of each message one byte."""
    calls = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    calls.initiate_connection()
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/tensorflow.serving.PredictionService/Predict"),
        (":authority", "x"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    for stream in range(1, 2 * count, 2):
        calls.send_headers(stream, headers)
        calls.send_data(stream, b"\0")
    return calls


def test_calls_that_are_only_begun_take_nothing_from_others(tmp_path: Path) -> None:
    limits = replace(LIMITS, connections=100)
    with _limited(tmp_path, limits) as client:
        assert _answers(client)
        before = threading.active_count()
        calls = _half_calls(90)
        with contextlib.closing(_raw(client.grpc_port, calls.data_to_send())) as connection:
            assert _answers(client)
            assert threading.active_count() <= before
            # They have their time, and then an end.
            ends: list[dict[Any, Any]] = []
            while len(ends) < 90:
                events = calls.receive_data(connection.recv(2**16))
                ends += [
                    dict(each.headers) for each in events if isinstance(each, h2.events.ResponseReceived)
                ]
        assert {(each["grpc-status"], each["grpc-message"]) for each in ends} == {
            ("1", "the request has not arrived within 1 s")
        }
        assert _answers(client)


def test_calls_in_flight(tmp_path: Path) -> None:
    limits = replace(LIMITS, requests=1)
    settings = Settings(limits=limits, grpc_threads=2)
    with serving(config_of(m=tiny_models() / "slow"), settings) as client:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["n"].CopyFrom(to_proto(np.array([slow_steps(client, 1.0)], np.int32)))
        with client.channel() as channel:
            stub = PredictionServiceStub(channel)

            def refused() -> bool:
                first = stub.Predict.future(request, timeout=100)
                second = stub.Predict.future(request, timeout=100)
                codes = {first.code(), second.code()}
                return codes == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED} and any(
                    "1 requests are in flight, the limit" in each.details() for each in (first, second)
                )

            eventually(refused)


def test_connections(tmp_path: Path) -> None:
    with _limited(tmp_path, LIMITS) as client, contextlib.ExitStack() as stack:
        for port in (client.rest_port, client.grpc_port):
            for _ in range(LIMITS.connections):
                stack.enter_context(contextlib.closing(_raw(port)))
        # REST says so; gRPC core only closes.
        eventually(lambda: _rest_of(_raw(client.rest_port)).startswith(b"HTTP/1.1 503 "))
        eventually(lambda: _rest_of(_raw(client.grpc_port)) == b"")
        # Those that stay idle are closed, and there is room again.
        eventually(lambda: _answers_again(client))


def _answers_again(client: Client) -> bool:
    with contextlib.suppress(OSError, grpc.RpcError):
        return _answers(client)
    return False


def test_a_client_that_does_not_take_its_answer_is_cut_off(tmp_path: Path) -> None:
    limits = replace(LIMITS, body_bytes=2**26, tensor_elements=2**26)
    with _limited(tmp_path, limits) as client:
        body = b'{"instances": [%b]}' % b",".join([b"[1.5,2.5]"] * 1_000_000)
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(30)
            connection.connect(("127.0.0.1", client.rest_port))
            connection.sendall(head + body)
            ours = connection.getsockname()[1]
            eventually(lambda: not _is_open(client.rest_port, ours))
            answer = _rest_of(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        promised = re.search(rb"content-length: ([0-9]+)", answer)
        assert promised
        assert len(answer) < int(promised[1])
        assert _answers(client)


def _is_open(local: int, remote: int) -> bool:
    """Tell whether the server has not closed a connection, even if it hasn't got rid of what it had to send."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = [f":{local:04X}", f":{remote:04X}"]
    return any([row[1][-5:], row[2][-5:]] == ends and row[3] == "01" for row in rows)


def test_flags() -> None:
    names = {
        "max_body_bytes": "body_bytes",
        "max_header_bytes": "header_bytes",
        "max_json_depth": "json_depth",
        "max_tensor_elements": "tensor_elements",
        "max_connections": "connections",
        "max_requests": "requests",
        "max_streams": "streams",
        "receive_timeout_seconds": "request_seconds",
        "min_bytes_per_second": "slowest_bytes_per_second",
        "idle_timeout_seconds": "idle_seconds",
    }
    defaults = flag_settings.settings(flags.parser().parse_args([])).limits
    assert defaults == Limits()
    given = [f"--{name}={index}" for index, name in enumerate(names, 1)]
    found = flag_settings.settings(flags.parser().parse_args(given)).limits
    assert [getattr(found, name) for name in names.values()] == list(range(1, 11))
