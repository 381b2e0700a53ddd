"""Attacks on HTTP/2 servers through a real socket, with an honest client that is answered all the time."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import numpy as np
import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

from serving_fixtures import eventually
from tfship.serving.grpc.calls import MOST_QUEUED_BYTES
from tfship.serving.server.model_server import Settings
from tfship.serving.server.settings import Limits
from tfship.serving.server.sockets import allow_connections
from third_party_clients.grpc_clients import OK, ChannelOptions, ClientChannel, sync_grpcio
from third_party_clients.server import (
    GREETING,
    PREDICT_PATH,
    ROWS,
    Server,
    predict_request,
    predicted,
    started,
)

LIMITS = Limits(header_bytes=5000, request_seconds=2.0, slowest_bytes_per_second=1000)
PREFACE = GREETING[:24]
_SETTINGS_ACK = SettingsFrame(0, flags=["ACK"]).serialize()
HEADERS = [
    (":method", "POST"), (":scheme", "http"), (":path", PREDICT_PATH), (":authority", "x"),
    ("te", "trailers"), ("content-type", "application/grpc"),
]  # fmt: skip


@pytest.fixture(params=["ngh2", "h2"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    settings = Settings(http2_engine=request.param, limits=LIMITS, grpc_threads=2)
    with started(tmp_path, settings) as server:
        yield server


@pytest.fixture
def honest(server: Server) -> Iterator[ClientChannel]:
    """A client that is answered before and after the attack, by one connection."""
    with sync_grpcio() as client:
        channel = client.connect(ChannelOptions(server.client.grpc_port))
        _assert_answers(channel)
        (before,) = server.connections
        yield channel
        _assert_answers(channel)
        assert before in server.connections
        eventually(lambda: server.connections == [before])
        assert (server.calls, server.queued_bytes) == (0, 0)


def _assert_answers(channel: ClientChannel) -> None:
    outcome = channel.call(predict_request())
    assert outcome.code == OK, outcome
    np.testing.assert_array_equal(predicted(outcome.content), 2 * ROWS)


@contextlib.contextmanager
def _connected(server: Server, data: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.client.grpc_port), 300) as connection:
        connection.sendall(data)
        yield connection


def _read_to_end(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(2**16):
            received += piece
    return received


def _flood(server: Server, honest: ClientChannel, pieces: Callable[[int], bytes], most: int) -> int:
    """Send pieces until the server closes the connection; return their number. It must be smaller than `most`."""
    with _connected(server, GREETING) as connection, contextlib.suppress(ConnectionError):
        for count in range(most):
            connection.sendall(pieces(count))
            if count % 20 == 0:
                _assert_answers(honest)
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while received := connection.recv(2**16):
                    pass
                if not received:
                    return count
            connection.settimeout(300)
        pytest.fail(f"{most} pieces were accepted")
    return count


def _request(stream: int, encoder: Encoder, *, body: bytes = b"") -> bytes:
    """Return the frames of a call; without `body`, it isn't complete."""
    headers = HeadersFrame(stream, encoder.encode(HEADERS), flags=["END_HEADERS"]).serialize()
    if not body:
        return headers
    message = b"\0" + len(body).to_bytes(4, "big") + body
    return headers + DataFrame(stream, message, flags=["END_STREAM"]).serialize()


@pytest.mark.parametrize("complete", [False, True])
def test_rapid_resets(server: Server, honest: ClientChannel, complete: bool) -> None:
    encoder, body = Encoder(), predict_request() if complete else b""

    def piece(count: int) -> bytes:
        streams = range(200 * count + 1, 200 * count + 201, 2)
        return b"".join(
            _request(stream, encoder, body=body) + RstStreamFrame(stream, 8).serialize() for stream in streams
        )

    before = server.gate.double_runs
    count = _flood(server, honest, piece, 500)
    # 100 calls in a piece; 1,000 resets are allowed, and some a second. The honest client has run some, too.
    runs = server.gate.double_runs - before
    assert runs <= (100 * (count + 1) if complete else 0) + 30
    eventually(lambda: not server.calls)


