"""How a case is sent, and which answers it may have."""

import contextlib
import itertools
import json
import re
import socket
import time
from collections.abc import Iterator, Sequence

import grpc
import httptools

from fuzzing.cases import GRPC, REST, Case

__all__ = ["Sender"]

# An answer that takes longer is none.
_SECONDS = 30.0
_STATUSES = {200, 400, 401, 403, 404, 405, 408, 409, 413, 414, 429, 431, 499, 501, 503, 504}
# What shows an exception that nobody expected.
_BUGS = {"UNKNOWN", "INTERNAL", "DATA_LOSS", "UNAVAILABLE", "CANCELLED"}


class Sender:
    """Sends cases to a server's two ports, gRPC calls by `channels` in turn."""

    def __init__(self, rest_port: int, grpc_port: int, channels: Sequence[grpc.Channel]) -> None:
        self.rest_port, self.grpc_port = rest_port, grpc_port
        self._channels = itertools.cycle(channels)

    def send(self, case: Case) -> str:
        """Send a case and return what came of it; raise AssertionError if that may not be."""
        if case.to == REST:
            return self._rest(case)
        if case.to == GRPC:
            return self._bytes(case)
        return self._call(case)

    def _rest(self, case: Case) -> str:
        expected = _Expected(case.data)
        with socket.create_connection(("127.0.0.1", self.rest_port), _SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for start, end in zip((0, *case.cuts), (*case.cuts, len(case.data)), strict=True):
                    connection.sendall(case.data[start:end])
                if not expected.broken and not expected.methods:
                    return "incomplete"
                statuses = list(_answers(connection, expected))
            except (ConnectionResetError, BrokenPipeError):
                assert _goes_on(case.data), "the connection was reset"
                return "reset"
        assert statuses, "no answer"
        assert set(statuses) <= _STATUSES, f"{statuses}"
        return " ".join(map(str, sorted(set(statuses))))

    def _bytes(self, case: Case) -> str:
        with socket.create_connection(("127.0.0.1", self.grpc_port), _SECONDS) as connection:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                connection.sendall(case.data)
                connection.shutdown(socket.SHUT_WR)
                # It says something, or closes: at the latest because we have.
                connection.recv(1)
        return "sent"

    def _call(self, case: Case) -> str:
        channel = next(self._channels)
        begin = time.monotonic()
        try:
            channel.unary_unary(case.to, None, None)(case.data, timeout=_SECONDS)
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
            assert code not in _BUGS, f"{code}: {details}"
            assert time.monotonic() - begin < _SECONDS, f"no answer: {code}"
            # An error that doesn't fit into a client's limits reaches nobody.
            assert "metadata size exceeds" not in details, details[:200]
            return str(code)
        return "OK"


class _Expected:
    """What a client must get for what it sends, as the server's own HTTP parser sees that.

    `methods` are those of the requests that are whole, `begun` those of all, as far as they are known; `broken` says that
    something in it isn't HTTP: the server refuses it and closes the connection; `ended` that what follows the
    connection's last request may reset it.
    """

    def __init__(self, data: bytes) -> None:
        self.methods: list[str] = []
        self.begun: list[str] = []
        self.broken = self.ended = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        # The server doesn't grant the wish for another protocol: it goes on as if it weren't there.
        self.feed(re.sub(rb"(?i)\nupgrade:", b"\nx-grade:", data))

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.broken = self.ended = True
        except httptools.HttpParserError as error:
            self.broken = True
            if len(self.begun) > len(self.methods) and not isinstance(
                error, httptools.HttpParserInvalidMethodError
            ):
                self.begun[-1] = self._parser.get_method().decode("latin-1")

    def on_message_begin(self) -> None:
        self.begun.append("")

    def on_url(self, _: bytes) -> None:
        self.begun[-1] = self._parser.get_method().decode("latin-1")

    def on_message_complete(self) -> None:
        self.methods.append(self.begun[-1])
        self.ended |= not self._parser.should_keep_alive()


def _goes_on(data: bytes) -> bool:
    """Tell whether something follows a connection's last request; this parser swallows it."""
    expected = _Expected(b"")
    for at in range(len(data)):
        expected.feed(data[at : at + 1])
        if expected.ended:
            return at + 1 < len(data)
    return False


def _answers(connection: socket.socket, expected: _Expected) -> Iterator[int]:
    """Yield the statuses of all answers until they are as many as the requests, or the server closes."""
    content, count = b"", 0
    while count < len(expected.methods) or expected.broken:
        while (end := content.find(b"\r\n\r\n")) < 0:
            piece = connection.recv(65536)
            if not piece:
                assert not content, f"an answer ends within its headers: {content!r}"
                return
            content += piece
        head, content = content[:end], content[end + 4 :]
        found = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        assert found, f"not an HTTP answer: {head!r}"
        status = int(found[1])
        if status == 100:
            continue
        length = re.search(rb"\r\ncontent-length: (\d+)(\r\n|$)", head)
        assert length, f"no length: {head!r}"
        size = 0 if expected.begun[count : count + 1] == ["HEAD"] else int(length[1])
        while len(content) < size:
            piece = connection.recv(65536)
            assert piece, f"an answer ends within its body: {head!r}"
            content += piece
        if b"application/json" in head and b"content-encoding" not in head and size:
            json.loads(content[:size])
        content = content[size:]
        count += 1
        yield status
