"""The event loop of a serving process: one thread reads and writes all connections of all ports."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass

from tfship.serving.server.connections import Connections

__all__ = ["EventLoop"]

# At shutdown, the time for the TLS handshake of connections that were in a listener's backlog, and for aborted ones.
_SHUTDOWN_SECONDS = 1.0


@dataclass
class _Listener:
    listening: socket.socket
    connect: Callable[[], asyncio.Protocol]
    connections: Connections
    tls: ssl.SSLContext | None
    handshake_seconds: float
    server: asyncio.Server | None = None

    async def open(self) -> None:
        loop, patience = asyncio.get_running_loop(), self.handshake_seconds if self.tls else None
        is_path = self.listening.family == socket.AF_UNIX
        self.server = await (loop.create_unix_server if is_path else loop.create_server)(
            self.connect, sock=self.listening, ssl=self.tls, backlog=4096, ssl_handshake_timeout=patience
        )

    def close(self) -> list[socket.socket]:
        """Stop listening; return the connections in the backlog, which would be reset otherwise."""
        # Both in one turn of the loop: connections made in between would be lost.
        accepted = list(_accepted(self.listening))
        if self.server:
            self.server.close()
        return accepted

    async def serve(self, connection: socket.socket) -> None:
        """Serve a connection that was in the backlog."""
        patience = _SHUTDOWN_SECONDS if self.tls else None
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                self.connect, connection, ssl=self.tls, ssl_handshake_timeout=patience
            )


class EventLoop:
    """An event loop in a thread of its own: uvloop, where it exists."""

    def __init__(self) -> None:
        self.loop = _new_loop()
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)
        self._listeners: list[_Listener] = []

    def listen(
        self,
        listening: socket.socket,
        connect: Callable[[], asyncio.Protocol],
        connections: Connections,
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        """Serve the connections to a listening socket, by what `connect` makes for each; before `start`."""
        self._listeners.append(_Listener(listening, connect, connections, tls, handshake_seconds))

    def start(self) -> None:
        """Start serving."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self.loop).result()

    async def _open(self) -> None:
        for each in self._listeners:
            await each.open()

    def stop(self, grace_seconds: float) -> None:
        """Accept no further connections, give running requests `grace_seconds`, and end."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(grace_seconds), self.loop).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
        self.loop.close()

    def call(self, function: Callable[[], object]) -> None:
        """Call `function` in the loop's thread, soon."""
        self.loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def _close(self, grace_seconds: float) -> None:
        ports = {each.connections for each in self._listeners}
        backlog = [(each, accepted) for each in self._listeners for accepted in each.close()]
        for connections in ports:
            connections.shut_down()
        ends = asyncio.get_running_loop().time() + grace_seconds
        await _together([each.serve(accepted) for each, accepted in backlog], grace_seconds)
        await _together([each.wait() for each in ports], ends - asyncio.get_running_loop().time())
        for connections in ports:
            connections.abort()
        # Their transports close in the loop's next turns, and must not outlive it.
        await _together([each.wait() for each in ports], _SHUTDOWN_SECONDS)


async def _together(coroutines: list[Coroutine[object, object, None]], seconds: float) -> None:
    """Run coroutines for at most `seconds`."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=max(0.0, seconds))
        for task in pending:
            task.cancel()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _accepted(listening: socket.socket) -> Iterator[socket.socket]:
    """Yield the connections in the listener's backlog."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listening.accept()
            connection.setblocking(False)
            yield connection
