"""Both HTTP/2 engines: the same calls for the same frames, and connections that do harm are closed."""

import struct
from collections.abc import Callable, Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfship.serving.grpc import http2
from tfship.serving.grpc.http2 import Engine, EngineLimits, Headers
from tfship.train.common.errors import UsageError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST = [(b":method", b"POST"), (b":path", b"/a/B"), (b":scheme", b"http"), (b":authority", b"x")]
RESPONSE = [(b":status", b"200"), (b"content-type", b"application/grpc")]
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def block(headers: Headers) -> bytes:
    """Return headers in HPACK's plainest form: names and values with their lengths (RFC 7541, 6.2.2)."""
    parts = []
    for name, value in headers:
        assert max(len(name), len(value)) < 127
        parts.append(bytes([0, len(name)]) + name + bytes([len(value)]) + value)
    return b"".join(parts)


class Server:
    """An engine, and all that it has told; it answers each complete request with `answer`."""

    def __init__(
        self, name: str, answer: bytes | None = b"answer", limits: EngineLimits | None = None
    ) -> None:
        self.told: list[tuple[Any, ...]] = []
        self._answer = answer
        self.engine: Engine = http2.engine(name, self, limits or EngineLimits(8192, 100))

    def on_request(self, stream: int, headers: Headers, *, ended: bool) -> None:
        self.told.append(("request", stream, dict(headers)[b":path"]))
        if ended:
            self._respond(stream)

    def on_data(self, stream: int, data: bytes, *, ended: bool) -> None:
        self.told.append(("data", stream, bytes(data)))
        if ended:
            self._respond(stream)

    def on_end(self, stream: int) -> None:
        self.told.append(("end", stream))
        self._respond(stream)

    def on_closed(self, stream: int) -> None:
        self.told.append(("closed", stream))

    def _respond(self, stream: int) -> None:
        if self._answer is not None:
            self.engine.send_headers(stream, RESPONSE)
            self.engine.send_data(stream, self._answer)
            self.engine.send_trailers(stream, [(b"grpc-status", b"0")])

    def count(self, kind: str) -> int:
        return sum(each[0] == kind for each in self.told)


