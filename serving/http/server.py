"""REST port: uvicorn with limits per client and a graceful shutdown."""

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

# At shutdown, time that an idle connection stays open for a request that may be on its way.
_SHUTDOWN_IDLE_SECONDS = 1.0


class RestServer:
    """uvicorn in its own thread. Raises UsageError if it can't listen on `port`."""

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
        """Start serving. Raises UsageError if uvicorn fails to start."""
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise UsageError(f"REST on port {self.port} failed to start; see the log for the reason")
            time.sleep(0.005)

    def stop(self, grace_seconds: float) -> None:
        """Stop accepting connections and give in-flight requests `grace_seconds`; returns at once."""
        # uvicorn takes 0 for "at once" only if it is an int, and None for "without limit".
        self._server.config.timeout_graceful_shutdown = max(0, round(grace_seconds))
        self._server.should_exit = True

    def wait(self) -> None:
        """Wait until the shutdown that `stop` began is complete."""
        if self._thread.is_alive():
            self._thread.join()
        self._api.close()
        self._listener.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])


# Time for which the rest of a request is read after its response was sent.
_LINGER_SECONDS = 2.0


class _Server(uvicorn.Server):
    """uvicorn's server with a shutdown that fails as few requests as possible.

    Connections in the listener's backlog are still served. Every response has `Connection: close`. Idle connections
    are closed after a delay, because the next request may be on its way. Clients that keep connections must be
    prepared for the server to close them (RFC 9112, 9.3.1).
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # No await between accepting and closing: connections made in between would be lost.
        accepted = [connection for listener in sockets or () for connection in _accepted(listener)]
        for server in self.servers:
            server.close()
        await asyncio.gather(*map(self._serve_accepted, accepted), return_exceptions=True)
        await super().shutdown(sockets)

    async def _serve_accepted(self, connection: socket.socket) -> None:
        tls = self.config.ssl
        await asyncio.get_running_loop().connect_accepted_socket(
            self._protocol, connection, ssl=tls, ssl_handshake_timeout=_SHUTDOWN_IDLE_SECONDS if tls else None
        )

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Yield the connections in the listener's backlog."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            yield connection


class _Protocol(HttpToolsProtocol):
    """One connection, within `limits`.

    They set minimum speeds for sending a request and receiving its response, the size of the headers, and the number
    of connections. A client that is still sending when it is refused gets the response.
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
        self._refusal: int | None = None  # status to send after the responses before it
        self._in_body = False
        self._shutting_down = False
        self._receive_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._lingering = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(503)
            self.transport.close()
            return
        # A connection is idle until its first request begins, and after each response.
        self._close_later(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_receive_timer()
        if self._send_timer is not None:
            self._send_timer.cancel()
        # If the client resets the connection, uvicorn leaves this timer running, which keeps the connection in memory.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close the connection after the next response."""
        self._shutting_down = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif self._receive_timer is None:
            self._unset_keepalive_if_required()
            self._close_later(_SHUTDOWN_IDLE_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        self._received += len(data)
        self._unparsed += len(data)
        if self._receive_timer is None:
            self._begin = self.loop.time()
            self._receive_timer = self.loop.call_later(
                self._limits.request_seconds, self._check_receive_speed
            )
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserInvalidMethodError:
            self._refuse(501)
        except httptools.HttpParserError:
            self._refuse(431 if self._header_bytes > self._limits.header_bytes else 400)
        except httptools.HttpParserUpgrade:
            # CONNECT or an upgrade: the request is handled like any other, and is the connection's last.
            self.cycle.keep_alive = False
        # The parser buffers an incomplete header without limit.
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
        if self._shutting_down:
            self.cycle.keep_alive = False
        if b"#" in self.url:
            # TensorFlow Serving treats `#` as part of the path: clients don't send fragments.
            self.scope["raw_path"] = self.url.partition(b"?")[0]
        if not self.cycle.keep_alive:
            # The cycle closes the connection after its last response, possibly before the end of the request's body.
            self.cycle.transport = _LingeringTransport(self, self.cycle)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        self._unparsed = 0
        if cycle.response_complete:
            return
        self._pieces.append(body)
        self._body_bytes += len(body)
        # The application gets the whole body at once: waking it for each piece would take longer than the request.
        # It gets a body that is too large before its end, and refuses it.
        if self._body_bytes > self._limits.body_bytes:
            self._hand_over()
            self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._unparsed = 0
        self._in_body = False
        self._stop_receive_timer()
        self._hand_over()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._lingering:
            return
        super().on_response_complete()
        if self._refusal is not None:
            self._refuse(self._refusal)
        self._start_send_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_send_timer()

    def _close_later(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        self._unparsed = 0
        if self._header_bytes > self._limits.header_bytes:
            raise ValueError("headers too large")  # becomes HttpParserError in data_received

    def _hand_over(self) -> None:
        # Pieces handed over earlier and not yet read come first; there are rarely any.
        self.cycle.body = b"".join((self.cycle.body, *self._pieces))  # type: ignore[assignment] # it is only read
        self._pieces, self._body_bytes = [], 0

    def _check_receive_speed(self) -> None:
        """Refuse the request that is being received if it is too slow, else check again later."""
        limits = self._limits
        left = limits.request_seconds + self._received / limits.slowest_bytes_per_second
        left -= self.loop.time() - self._begin
        # Before its response is complete, a request may be waiting for the server instead of the client.
        waits_for_server = (
            self.cycle is not None and not self.cycle.response_complete and self.flow.read_paused
        )
        if waits_for_server or left > 0:
            self._receive_timer = self.loop.call_later(max(left, 1.0), self._check_receive_speed)
        else:
            self._refuse(408)

    def _start_send_timer(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        if self._unsent and self._send_timer is None:
            self._send_timer = self.loop.call_later(self._limits.request_seconds, self._check_send_speed)

    def _check_send_speed(self) -> None:
        """Abort the connection if the client reads responses too slowly; `close` would wait for the client."""
        self._send_timer = None
        least = self._limits.request_seconds * self._limits.slowest_bytes_per_second
        unsent = self.transport.get_write_buffer_size()
        if unsent and self._unsent - unsent < least:
            self.transport.abort()
        else:
            self._start_send_timer()

    def _stop_receive_timer(self) -> None:
        self._received = 0
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None

    def _refuse(self, status: int) -> None:
        """Send an error page for an invalid or incomplete request after the responses before it; then close."""
        if self._lingering or self.transport.is_closing():
            return
        cycle = self.cycle
        responding = cycle is not None and not cycle.response_complete
        if self.pipeline or (responding and not cycle.more_body):
            self._refusal = status
            return
        # Not within a response, nor after a response to the same request, sent before the body's end.
        if cycle is None or not cycle.response_started or (cycle.response_complete and not self._in_body):
            body = page(status)
            head = f"HTTP/1.1 {status} {body.phrase}\r\ncontent-type: text/html\r\n"
            head += f"content-length: {len(body.content)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body.content)
        if responding:
            # Wakes the application if it waits for the rest of the body.
            self.cycle.disconnected, self.cycle.waiting_for_100_continue = True, False
            self.cycle.message_event.set()
        self.linger()

    def linger(self) -> None:
        """Close the connection when the client does, or after `_LINGER_SECONDS`.

        A connection closed while the client sends is reset, and the response may be lost.
        """
        self._lingering = True
        self._stop_receive_timer()
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.timeout_keep_alive_task = self.loop.call_later(_LINGER_SECONDS, self.timeout_keep_alive_handler)


class _LingeringTransport:
    """The transport of a connection's last request; `close` waits until the whole request has been read."""

    def __init__(self, protocol: _Protocol, cycle: Any) -> None:
        self._protocol, self._cycle = protocol, cycle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol.transport, name)

    def close(self) -> None:
        if self._cycle.more_body:
            self._protocol.linger()
        else:
            self._protocol.transport.close()
