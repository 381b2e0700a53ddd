"""HTTP/2 by `ngh2`, a binding of libnghttp2. The only module that uses it: its interface isn't stable yet."""

from collections.abc import Callable

import ngh2
from ngh2 import Setting

from tfship.serving.grpc.http2 import (
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    Allowance,
    EngineLimits,
    Headers,
    Http2Handler,
)

__all__ = ["Ngh2Engine"]

# Largest frame that a client may send: fewer frames for large bodies.
_FRAME_BYTES = 2**18


class Ngh2Engine:
    """An `Engine`."""

    def __init__(self, handler: Http2Handler, limits: EngineLimits) -> None:
        self._handler = handler
        self.has_begun = False
        # libnghttp2 counts what it can't answer, but not what it answers.
        self._glitches = Allowance(*limits.glitches)
        self._connection = ngh2.Connection(
            ngh2.Role.SERVER,
            ngh2.Configuration(
                stream_reset_rate_limit=limits.resets,
                glitch_rate_limit=limits.glitches,
                max_inbound_header_list_size=limits.most_header_bytes,
                # The name and value of the smallest header take 33 bytes by RFC 9113, 6.5.2.
                max_inbound_header_count=limits.most_header_bytes // 33,
                # A frame has at least 16 KiB but for the last one, unless the client attacks the server.
                max_continuations=limits.most_header_bytes // 2**14 + 8,
            ),
        )
        self._connection.initiate_connection(
            {
                Setting.MAX_CONCURRENT_STREAMS: limits.streams,
                Setting.INITIAL_WINDOW_SIZE: limits.window_bytes,
                Setting.MAX_FRAME_SIZE: _FRAME_BYTES,
                Setting.MAX_HEADER_LIST_SIZE: limits.header_bytes,
            }
        )
        self._connection.set_local_window_size(4 * limits.window_bytes)

    def receive(self, data: bytes) -> None:
        """See `Engine.receive`."""
        # After an error `is_over` is true, after a last frame with the reason.
        self._unless_over(self._connection.receive_data, data)
        self._tell()

    def to_send(self) -> bytes:
        """See `Engine.to_send`."""
        try:
            data = self._connection.data_to_send()
        except ngh2.NGH2Error:
            data = b""
        self._tell()
        return data

    def _tell(self) -> None:
        handler, events = self._handler, self._connection.events()
        self.has_begun = self.has_begun or bool(events)
        for event in events:
            if isinstance(event, ngh2.DataReceived):
                self._glitches.refill()
                handler.on_data(event.stream_id, event.data, ended=event.end_stream)
            elif isinstance(event, ngh2.RequestReceived):
                handler.on_request(event.stream_id, event.headers, ended=event.end_stream)
            elif isinstance(event, ngh2.StreamClosed):
                handler.on_closed(event.stream_id)
            elif isinstance(event, ngh2.TrailersReceived):
                handler.on_end(event.stream_id)
            elif isinstance(event, (ngh2.PingReceived, ngh2.SettingsReceived)) and not self._glitches.take():
                self._unless_over(self._connection.terminate_connection, ENHANCE_YOUR_CALM)

    def send_headers(self, stream: int, headers: Headers, *, end: bool = False) -> None:
        """See `Engine.send_headers`."""
        self._unless_over(self._connection.send_response, stream, headers, end_stream=end)

    def send_data(self, stream: int, data: bytes) -> None:
        """See `Engine.send_data`."""
        self._unless_over(self._connection.send_data, stream, data)

    def send_trailers(self, stream: int, headers: Headers) -> None:
        """See `Engine.send_trailers`."""
        self._unless_over(self._connection.send_trailers, stream, headers)

    def reset(self, stream: int, code: int) -> None:
        """See `Engine.reset`."""
        self._unless_over(self._connection.reset_stream, stream, code)

    def announce_shutdown(self) -> None:
        """See `Engine.announce_shutdown`."""
        self._unless_over(self._connection.send_shutdown_notice)

    def shut_down(self, code: int = NO_ERROR) -> None:
        """See `Engine.shut_down`."""
        self._unless_over(self._connection.send_goaway, code)

    @staticmethod
    def _unless_over(method: Callable[..., object], *arguments: object, **options: object) -> None:
        """Call a method of the connection; do nothing if the stream or the connection is over."""
        # `contextlib.suppress` takes six times as long, and a response needs three of these calls.
        try:  # noqa: SIM105
            method(*arguments, **options)
        except ngh2.NGH2Error:
            pass

    @property
    def is_over(self) -> bool:
        """See `Engine.is_over`."""
        try:
            return not self._connection.want_read and not self._connection.want_write
        except ngh2.NGH2Error:  # the client has abused the connection
            return True

    @property
    def queued_bytes(self) -> int:
        """See `Engine.queued_bytes`."""
        try:
            return self._connection.queued_body_size()
        except ngh2.NGH2Error:
            return 0