class Client:
    """h2 as the client of a `Server`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.h2.initiate_connection()
        self.events: list[Any] = []
        self.exchange()
        self.exchange()

    def exchange(self) -> None:
        """Carry bytes in both directions."""
        self._server.engine.receive(self.h2.data_to_send())
        if data := self._server.engine.to_send():
            self.events += self.h2.receive_data(data)

    def ask(self, body: bytes = b"question") -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, REQUEST)
        self.h2.send_data(stream, body, end_stream=True)
        self.exchange()
        return stream

    def of(self, kind: type) -> list[Any]:
        return [each for each in self.events if isinstance(each, kind)]


@pytest.fixture(params=["ngh2", "h2"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_request_and_its_response(name: str) -> None:
    server = Server(name)
    client = Client(server)
    stream = client.ask()
    assert server.told == [
        ("request", stream, b"/a/B"),
        ("data", stream, b"question"),
        ("closed", stream),
    ]
    assert [each.data for each in client.of(h2.events.DataReceived)] == [b"answer"]
    (trailers,) = client.of(h2.events.TrailersReceived)
    assert (b"grpc-status", b"0") in trailers.headers
    assert client.of(h2.events.StreamEnded)
    assert server.engine.has_begun
    assert not server.engine.is_over


def test_a_response_waits_for_the_clients_window(name: str) -> None:
    answer = bytes(range(256)) * 1000
    server = Server(name, answer)
    client = Client(server)
    stream = client.ask()
    received = b"".join(each.data for each in client.of(h2.events.DataReceived))
    assert len(received) == 65_535
    assert server.engine.queued_bytes == len(answer) - len(received)
    while not client.of(h2.events.StreamEnded):
        client.h2.increment_flow_control_window(30_000)
        client.h2.increment_flow_control_window(30_000, stream)
        client.exchange()
    assert b"".join(each.data for each in client.of(h2.events.DataReceived)) == answer
    assert server.engine.queued_bytes == 0
    assert server.told[-1] == ("closed", stream)


def test_large_bodies_arrive_whole(name: str) -> None:
    server = Server(name)
    client = Client(server)
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, REQUEST)
    body, left = bytes(5_000_000), 5_000_000
    while left:
        size = min(left, client.h2.local_flow_control_window(stream), client.h2.max_outbound_frame_size)
        assert size
        left -= size
        client.h2.send_data(stream, body[:size], end_stream=not left)
        client.exchange()
    assert sum(len(each[2]) for each in server.told if each[0] == "data") == len(body)
    assert client.of(h2.events.StreamEnded)


def test_trailers_end_a_request(name: str) -> None:
    server = Server(name)
    client = Client(server)
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, REQUEST)
    client.h2.send_headers(stream, [(b"x", b"y")], end_stream=True)
    client.exchange()
    assert ("end", stream) in server.told
    assert client.of(h2.events.StreamEnded)


def test_a_reset_is_told_and_later_responses_go_nowhere(name: str) -> None:
    server = Server(name, answer=None)
    client = Client(server)
    stream = client.ask()
    client.h2.reset_stream(stream)
    client.exchange()
    assert server.told[-1] == ("closed", stream)
    server._answer = b"late"
    server._respond(stream)
    client.exchange()
    assert client.of(h2.events.DataReceived) == []
    assert client.ask() > stream
    assert client.of(h2.events.StreamEnded)


def test_a_shutdown_in_two_steps_loses_no_request(name: str) -> None:
    server = Server(name, answer=None)
    client = Client(server)
    first = client.ask()
    server.engine.announce_shutdown()
    # Sent before the client has heard of it.
    second = client.h2.get_next_available_stream_id()
    client.h2.send_headers(second, REQUEST, end_stream=True)
    server.engine.receive(client.h2.data_to_send())
    assert server.count("request") == 2
    server.engine.shut_down()
    assert not server.engine.is_over
    server._answer = b"answer"
    for stream in (first, second):
        server._respond(stream)
    sent = server.engine.to_send()
    assert sent.count(b"answer") == 2
    assert server.engine.is_over


def test_nothing_begins_after_a_shutdown(name: str) -> None:
    server = Server(name)
    client = Client(server)
    client.ask()
    server.engine.shut_down()
    server.engine.to_send()
    client.h2.send_headers(client.h2.get_next_available_stream_id(), REQUEST, end_stream=True)
    server.engine.receive(client.h2.data_to_send())
    server.engine.to_send()
    assert server.count("request") == 1
    assert server.engine.is_over


def opened(server: Server) -> Server:
    """Open a connection by hand, to send frames that no client sends."""
    server.engine.receive(PREFACE + frame(SETTINGS, 0, 0, b""))
    server.engine.to_send()
    return server


def rapid_resets() -> Iterator[bytes]:
    head = block(REQUEST)
    for stream in range(1, 2**31, 2):
        yield frame(HEADERS, 4, stream, head) + frame(RST_STREAM, 0, stream, bytes(4))


def continuations() -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, block(REQUEST))
    while True:
        yield frame(CONTINUATION, 0, 1, block([(b"x", b"y")]))


def empty_data() -> Iterator[bytes]:
    yield frame(HEADERS, 4, 1, block(REQUEST))
    while True:
        yield frame(DATA, 0, 1, b"")


# What is sent without end (CVE-2023-44487, VU#421644, CVE-2019-9512 to 9518).
FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "rapid resets": rapid_resets,
    "CONTINUATION": continuations,
    "empty DATA": empty_data,
    "PING": lambda: iter(lambda: frame(PING, 0, 0, bytes(8)), None),
    "SETTINGS": lambda: iter(lambda: frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)), None),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_floods_end_the_connection(name: str, flood: str) -> None:
    server = opened(Server(name, limits=EngineLimits(2**18, 100)))
    frames = FLOODS[flood]()
    sent = answered = 0
    while not server.engine.is_over:
        server.engine.receive(b"".join(next(frames) for _ in range(100)))
        sent += 100
        answered += len(server.engine.to_send())
        assert sent < 100_000
    assert answered < 1_000_000
    # Work for requests is bounded, too.
    assert server.count("request") <= 2_000


def test_headers_that_unpack_to_too_much_are_refused(name: str) -> None:
    """An HPACK bomb: one header in the table, repeated by a byte each."""
    server = opened(Server(name, limits=EngineLimits(8192, 100)))
    large = b"\x40\x01x\x7f\x81\x1f" + b"v" * 4000  # 127 + 0x81 - 0x80 + 0x1f << 7 = 4,000 bytes, indexed
    head = block(REQUEST) + large + b"\xbe" * 15_000
    server.engine.receive(frame(HEADERS, 5, 1, head))
    assert server.count("request") == 0


def test_streams_beyond_the_limit_are_refused(name: str) -> None:
    server = opened(Server(name, answer=None, limits=EngineLimits(8192, 10)))
    for stream in range(1, 61, 2):
        server.engine.receive(frame(HEADERS, 4, stream, block(REQUEST)))
        server.engine.to_send()
    assert server.count("request") == 10


@given(st.data())
def test_any_bytes_are_survived(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["ngh2", "h2"]))
    server = opened(Server(name))
    frames = st.builds(
        frame,
        st.integers(0, 10),
        st.integers(0, 255),
        st.sampled_from([0, 1, 2, 3, 5, 2**31 - 1]),
        st.one_of(st.binary(max_size=40), st.just(block(REQUEST))),
    )
    for piece in data.draw(st.lists(st.one_of(frames, st.binary(max_size=20)), max_size=20)):
        server.engine.receive(piece)
        server.engine.to_send()


def test_the_engine_is_chosen_by_what_is_installed() -> None:
    assert http2.resolved("auto") == "ngh2"
    assert http2.resolved("h2") == "h2"
    with pytest.raises(UsageError, match="--http2_engine=h3: no such engine; expected auto, ngh2, h2"):
        http2.resolved("h3")
