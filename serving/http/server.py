"""The REST port: uvicorn with limits on what a client may take up, and an end that loses no request."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tfship.serving.http.app import RestApi, page
from tfship.serving.server.settings import Limits, Settings
from tfship.serving.server.sockets import bound
from tfship.train.common.errors import UsageError

__all__ = ["RestServer"]

# At the end, how long a connection without a request stays open for one that may be on its way.
_LAST_SECONDS = 1.0


class RestServer:
    """uvicorn in a thread of its own. Raises UsageError if the port can't be had."""

    def __init__(self, api: RestApi, settings: Settings, port: int) -> None:
        self._listener = bound(settings.host, max(0, port), shared=settings.workers > 0)
        self.port: int = self._listener.getsockname()[1]
        self._api = api
        tls = settings.tls
        self._server = _Server(
            uvicorn.Config(
                api,
                http=partial(_Protocol, limits=settings.limits),  # type: ignore[arg-type]
                loop="auto",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ssl_context_factory=(lambda *_: tls.context()) if tls else None,
            )
        )
        self._thread = threading.Thread(target=self._run, name="rest", daemon=True)

    def start(self) -> None:
        """Begin to answer. Raises UsageError if that isn't possible; the log says why."""
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise UsageError(f"REST on port {self.port} can't be started; the log says why")
            time.sleep(0.005)

    def stop(self, grace_seconds: float) -> None:
        """Take no more connections, and give requests `grace_seconds` to end; returns at once."""
        # uvicorn reads 0 as "at once" only if it is an int, and None as "for ever".
        self._server.config.timeout_graceful_shutdown = max(0, round(grace_seconds))
        self._server.should_exit = True

    def wait(self) -> None:
        """Wait until `stop` is done."""
        if self._thread.is_alive():
            self._thread.join()
        self._api.close()
        self._listener.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])


# How long is read on what a client sends that has its answer already.
_LINGER_SECONDS = 2.0


