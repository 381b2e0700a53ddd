"""The REST port: uvicorn with limits on what a client may take up before its request has arrived."""

import asyncio
import threading
import time
from functools import partial
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.ports import bound
from serving.rest import RestApi, page
from serving.settings import Limits, Settings

__all__ = ["RestServer"]


class RestServer:
    """uvicorn in a thread of its own. Raises UsageError if the port can't be had."""

    def __init__(self, api: RestApi, settings: Settings, port: int) -> None:
        self._listener = bound(settings.host, max(0, port), shared=settings.workers > 0)
        self.port: int = self._listener.getsockname()[1]
        self._api = api
        tls = settings.tls
        self._server = uvicorn.Server(
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
                timeout_keep_alive=round(settings.limits.idle_seconds),
                ssl_context_factory=(lambda *_: tls.context()) if tls else None,
            )
        )
        self._thread = threading.Thread(target=self._run, name="rest", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)

    def stop(self, grace_seconds: float) -> None:
        """Take no more requests, and give those that run `grace_seconds` to end."""
        # uvicorn reads 0 as "at once" only if it is an int, and None as "for ever".
        self._server.config.timeout_graceful_shutdown = max(0, round(grace_seconds))
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()
        self._api.close()
        self._listener.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])


class _Protocol(HttpToolsProtocol):
    """One connection.

    A request must arrive at some speed, its headers must end somewhere, and there are only so many connections.
    """

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._header_bytes = 0
        self._unparsed = 0
        self._received = 0
        self._pieces: list[bytes] = []
        self._body_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(503)
            return
        # Until the first request begins, and after each that is answered, a connection is idle.
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        # uvicorn leaves it running after a reset, and with it everything about the connection in memory.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        self._received += len(data)
        self._unparsed += len(data)
        if self._timer is None:
            self._begin = self.loop.time()
            self._timer = self.loop.call_later(self._limits.request_seconds, self._check_pace)
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
        self._count_header(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._header_bytes = self._unparsed = 0
        super().on_headers_complete()
        if b"#" in self.url:
            # As it was sent: no client sends a fragment, and TensorFlow Serving takes it for a part of the path.
            self.scope["raw_path"] = self.url.partition(b"?")[0]

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
        self._stop_timer()
        self._hand_over()
        super().on_message_complete()

    def _hand_over(self) -> None:
        # What was handed over before, and not yet taken, comes first; nearly always it is nothing.
        self.cycle.body = b"".join((self.cycle.body, *self._pieces))  # type: ignore[assignment] # it is only read
        self._pieces, self._body_bytes = [], 0

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        self._unparsed = 0
        if self._header_bytes > self._limits.header_bytes:
            raise ValueError("headers too large")  # reaches data_received as a parser's error

    def _check_pace(self) -> None:
        """Close the connection if the request that is arriving is too slow, or look again later."""
        limits = self._limits
        left = limits.request_seconds + self._received / limits.slowest_bytes_per_second
        left -= self.loop.time() - self._begin
        # Between headers and the end of its answer a request may wait for us, not we for it.
        waits_for_us = self.cycle is not None and not self.cycle.response_complete and self.flow.read_paused
        if waits_for_us or left > 0:
            self._timer = self.loop.call_later(max(left, 1.0), self._check_pace)
        else:
            self._refuse(408)

    def _stop_timer(self) -> None:
        self._received = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._refusal is not None:
            self._refuse(self._refusal)

    def _refuse(self, status: int) -> None:
        """Answer what isn't a request, or won't become one, when all requests before it are answered; then close."""
        if self.transport.is_closing():
            return
        answering = self.cycle is not None and not self.cycle.response_complete
        if self.pipeline or (answering and not self.cycle.more_body):
            self._refusal = status
            return
        if not answering or not self.cycle.response_started:
            body = page(status)
            head = f"HTTP/1.1 {status} {body.phrase}\r\ncontent-type: text/html\r\n"
            head += f"content-length: {len(body.content)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body.content)
        self.transport.close()