@pytest.mark.parametrize("size", [0, 1, 2**14])
def test_continuations(server: Server, honest: ClientChannel, size: int) -> None:
    """Headers without an end: in many frames, or in large ones."""
    literal = b"\x00\x01a\x7f" + b"\x81\x7f" + b"x" * 2**14  # the beginning of a header of 16 KiB

    def piece(count: int) -> bytes:
        begin = b"" if count else HeadersFrame(1, literal[:5]).serialize()
        return (
            begin
            + ContinuationFrame(
                1, b"\x00\x01a\x01b" * (size // 5 + 1) if size > 1 else b"x" * size
            ).serialize()
        )

    _flood(server, honest, piece, 4000)


@pytest.mark.parametrize(
    "frame",
    [PingFrame(0, bytes(8)), SettingsFrame(0), GoAwayFrame(0), DataFrame(1), SettingsFrame(0, {1: 0, 4: 1})],
    ids=["ping", "settings", "goaway", "empty data", "changed settings"],
)
def test_floods(server: Server, honest: ClientChannel, frame: Frame) -> None:
    encoder = Encoder()
    begin = _request(1, encoder) if isinstance(frame, DataFrame) else b""
    _flood(server, honest, lambda count: (b"" if count else begin) + frame.serialize() * 1000, 500)


def test_pings_without_reading(server: Server, honest: ClientChannel) -> None:
    """A client that doesn't read what it has the server send."""
    with _connected(server, GREETING) as connection, contextlib.suppress(ConnectionError):
        for _ in range(20):
            connection.sendall(PingFrame(0, bytes(8)).serialize() * 1000)
            assert server.queued_bytes < 2**20
            _assert_answers(honest)
        _read_to_end(connection)


def test_window_of_nothing(server: Server, honest: ClientChannel) -> None:
    """Large responses that the client doesn't take: few are made, and then the client is cut off."""
    client = h2.connection.H2Connection(h2.config.H2Configuration())
    client.local_settings = h2.settings.Settings(
        initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
    )
    client.initiate_connection()
    body = predict_request(np.ones((2**17, 2), np.float32))
    message = b"\0" + len(body).to_bytes(4, "big") + body
    before, most = server.gate.double_runs, 0
    with _connected(server) as connection, contextlib.suppress(ConnectionError):
        for count in range(1, 31):
            stream = client.get_next_available_stream_id()
            client.send_headers(stream, HEADERS)
            left = message
            while left:
                room = min(client.local_flow_control_window(stream), client.max_outbound_frame_size)
                client.send_data(stream, left[:room], end_stream=len(left) <= room)
                left = left[room:]
                connection.sendall(client.data_to_send())
                if left and not client.local_flow_control_window(stream):
                    client.receive_data(connection.recv(2**16))
            wanted = before + count
            eventually(
                lambda wanted=wanted: (  # type: ignore[misc]
                    server.gate.double_runs >= wanted
                    or server.queued_bytes >= MOST_QUEUED_BYTES
                    or len(server.connections) == 1
                )
            )
            most = max(most, server.queued_bytes)
        _read_to_end(connection)
    # One more, as it begins when there is less.
    assert most <= MOST_QUEUED_BYTES + 2 * len(message)
    assert server.gate.double_runs - before <= MOST_QUEUED_BYTES // len(message) + 2
    eventually(lambda: (server.calls, server.queued_bytes) == (0, 0))


def test_a_thousand_idle_connections(server: Server, honest: ClientChannel) -> None:
    allow_connections(2000)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(_connected(server)) for _ in range(500)]
        for _ in range(500):
            connection = stack.enter_context(_connected(server, GREETING))
            # It is greeted in time, however busy the machine is.
            received = b""
            while _SETTINGS_ACK not in received:
                received += connection.recv(2**16)
        _assert_answers(honest)
        # Those that have said nothing are closed, and the others are clients that have nothing to ask.
        assert {_read_to_end(each)[9:] != b"" for each in silent} == {True}
        assert len(server.connections) == 501
        _assert_answers(honest)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("data", [b"", PREFACE[:10], PREFACE, PREFACE + b"\0\0\6"], ids=str)
def test_a_preface_that_is_not_complete(
    server: Server, honest: ClientChannel, data: bytes, ends: bool
) -> None:
    with _connected(server, data) as connection:
        if ends:
            connection.shutdown(socket.SHUT_WR)
        _assert_answers(honest)
        _read_to_end(connection)


def test_byte_by_byte(server: Server, honest: ClientChannel) -> None:
    """A client whose bytes come one by one, before its first frame and in a message, until its time is over."""
    with _connected(server) as connection:
        eventually(lambda: len(server.connections) == 2)
        sent = _drip(connection, GREETING, lambda: len(server.connections) == 1)
        assert sent < len(GREETING)
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    client.send_headers(1, HEADERS)
    with _connected(server, client.data_to_send()) as connection:
        eventually(lambda: server.calls == 1)
        body = b"\0" + (1000).to_bytes(4, "big") + bytes(1000)
        data = b"".join(DataFrame(1, bytes([each])).serialize() for each in body)
        assert _drip(connection, data, lambda: not server.calls) < len(data)
        ends: dict[Any, Any] = {}
        while not ends:
            events = client.receive_data(connection.recv(2**16))
            for each in events:
                if isinstance(each, h2.events.ResponseReceived):
                    ends = dict(each.headers)
        assert (ends["grpc-status"], ends["grpc-message"]) == ("1", "the request has not arrived within 2 s")
        _assert_answers(honest)


def _drip(connection: socket.socket, data: bytes, is_over: Callable[[], bool]) -> int:
    """Send bytes one by one, ten a second, until `is_over`; return their number."""
    for count in range(len(data)):
        with contextlib.suppress(ConnectionError):
            connection.sendall(data[count : count + 1])
        time.sleep(0.1)
        if is_over():
            return count + 1
    return len(data)
