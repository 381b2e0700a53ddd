"""Calls of a gRPC connection: unary ones, and those with several messages."""

import asyncio
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tfship.serving.grpc.framing import ENCODINGS, MessageReader, frame, seconds, trailers
from tfship.serving.grpc.http2 import CANCEL, Headers
from tfship.serving.grpc.methods import Answer, Method, Methods, ServerStream, Streaming, Unary
from tfship.serving.inference.request_context import Call
from tfship.serving.protos.status import Code, StatusError

if TYPE_CHECKING:
    from tfship.serving.grpc.connection import GrpcConnection
    from tfship.serving.server.dispatch import Waiting

__all__ = ["MOST_QUEUED_BYTES", "OK", "GrpcCall", "RequestHead", "StreamingCall", "UnaryCall"]

# A client that hasn't read this much of its responses has to wait for the next ones.
MOST_QUEUED_BYTES = 16 * 2**20
OK = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_OK_GZIP = (*OK, (b"grpc-encoding", b"gzip"))
_TRAILERS = trailers(Code.OK)
# Requests up to this size are parsed on the event loop, which takes some 100 µs.
_PARSED_HERE_BYTES = 2**20


class RequestHead(NamedTuple):
    """What a request's headers say. `seconds` is the time until the deadline."""

    method: Method
    encoding: bytes
    answers_gzip: bool
    seconds: float | None

    @classmethod
    def of(cls, headers: Headers, methods: Methods, most_bytes: int) -> "RequestHead | bytes":
        """Return it, or the HTTP status of a request that isn't gRPC. Raises StatusError for an invalid one."""
        fields = dict(headers)
        if fields.get(b":method") != b"POST":
            return b"405"
        if not fields.get(b"content-type", b"").startswith(b"application/grpc"):
            return b"415"
        size = sum(len(name) + len(value) + 32 for name, value in headers)
        if size > most_bytes:
            message = f"received metadata size exceeds the limit ({size} vs. {most_bytes})"
            raise StatusError(Code.RESOURCE_EXHAUSTED, message)
        method = methods.get(fields.get(b":path", b""))
        if method is None:
            raise StatusError(Code.UNIMPLEMENTED, "")
        encoding = fields.get(b"grpc-encoding", b"identity")
        if encoding not in ENCODINGS:
            raise StatusError(
                Code.UNIMPLEMENTED,
                f"grpc-encoding {encoding.decode('latin-1')[:100]} is not supported; expected identity or gzip",
            )
        timeout = fields.get(b"grpc-timeout")
        return cls(
            method,
            encoding,
            answers_gzip=encoding == b"gzip" and b"gzip" in fields.get(b"grpc-accept-encoding", b""),
            seconds=None if timeout is None else seconds(timeout),
        )


class GrpcCall:
    """A call in progress."""

    def __init__(self, connection: "GrpcConnection", stream: int, head: RequestHead) -> None:
        self._connection = connection
        self._stream = stream
        self._reader = MessageReader(head.encoding, connection.service.limits.body_bytes)
        self._deadline = None if head.seconds is None else time.monotonic() + head.seconds
        self._closed = False
        self._expiry: asyncio.TimerHandle | None = None
        self.received = 0
        self.has_responded = False

    @property
    def waits_for_client(self) -> bool:
        """Whether the client has to send something before the server can go on."""
        return True

    def begin(self) -> None:
        """Let the call end at its deadline: it isn't answered at once."""
        if self._deadline is not None and self._expiry is None:
            left = max(0.0, self._deadline - time.monotonic())
            self._expiry = self._connection.loop.call_later(left, self._expire)

    def receive(self, data: bytes) -> None:
        """Handle the next bytes. Raises StatusError."""
        raise NotImplementedError

    def end(self) -> None:
        """Handle the end of the request. Raises StatusError."""
        raise NotImplementedError

    def close(self) -> None:
        """Forget the call: it has ended."""
        self._closed = True
        if self._expiry:
            self._expiry.cancel()

    def _expire(self) -> None:
        connection = self._connection
        error = StatusError(Code.DEADLINE_EXCEEDED, "Deadline exceeded")
        connection.refuse(self._stream, error, ended=False)
        connection.flush_soon()


