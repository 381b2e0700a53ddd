"""HTTP/2 by `h2`, which is pure Python: for systems without a wheel of `ngh2`. Slower, with the same behaviour."""

from collections import deque

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame

from tfship.serving.grpc.http2 import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    Allowance,
    EngineLimits,
    Headers,
    Http2Handler,
)

__all__ = ["H2Engine"]

_PREFACE_BYTES, _FRAME_HEADER_BYTES, _GOAWAY = 24, 9, 7
# A stream number that no request has: what a GOAWAY names that only announces a shutdown.
_LAST_STREAM = 2**31 - 1


class H2Engine:
    """An `Engine`."""

    def __init__(self, handler: Http2Handler, limits: EngineLimits) -> None:
        self._handler = handler
        self.has_begun = False
        self._resets, self._glitches = Allowance(*limits.resets), Allowance(*limits.glitches)
        connection = self._connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None)
        )
        connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.streams,
                SettingCodes.INITIAL_WINDOW_SIZE: limits.window_bytes,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_bytes,
            },
        )
        connection.max_inbound_frame_size = connection.local_settings.max_frame_size
        connection.decoder.max_header_list_size = limits.most_header_bytes
        connection.initiate_connection()
        connection.increment_flow_control_window(4 * limits.window_bytes)
        # Bodies and trailers that wait for the client's flow control, by stream.
        self._waiting: dict[int, deque[memoryview | Headers]] = {}
        self._queued = 0
        self._open: set[int] = set()
        self._seen = 0  # the last request
        # h2's own method to send a GOAWAY would end the connection at once.
        self._goaways = b""
        self._filter = _GoawayFilter()
        self._refuses = self._ended = False

    def receive(self, data: bytes) -> None:
        """See `Engine.receive`."""
        if self._ended:
            return
        data, goaways = self._filter.feed(data)
        try:
            for event in self._connection.receive_data(data):
                self.has_begun = True
                self._handle(event)
            for _ in range(goaways):
                self._refuses = True
                self._count(self._glitches)
        except (h2.exceptions.ProtocolError, ValueError, IndexError):
            # h2 has queued a GOAWAY with the reason, unless the frame couldn't be parsed at all.
            self._ended = True
        for stream in list(self._waiting):
            self._continue(stream)

    def _handle(self, event: h2.events.Event) -> None:
        handler = self._handler
        if isinstance(event, h2.events.RequestReceived):
            if self._refuses:
                return
            self._open.add(event.stream_id)
            self._seen = event.stream_id
            handler.on_request(event.stream_id, event.headers, ended=event.stream_ended is not None)
        elif isinstance(event, h2.events.DataReceived):
            if event.flow_controlled_length:
                self._glitches.refill()
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif event.stream_ended is None:
                self._count(self._glitches)
            if event.stream_id in self._open:
                handler.on_data(event.stream_id, event.data, ended=event.stream_ended is not None)
        elif isinstance(event, h2.events.TrailersReceived):
            if event.stream_id in self._open:
                handler.on_end(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self._count(self._resets)
            self._close(event.stream_id)
        elif isinstance(
            event, (h2.events.PingReceived, h2.events.RemoteSettingsChanged, h2.events.PriorityUpdated)
        ):
            self._count(self._glitches)

    def _count(self, allowance: Allowance) -> None:
        if not self._ended and not allowance.take():
            self.shut_down(ENHANCE_YOUR_CALM)
            self._ended = True

    def to_send(self) -> bytes:
        """See `Engine.to_send`."""
        goaways, self._goaways = self._goaways, b""
        return self._connection.data_to_send() + goaways

    def send_headers(self, stream: int, headers: Headers, *, end: bool = False) -> None:
        """See `Engine.send_headers`."""
        if stream in self._open and not self._ended:
            self._connection.send_headers(stream, headers, end_stream=end)
            if end:
                self._close(stream)

    def send_data(self, stream: int, data: bytes) -> None:
        """See `Engine.send_data`."""
        if stream in self._open:
            self._queued += len(data)
            self._waiting.setdefault(stream, deque()).append(memoryview(data))
            self._continue(stream)

    def send_trailers(self, stream: int, headers: Headers) -> None:
        """See `Engine.send_trailers`."""
        if stream in self._open:
            self._waiting.setdefault(stream, deque()).append(headers)
            self._continue(stream)

    def _continue(self, stream: int) -> None:
        """Send as much of what waits as flow control allows."""
        connection, waiting = self._connection, self._waiting.get(stream)
        if self._ended:
            return
        while waiting:
            first = waiting[0]
            if not isinstance(first, memoryview):
                connection.send_headers(stream, first, end_stream=True)
                self._close(stream)
                return
            room = min(connection.local_flow_control_window(stream), connection.max_outbound_frame_size)
            if room <= 0 < len(first):
                return
            connection.send_data(stream, bytes(first[:room]))
            self._queued -= min(room, len(first))
            if room < len(first):
                waiting[0] = first[room:]
            else:
                waiting.popleft()
        self._waiting.pop(stream, None)

    def reset(self, stream: int, code: int) -> None:
        """See `Engine.reset`."""
        if stream in self._open and not self._ended:
            self._connection.reset_stream(stream, code)
            self._close(stream)

    def _close(self, stream: int) -> None:
        if stream in self._open:
            self._open.discard(stream)
            self._queued -= sum(
                len(each) for each in self._waiting.pop(stream, ()) if isinstance(each, memoryview)
            )
            self._handler.on_closed(stream)

    def announce_shutdown(self) -> None:
        """See `Engine.announce_shutdown`."""
        self._go_away(_LAST_STREAM)

    def shut_down(self, code: int = NO_ERROR) -> None:
        """See `Engine.shut_down`."""
        if not self._refuses:
            self._refuses = True
            for stream in [each for each in self._open if code]:
                self._connection.reset_stream(stream, CANCEL)
                self._close(stream)
            self._go_away(self._seen, code)

    def _go_away(self, last_stream: int, code: int = NO_ERROR) -> None:
        self._goaways += GoAwayFrame(last_stream_id=last_stream, error_code=code).serialize()

    @property
    def is_over(self) -> bool:
        """See `Engine.is_over`."""
        return self._ended or (self._refuses and not self._open)

    @property
    def queued_bytes(self) -> int:
        """See `Engine.queued_bytes`."""
        return self._queued


class _GoawayFilter:
    """Removes GOAWAY frames from a client's bytes.

    h2 would take them for the connection's end, but responses may still follow (RFC 9113, 6.8).
    """

    def __init__(self) -> None:
        self._header = b""
        # Bytes of the preface or the current frame that haven't arrived, and whether they are passed on.
        self._left, self._passes = _PREFACE_BYTES, True

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Return the bytes without GOAWAY frames, and the number of these frames."""
        parts: list[bytes] = []
        count = position = 0
        while position < len(data):
            if self._left:
                piece = data[position : position + self._left]
                self._left -= len(piece)
                if self._passes:
                    parts.append(piece)
            else:
                piece = data[position : position + _FRAME_HEADER_BYTES - len(self._header)]
                self._header += piece
                if len(self._header) == _FRAME_HEADER_BYTES:
                    header, self._header = self._header, b""
                    self._left = int.from_bytes(header[:3], "big")
                    # h2 refuses those that are too large, or belong to a stream.
                    self._passes = header[3] != _GOAWAY or self._left > 2**14 or any(header[5:])
                    if self._passes:
                        parts.append(header)
                    else:
                        count += 1
            position += len(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts), count
