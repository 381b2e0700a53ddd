"""A gRPC connection on the event loop: HTTP/2 streams become calls, and calls become responses."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from tfship.serving.grpc import http2
from tfship.serving.grpc.calls import MOST_QUEUED_BYTES, OK, GrpcCall, RequestHead, StreamingCall, UnaryCall
from tfship.serving.grpc.framing import trailers
from tfship.serving.grpc.http2 import NO_ERROR, EngineLimits, Headers
from tfship.serving.grpc.methods import Methods, Unary
from tfship.serving.inference.request_context import Observer
from tfship.serving.protos.status import Code, StatusError, internal_error
from tfship.serving.server.connections import Connections, WriteWatch
from tfship.serving.server.dispatch import Dispatcher
from tfship.serving.server.settings import Limits

__all__ = ["GrpcConnection", "GrpcService"]

log = logging.getLogger(__name__)

# Time between the announcement of a shutdown and the refusal of new requests: what was sent before the client has read
# the announcement has arrived.
_ANNOUNCED_SECONDS = 0.5


@dataclass(frozen=True)
class GrpcService:
    """What all gRPC connections of a process share.

    With `tells_timing`, responses have the trailing metadata `server-timing`. `send_bytes` is the size of the largest
    response. A connection is shut down after `age_seconds`.
    """

    methods: Methods
    dispatcher: Dispatcher
    observer: Observer
    limits: Limits
    connections: Connections
    engine: str
    tells_timing: bool = False
    send_bytes: int | None = None
    age_seconds: float | None = None


class GrpcConnection(asyncio.Protocol):
    """One connection."""

    def __init__(self, service: GrpcService) -> None:
        self.service = service
        self._limits = service.limits
        limits = EngineLimits(service.limits.header_bytes, service.limits.streams)
        self.engine = http2.engine(service.engine, self, limits)
        self.loop = asyncio.get_running_loop()
        self._calls: dict[int, GrpcCall] = {}
        # The headers of the last request, and what they say; bytes are an HTTP status.
        self._headers: Headers = ()
        self._head: RequestHead | bytes = b""
        # Streams without a complete request, the oldest first; and the new ones of this turn.
        self._arriving: dict[int, float] = {}
        self._begun: list[int] = []
        self._parked: deque[Callable[[], None]] = deque()
        self._to_reset: list[int] = []
        self._idle_timer: asyncio.TimerHandle | None = None
        self._arrival_timer: asyncio.TimerHandle | None = None
        self._last_used = self.loop.time()
        self._stopping = self._flushing = False

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        if not self.service.connections.add(self):
            self._transport.abort()
            return
        self._writes = WriteWatch(self.loop, self._transport, self._limits, lambda: self.engine.queued_bytes)
        self._idle_timer = self.loop.call_later(self._limits.request_seconds, self._check_idle)
        if self.service.age_seconds is not None:
            self.loop.call_later(self.service.age_seconds, self.shut_down)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """See `asyncio.Protocol`."""
        self.service.connections.discard(self)
        for timer in (self._idle_timer, self._arrival_timer):
            if timer:
                timer.cancel()
        if self._idle_timer:
            self._writes.lost()
        for stream in list(self._calls):
            self.on_closed(stream)
        self._parked.clear()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._flushing = True  # once, at the end
        self.engine.receive(data)
        self._flushing = False
        self._flush()
        if self._begun:
            # Those that have not arrived with their headers.
            for stream in self._begun:
                if stream in self._arriving:
                    self._calls[stream].begin()
            self._begun.clear()
        if self._arriving and self._arrival_timer is None:
            self._arrival_timer = self.loop.call_later(self._pause, self._check_arrivals)

    def eof_received(self) -> None:
        """See `asyncio.Protocol`: the connection is closed then."""

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`: a client that doesn't read isn't read from either."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport.resume_reading()
        self._writes.update()

    # Called when the server stops.

    def shut_down(self) -> None:
        """Accept no new requests, and close the connection after the running ones."""
        if not self._stopping:
            self._stopping = True
            self.engine.announce_shutdown()
            self._flush()
            self.loop.call_later(_ANNOUNCED_SECONDS, self._refuse_new)

    def _refuse_new(self) -> None:
        for call in list(self._calls.values()):
            if isinstance(call, StreamingCall):
                call.finish(Code.UNAVAILABLE, "the server is stopping")  # it wouldn't end by itself
        self.engine.shut_down()
        self._flush()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    # Called by the engine.

    def on_request(self, stream: int, headers: Headers, *, ended: bool) -> None:
        """See `Http2Handler.on_request`."""
        self._last_used = self.loop.time()
        # Most clients send the same headers each time.
        if headers != self._headers:
            try:
                self._head = RequestHead.of(headers, self.service.methods, self._limits.header_bytes)
            except StatusError as error:
                self.refuse(stream, error, ended=ended)
                return
            self._headers = headers
        head = self._head
        if isinstance(head, bytes):
            self.engine.send_headers(stream, [(b":status", head)], end=True)
            self.stop_upload(stream, ended=ended)
            return
        if isinstance(head.method, Unary):
            if head.method.place != "loop":
                try:
                    self.service.dispatcher.check_room()
                except StatusError as error:
                    self.refuse(stream, error, ended=ended)
                    return
            self._calls[stream] = UnaryCall(self, stream, head, head.method)
        else:
            self._calls[stream] = StreamingCall(self, stream, head, head.method)
        if ended:
            self.on_end(stream)
        else:
            self._arriving[stream] = self._last_used
            self._begun.append(stream)

    def on_data(self, stream: int, data: bytes, *, ended: bool) -> None:
        """See `Http2Handler.on_data`."""
        call = self._calls.get(stream)
        if call is None:
            return
        try:
            call.receive(data)
            if ended:
                self._arriving.pop(stream, None)
                call.end()
            elif call.waits_for_client:
                self._arriving[stream] = self._arriving.get(stream, self.loop.time())
        except StatusError as error:
            self.refuse(stream, error, ended=ended)
        except Exception:  # a bug must give a response, not a broken connection
            log.exception("unexpected error in a gRPC call")
            self.refuse(stream, internal_error(), ended=ended)

    def has_arrived(self, stream: int) -> None:
        """Note that nothing of the client is missing at the moment."""
        self._arriving.pop(stream, None)

    def on_end(self, stream: int) -> None:
        """See `Http2Handler.on_end`."""
        self.on_data(stream, b"", ended=True)

    def on_closed(self, stream: int) -> None:
        """See `Http2Handler.on_closed`."""
        self._arriving.pop(stream, None)
        if call := self._calls.pop(stream, None):
            call.close()
            self._last_used = self.loop.time()

    def refuse(self, stream: int, error: StatusError, *, ended: bool) -> None:
        """End a call with an error. Without `ended`, the client may still be sending."""
        self.finish(stream, error.code, error.message, ended=ended)

    def finish(self, stream: int, code: Code, message: str, *, ended: bool) -> None:
        """End a call with a status. Without `ended`, the client may still be sending."""
        call = self._calls.get(stream)
        if call and call.has_responded:
            self.engine.send_trailers(stream, trailers(code, message))
        else:
            extra = ((b"grpc-accept-encoding", b"identity,gzip"),) if code is Code.UNIMPLEMENTED else ()
            self.engine.send_headers(stream, [*OK, *extra, *trailers(code, message)], end=True)
        self.stop_upload(stream, ended=ended)

    def stop_upload(self, stream: int, *, ended: bool) -> None:
        """Tell the client, after the response, that the rest of its request isn't needed (RFC 9113, 8.1)."""
        self._arriving.pop(stream, None)
        if not ended:
            self._to_reset.append(stream)
        if call := self._calls.pop(stream, None):
            call.close()

    # Bytes and time.

    def flush_soon(self) -> None:
        """Send what there is to send, together with what others will have to send in this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self) -> None:
        """Send what there is to send, and begin calls that waited for the client to read."""
        transport, engine = self._transport, self.engine
        while not transport.is_closing():
            if data := engine.to_send():
                self._writes.write(data)
            if self._to_reset:
                for stream in self._to_reset:
                    engine.reset(stream, NO_ERROR)
                self._to_reset.clear()
            elif self._parked and engine.queued_bytes < MOST_QUEUED_BYTES:
                self._parked.popleft()()
            else:
                break
        if engine.is_over and not transport.is_closing():
            self._writes.close()
        self._writes.update()

    def when_read(self, start: Callable[[], None]) -> None:
        """Call `start` as soon as the client has read enough of its responses."""
        if self.engine.queued_bytes < MOST_QUEUED_BYTES:
            start()
        else:
            self._parked.append(start)

    def _check_arrivals(self) -> None:
        """Refuse requests that arrive too slowly."""
        self._arrival_timer = None
        now, limits = self.loop.time(), self._limits
        for stream, since in list(self._arriving.items()):
            allowed = limits.request_seconds + self._calls[stream].received / limits.slowest_bytes_per_second
            if now - since > allowed:
                message = f"the request has not arrived within {allowed:.0f} s"
                self.refuse(stream, StatusError(Code.CANCELLED, message), ended=False)
        if self._arriving:
            self._arrival_timer = self.loop.call_later(self._pause, self._check_arrivals)
        self._flush()

    @property
    def _pause(self) -> float:
        return min(1.0, self._limits.request_seconds / 4)

    def _check_idle(self) -> None:
        """Close the connection if it isn't used, or if the client hasn't spoken HTTP/2 yet."""
        left = self._last_used + self._limits.idle_seconds - self.loop.time()
        if not self.engine.has_begun:
            self._transport.abort()
            return
        if left <= 0 and not self._calls:
            self.engine.shut_down()
            self._flush()
        self._idle_timer = self.loop.call_later(max(left, 1.0), self._check_idle)