class UnaryCall(GrpcCall):
    """A call with one request and one response."""

    def __init__(self, connection: "GrpcConnection", stream: int, head: RequestHead, method: Unary) -> None:
        super().__init__(connection, stream, head)
        self._method = method
        self._gzip = head.answers_gzip
        self._request: bytes | None = None
        self._waiting: Waiting | None = None

    def close(self) -> None:
        """See `GrpcCall.close`."""
        super().close()
        if self._waiting:
            self._waiting.cancel()

    def receive(self, data: bytes) -> None:
        """See `GrpcCall.receive`."""
        self.received += len(data)
        for message in self._reader.feed(data):
            if self._request is not None:
                raise StatusError(Code.UNIMPLEMENTED, "several messages received; expected one")
            self._request = message

    def end(self) -> None:
        """See `GrpcCall.end`."""
        if self._reader.is_partial:
            raise StatusError(Code.INTERNAL, "the request ended within a message")
        if self._request is None:
            raise StatusError(Code.UNIMPLEMENTED, "no message received; expected one")
        self._call = Call(self._method.api, "GRPC", received=len(self._request), deadline=self._deadline)
        self._connection.when_read(self._start)

    def _start(self) -> None:
        data, method = self._request, self._method
        if self._closed or data is None:
            return
        self._request = None
        service = self._connection.service
        place, kind = method.place, None
        if len(data) <= _PARSED_HERE_BYTES:
            try:
                request = method.read(data)
            except StatusError as error:
                self._work = functools.partial(method.refuse, error, self._call, service.observer)
                place = "loop"
            else:
                kind = (method.api, method.kind(request))
                self._work = functools.partial(method.answer, request, self._call, service.observer)
        else:
            self._work = functools.partial(method.read_and_answer, data, self._call, service.observer)
            place = "threads" if place == "either" else place
        self._waiting = service.dispatcher.run(place, kind, len(data), self._answer, self._respond)
        if not self.has_responded and not self._closed:
            self.begin()  # it runs in a thread, or waits for its turn

    def _answer(self) -> Answer:
        return Answer(Code.CANCELLED) if self._closed else self._work()

    def _respond(self, answer: Answer) -> None:
        if self._closed:
            return
        connection, stream, content = self._connection, self._stream, answer.content
        engine, service = connection.engine, connection.service
        if service.send_bytes is not None and len(content) > service.send_bytes:
            message = f"Sent message larger than max ({len(content)} vs. {service.send_bytes})"
            answer = Answer(Code.RESOURCE_EXHAUSTED, message)
        if answer.code is Code.OK:
            self.has_responded = True
            engine.send_headers(stream, _OK_GZIP if self._gzip else OK)
            engine.send_data(stream, frame(content, gzip=self._gzip))
            timing = [(b"server-timing", self._call.timing().encode())] if service.tells_timing else []
            engine.send_trailers(stream, [*_TRAILERS, *timing] if timing else _TRAILERS)
        else:
            connection.finish(stream, answer.code, answer.message, ended=True)
        connection.flush_soon()


class StreamingCall(GrpcCall):
    """A call of a `Streaming` method; also its `ServerStream`."""

    def __init__(
        self,
        connection: "GrpcConnection",
        stream: int,
        head: RequestHead,
        method: Callable[[ServerStream], Streaming],
    ) -> None:
        super().__init__(connection, stream, head)
        self._handler = method(self)
        self._heard = self._ended = False

    @property
    def waits_for_client(self) -> bool:
        """See `GrpcCall.waits_for_client`."""
        return not self._heard or self._reader.is_partial

    def receive(self, data: bytes) -> None:
        """See `GrpcCall.receive`."""
        self.received += len(data)
        for message in self._reader.feed(data):
            self._heard = True
            self._connection.has_arrived(self._stream)
            if not self._closed:
                self._handler.on_message(message)

    def end(self) -> None:
        """See `GrpcCall.end`."""
        self._ended = True
        if self._reader.is_partial:
            raise StatusError(Code.INTERNAL, "the requests ended within a message")
        self._handler.on_end()

    def close(self) -> None:
        """See `GrpcCall.close`."""
        super().close()
        self._handler.on_closed()

    def send(self, message: bytes) -> None:
        """See `ServerStream.send`."""
        if self._closed:
            return
        connection = self._connection
        if connection.engine.queued_bytes > MOST_QUEUED_BYTES:
            connection.engine.reset(self._stream, CANCEL)  # nobody reads
            return
        if not self.has_responded:
            self.has_responded = True
            connection.engine.send_headers(self._stream, OK)
        connection.engine.send_data(self._stream, frame(message))
        connection.flush_soon()

    def finish(self, code: Code, message: str = "") -> None:
        """See `ServerStream.finish`."""
        if self._closed:
            return
        self._connection.finish(self._stream, code, message, ended=self._ended)
        self._connection.flush_soon()