class _Server(uvicorn.Server):
    """Ends without a failed request, as far as that is in a server's power.

    What has connected is answered even if nobody has accepted it yet; every answer says that it is the last one
    on its connection; and a connection that seems to be idle is closed a little later, because the next request
    may be on its way. Clients that keep connections must be ready for them to be closed (RFC 9112, 9.3.1).
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # In one go, for whatever connects in between is lost.
        accepted = [connection for listener in sockets or () for connection in _accepted(listener)]
        for server in self.servers:
            server.close()
        await asyncio.gather(*map(self._serve_too, accepted), return_exceptions=True)
        await super().shutdown(sockets)

    async def _serve_too(self, connection: socket.socket) -> None:
        tls = self.config.ssl
        await asyncio.get_running_loop().connect_accepted_socket(
            self._protocol, connection, ssl=tls, ssl_handshake_timeout=_LAST_SECONDS if tls else None
        )

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Yield what waits to be accepted."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            yield connection


class _Protocol(HttpToolsProtocol):
    """One connection.

    A request must arrive at some speed and its answer be taken at some, its headers must end somewhere, and there
    are only so many connections. A client that is still sending when it is refused gets the answer all the same.
    """

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = limits.idle_seconds  # type: ignore[assignment] # it is only passed on to the loop
        self._limits = limits
        self._header_bytes = 0
        self._unparsed = 0
        self._received = 0
        self._pieces: list[bytes] = []
        self._body_bytes = 0
        self._refusal: int | None = None
        self._in_body = False
        self._ending = False
        self._arrival: asyncio.TimerHandle | None = None
        self._departure: asyncio.TimerHandle | None = None
        self._leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(503)
            self.transport.close()
            return
        # Until the first request begins, and after each that is answered, a connection is idle.
        self._close_later(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._departure is not None:
            self._departure.cancel()
        # uvicorn leaves it running, and with it this connection in memory, where the client has reset it.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Make the next answer the last one."""
        self._ending = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif self._arrival is None:
            self._unset_keepalive_if_required()
            self._close_later(_LAST_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self._leaving or self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        self._received += len(data)
        self._unparsed += len(data)
        if self._arrival is None:
            self._begin = self.loop.time()
            self._arrival = self.loop.call_later(self._limits.request_seconds, self._check_arrival)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserInvalidMethodError:
            self._refuse(501)
        except httptools.HttpParserError:
            self._refuse(431 if self._header_bytes > self._limits.header_bytes else 400)
        except httptools.HttpParserUpgrade:
            # CONNECT, or another protocol: the request is answered as any other, and is the connection's last.
            self.cycle.keep_alive = False
        # The parser keeps a header until it ends, however long that takes.
        if self._unparsed > self._limits.header_bytes:
            self._refuse(431)

    def on_url(self, url: bytes) -> None:
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_header(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._header_bytes = self._unparsed = 0
        self._in_body = True
        super().on_headers_complete()
        if self._ending:
            self.cycle.keep_alive = False
        if b"#" in self.url:
            # As it was sent: no client sends a fragment, and TensorFlow Serving takes it for a part of the path.
            self.scope["raw_path"] = self.url.partition(b"?")[0]
        if not self.cycle.keep_alive:
            # The connection's last request: the cycle closes it after the answer, which may be before the body's end.
            self.cycle.transport = _Lingering(self, self.cycle)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        self._unparsed = 0
        if cycle.response_complete:
            return
        self._pieces.append(body)
        self._body_bytes += len(body)
        # A body is handed over whole: waking the application for each piece would take longer than answering it.
        # One that is too large is shown to it before its end, for it to refuse.
        if self._body_bytes > self._limits.body_bytes:
            self._hand_over()
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._unparsed = 0
        self._in_body = False
        self._stop_timer()
        self._hand_over()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._leaving:
            return
        super().on_response_complete()
        if self._refusal is not None:
            self._refuse(self._refusal)
        self._watch_departure()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_departure()

    def _close_later(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        self._unparsed = 0
        if self._header_bytes > self._limits.header_bytes:
            raise ValueError("headers too large")  # reaches data_received as a parser's error

    def _hand_over(self) -> None:
        # What was handed over before, and not yet taken, comes first; nearly always it is nothing.
        self.cycle.body = b"".join((self.cycle.body, *self._pieces))  # type: ignore[assignment] # it is only read
        self._pieces, self._body_bytes = [], 0

    def _check_arrival(self) -> None:
        """Close the connection if the request that is arriving is too slow, or look again later."""
        limits = self._limits
        left = limits.request_seconds + self._received / limits.slowest_bytes_per_second
        left -= self.loop.time() - self._begin
        # Between headers and the end of its answer a request may wait for us, not we for it.
        waits_for_us = self.cycle is not None and not self.cycle.response_complete and self.flow.read_paused
        if waits_for_us or left > 0:
            self._arrival = self.loop.call_later(max(left, 1.0), self._check_arrival)
        else:
            self._refuse(408)

    def _watch_departure(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        if self._unsent and self._departure is None:
            self._departure = self.loop.call_later(self._limits.request_seconds, self._check_departure)

    def _check_departure(self) -> None:
        """End the connection if its answers are taken too slowly: a close would wait for them as well."""
        self._departure = None
        least = self._limits.request_seconds * self._limits.slowest_bytes_per_second
        unsent = self.transport.get_write_buffer_size()
        if unsent and self._unsent - unsent < least:
            self.transport.abort()
        else:
            self._watch_departure()

    def _stop_timer(self) -> None:
        self._received = 0
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _refuse(self, status: int) -> None:
        """Answer what isn't a request, or won't become one, when all requests before it are answered; then close."""
        if self._leaving or self.transport.is_closing():
            return
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if self.pipeline or (answering and not cycle.more_body):
            self._refusal = status
            return
        # Not within an answer, nor after it where it was given before the body's end.
        if cycle is None or not cycle.response_started or (cycle.response_complete and not self._in_body):
            body = page(status)
            head = f"HTTP/1.1 {status} {body.phrase}\r\ncontent-type: text/html\r\n"
            head += f"content-length: {len(body.content)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body.content)
        if answering:
            # Whoever waits for its end, or is about to ask for it.
            self.cycle.disconnected, self.cycle.waiting_for_100_continue = True, False
            self.cycle.message_event.set()
        self.leave()

    def leave(self) -> None:
        """Close the connection when the client does, or after a while.

        Closed while the client still sends, it would be reset, and the answer lost on its way.
        """
        self._leaving = True
        self._stop_timer()
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.timeout_keep_alive_task = self.loop.call_later(_LINGER_SECONDS, self.timeout_keep_alive_handler)


class _Lingering:
    """A connection's transport for a request that is the last: closed when all of the request has been read."""

    def __init__(self, protocol: _Protocol, cycle: Any) -> None:
        self._protocol, self._cycle = protocol, cycle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol.transport, name)

    def close(self) -> None:
        if self._cycle.more_body:
            self._protocol.leave()
        else:
            self._protocol.transport.close()
