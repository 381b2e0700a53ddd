"""HTTP/1.1 on the event loop: bytes become requests, one at a time and in order, and responses become bytes."""

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol, cast

import httptools

from tfship.serving.http.messages import HttpRequest, HttpResponse, page
from tfship.serving.server.connections import Connections, WriteWatch
from tfship.serving.server.settings import Limits

__all__ = ["Application", "HttpConnection"]

# At shutdown, the time that an idle connection stays open for a request that may be on its way.
_SHUTDOWN_IDLE_SECONDS = 1.0
# Time for which the rest of a request is read after its response was sent; and for the client's end of a TLS session.
_LINGER_SECONDS = 2.0
# Requests that have arrived before the response to the one before them; then the client has to wait.
_MOST_WAITING = 32

_STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n" for each in HTTPStatus}


class Application(Protocol):
    """What answers the requests. Used by the event loop's thread only."""

    def refusal(self, request: HttpRequest) -> HttpResponse | None:
        """Return the response to a request that needs no body, because of its head, or None to read the body."""

    def too_large(self) -> HttpResponse:
        """Return the response to a request whose body is larger than the limit."""

    def respond(self, request: HttpRequest, done: Callable[[HttpResponse], None]) -> None:
        """Answer a complete request: call `done` once, now or later."""


class HttpConnection(asyncio.Protocol):
    """One connection, within `limits`.

    They set minimum speeds for sending a request and for reading its response, and the size of headers and bodies. A
    client that is still sending when it is refused gets the response, too: a connection that is closed while data
    arrive is reset, and the response may be lost.
    """

    def __init__(self, application: Application, limits: Limits, connections: Connections) -> None:
        self._application = application
        self._limits = limits
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        # The request that is arriving, its pieces, and those that wait for their turn.
        self._arriving: HttpRequest | None = None
        self._method = b""
        self._pieces: list[bytes] = []
        self._size = 0
        self._refusal: HttpResponse | None = None
        self._began: float | None = None
        self._waiting: deque[tuple[HttpRequest, HttpResponse | None]] = deque()
        self._answering: HttpRequest | None = None
        # Bytes since the last complete header line, and bytes of the headers.
        self._unparsed = self._header_bytes = 0
        self._paused = self._blocked = self._expects = self._ending = self._stopping = False
        # Called after the last response.
        self._last_word: Callable[[], None] | None = None
        self._last_used = self._loop.time()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._arrival_timer: asyncio.TimerHandle | None = None

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        self._writes = WriteWatch(self._loop, self._transport, self._limits)
        if not self._connections.add(self):
            self._ending = True
            self._write(page(503), is_head=False, keep=False)
            self._transport.close()
            return
        self._idle_timer = self._loop.call_later(self._limits.idle_seconds, self._check_idle)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """See `asyncio.Protocol`."""
        self._connections.discard(self)
        self._writes.lost()
        for timer in (self._idle_timer, self._arrival_timer):
            if timer:
                timer.cancel()
        if self._answering:
            self._answering.is_abandoned = True
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._ending:
            return
        self._unparsed += len(data)
        while data:
            data = self._parse(data)
        if self._unparsed > self._limits.header_bytes and not self._ending:
            # The parser keeps an incomplete header line.
            self._end_with(page(431))
        if self._refusal and not self._ending:
            self._end_with(self._refusal)
        if (
            self._expects
            and self._arriving
            and not self._ending
            and not self._answering
            and not self._waiting
        ):
            # Only now: a client that hasn't waited has sent its body with the headers.
            self._expects = False
            self._writes.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._began is None:
            self._stop_arrival_timer()
        elif self._arrival_timer is None and not self._ending:
            self._arrival_timer = self._loop.call_later(self._limits.request_seconds, self._check_arrival)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`: responses may still follow."""
        responds = bool(self._answering or self._waiting)
        self._ending = self._ending or responds
        return responds and self._transport.can_write_eof()  # TLS can't be open in one direction

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`: further requests wait until the client reads."""
        self._blocked = True

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._blocked = False
        self._writes.update()
        self._next()

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._began = self._loop.time()
        self._stop_arrival_timer()  # that of the request before
        self._method = self._url = b""
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._pieces, self._size = [], 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._method = self._parser.get_method()
        self._count_header(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; of several with one name, the first counts."""
        self._count_header(len(name) + len(value) + 4)
        self._headers.setdefault(name.lower().decode("latin-1"), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        """Decide whether the body is needed."""
        self._header_bytes = self._unparsed = 0
        parser = self._parser
        if parser.should_upgrade():
            return
        self._arriving = request = HttpRequest.of(
            self._method, self._url, self._headers, parser.get_http_version()
        )
        request.keeps_connection = parser.should_keep_alive() and not self._stopping
        refusal = self._application.refusal(request)
        if refusal is None and request.declared_size > self._limits.body_bytes:
            refusal = self._application.too_large()
        self._refusal = refusal
        self._expects = request.is_1_1 and request.header("expect").lower() == "100-continue"

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._unparsed = 0
        self._expects = False
        self._size += len(body)
        if self._size > self._limits.body_bytes:
            self._refusal = self._refusal or self._application.too_large()
        if self._refusal is None:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Answer the request, after those before it."""
        self._unparsed = 0
        if self._arriving is None:
            return  # a request with the header Upgrade: see `_parse`
        self._began = None
        request, refusal = self._arriving, self._refusal
        self._arriving = self._refusal = None
        pieces = self._pieces
        request.body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        if self._ending:
            return
        request.arrived = time.monotonic()
        self._waiting.append((request, refusal))
        if not request.keeps_connection:
            self._ending = True  # whatever follows isn't a request
        if self._answering is None:
            self._next()
        elif len(self._waiting) >= _MOST_WAITING and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _parse(self, data: bytes) -> bytes:
        """Parse bytes; return those that another parser has to begin with."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The server ignores the header Upgrade (RFC 9110, 7.8), but the parser stops before the body. A new
            # parser gets the request without that header.
            self._parser = httptools.HttpRequestParser(self)
            if self._method != b"CONNECT":
                return self._head_without_upgrade() + data[upgrade.args[0] :]
            self._end_with(page(501))
        except httptools.HttpParserInvalidMethodError:
            self._end_with(page(501))
        except httptools.HttpParserError:
            if self._began is not None:
                self._method = self._parser.get_method()  # it has arrived, but not the target
            self._end_with(page(431 if self._header_bytes > self._limits.header_bytes else 400))
        return b""

    def _head_without_upgrade(self) -> bytes:
        headers = {**self._headers}
        del headers["upgrade"]
        closes = "close" in headers.pop("connection", "").lower()
        lines = [f"{name}: {value}" for name, value in headers.items()]
        lines += ["connection: close"] if closes else []
        return b"\r\n".join([self._method + b" " + self._url + b" HTTP/1.1", *map(_latin, lines), b"", b""])

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        self._unparsed = 0
        if self._header_bytes > self._limits.header_bytes:
            raise ValueError("headers too large")  # becomes an HttpParserError

    # Responses.

    def _next(self) -> None:
        """Answer the next request."""
        while self._waiting and not self._answering and not self._blocked:
            request, refusal = self._waiting.popleft()
            self._answering = request
            if refusal:
                self._done(request, refusal)
            else:
                self._application.respond(request, functools.partial(self._done, request))
        if self._paused and len(self._waiting) < _MOST_WAITING // 2:
            self._paused = False
            self._transport.resume_reading()

    def _done(self, request: HttpRequest, response: HttpResponse) -> None:
        """Send the response to the request that is being answered."""
        self._answering = None
        if request.is_abandoned or self._transport.is_closing():
            return
        self._last_used = self._loop.time()
        keep = request.keeps_connection and not (self._stopping and not self._waiting)
        self._write(response, is_head=request.method == "HEAD", keep=keep, tells_keep=not request.is_1_1)
        if self._waiting:
            # Not at once: a client could keep the loop busy with the requests of one connection.
            self._loop.call_soon(self._next)
        elif self._last_word:
            self._last_word()
        elif not keep or self._ending:
            self._close(has_read=self._began is None)

    def _write(self, response: HttpResponse, *, is_head: bool, keep: bool, tells_keep: bool = False) -> None:
        """Send a response, without its body to HEAD; `tells_keep`: also that the connection is kept, if it is."""
        content = response.content
        connection = ""
        if not keep:
            connection = "connection: close\r\n"
        elif tells_keep:
            connection = "connection: keep-alive\r\n"
        more = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
        line = _STATUS_LINES.get(response.status, f"HTTP/1.1 {response.status} \r\n")
        head = (
            f"{line}date: {_date()}\r\ncontent-type: {response.media_type}\r\n"
            f"content-length: {len(content)}\r\n{more}{connection}\r\n"
        ).encode("latin-1")
        self._writes.write(head if is_head else head + content)
        self._writes.update()

    # Ends.

    def _end_with(self, response: HttpResponse) -> None:
        """Send an error for a request that can't be read to its end, after the responses before it; then close."""
        self._ending = True
        self._stop_arrival_timer()
        is_head = self._began is not None and self._method == b"HEAD"

        def end() -> None:
            self._write(response, is_head=is_head, keep=False)
            self._close(has_read=False)

        if self._answering or self._waiting:
            self._last_word = end
        else:
            end()

    def _close(self, *, has_read: bool) -> None:
        """Close the connection: at once, or, unless all has been read, after the client or `_LINGER_SECONDS`."""
        self._ending = True
        self._stop_arrival_timer()
        if has_read:
            self._writes.close()
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(_LINGER_SECONDS, self._writes.close)

    def shut_down(self) -> None:
        """Close the connection after the next response, or if none is asked for within a second."""
        self._stopping = True
        if not self._answering and not self._waiting and self._arriving is None:
            self._loop.call_later(_SHUTDOWN_IDLE_SECONDS, self._close_if_idle)

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def _close_if_idle(self) -> None:
        if not self._answering and not self._waiting and self._began is None:
            self._writes.close()

    # Time.

    def _check_idle(self) -> None:
        left = self._last_used + self._limits.idle_seconds - self._loop.time()
        if left <= 0 and not self._answering and not self._waiting and self._began is None:
            self._writes.close()
            return
        self._idle_timer = self._loop.call_later(max(left, 1.0), self._check_idle)

    def _check_arrival(self) -> None:
        """Refuse the request that arrives too slowly."""
        self._arrival_timer = None
        if self._began is None or self._ending:
            return
        limits = self._limits
        left = limits.request_seconds + self._size / limits.slowest_bytes_per_second
        left -= self._loop.time() - self._began
        if left > 0 or self._paused:
            self._arrival_timer = self._loop.call_later(max(left, 1.0), self._check_arrival)
        else:
            self._end_with(page(408))

    def _stop_arrival_timer(self) -> None:
        if self._arrival_timer:
            self._arrival_timer.cancel()
            self._arrival_timer = None


def _latin(text: str) -> bytes:
    return text.encode("latin-1")


_dated = (0, "")


def _date() -> str:
    """Return the time in the format of the header Date."""
    global _dated
    now = int(time.time())
    if now != _dated[0]:
        _dated = (now, formatdate(now, usegmt=True))
    return _dated[1]
