"""What connections of both protocols have in common: their number, slow readers, and the end of TLS."""

import asyncio
import fcntl
import termios
from collections.abc import Callable, Iterator
from typing import Protocol

from tfship.serving.server.settings import Limits

__all__ = ["ClientConnection", "Connections", "WriteWatch"]


# Time for a client to close its side of a TLS connection.
_TLS_CLOSE_SECONDS = 2.0


class ClientConnection(Protocol):
    """A client's connection, as the event loop closes it."""

    def shut_down(self) -> None:
        """Accept no new requests, and close the connection after the running ones."""

    def abort(self) -> None:
        """Close the connection at once."""


class Connections:
    """The connections of one port, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[ClientConnection] = set()
        self._ended: asyncio.Event | None = None

    def add(self, connection: ClientConnection) -> bool:
        """Add a new connection; return False if there are too many."""
        if len(self._open) >= self._limit:
            return False
        self._open.add(connection)
        if self._ended:
            self._ended.clear()
            asyncio.get_running_loop().call_soon(connection.shut_down)
        return True

    def discard(self, connection: ClientConnection) -> None:
        """Remove a connection that has ended."""
        self._open.discard(connection)
        if self._ended and not self._open:
            self._ended.set()

    def __iter__(self) -> Iterator[ClientConnection]:
        return iter(self._open.copy())

    def shut_down(self) -> None:
        """Shut down all connections, and those that are made from now on."""
        self._ended = asyncio.Event()
        for each in self:
            each.shut_down()
        if not self._open:
            self._ended.set()

    async def wait(self) -> None:
        """Wait until all connections have ended, after `shut_down`."""
        assert self._ended is not None  # noqa: S101
        await self._ended.wait()

    def abort(self) -> None:
        """Close all connections at once."""
        for each in self:
            each.abort()


class WriteWatch:
    """Writes to a client, and aborts one that reads more slowly than `limits.slowest_bytes_per_second`.

    `queued` returns the bytes that wait for the client besides those in the transport's buffer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        limits: Limits,
        queued: Callable[[], int] = lambda: 0,
    ) -> None:
        self._loop, self._transport, self._limits, self._queued = loop, transport, limits, queued
        self._written = 0
        self._before = 0
        self._timer: asyncio.TimerHandle | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._is_lost = False

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._written += len(data)
        self._transport.write(data)

    def update(self) -> None:
        """Watch the client if it has something to read; call this after all that changes it."""
        unread = self._transport.get_write_buffer_size()
        if not unread and not self._queued():
            self.stop()
        elif self._timer is None:
            self._before = self._written - unread
            self._timer = self._loop.call_later(self._limits.request_seconds, self._check)

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Close the connection after what was written; call `lost` when it is."""
        # The file descriptor of a lost connection may be that of another one.
        if self._close_timer is None and not self._is_lost:
            self._transport.close()
            if self._transport.get_extra_info("ssl_object"):
                self._close_timer = self._loop.call_later(_TLS_CLOSE_SECONDS, self._abort_if_received)

    def lost(self) -> None:
        """Note that the connection has ended."""
        self._is_lost = True
        self.stop()
        if self._close_timer:
            self._close_timer.cancel()

    def _abort_if_received(self) -> None:
        """Abort a TLS connection whose client has received everything and hasn't closed its side.

        The transport would wait for that, and the server's end for the transport.
        """
        number = self._transport.get_extra_info("socket").fileno()
        # All bytes that were sent have been acknowledged by the client's system.
        if number < 0 or fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)) == bytes(4):
            self._transport.abort()
        else:
            self._close_timer = self._loop.call_later(_TLS_CLOSE_SECONDS, self._abort_if_received)

    def _check(self) -> None:
        self._timer = None
        unread = self._transport.get_write_buffer_size()
        least = self._limits.request_seconds * self._limits.slowest_bytes_per_second
        if (unread or self._queued()) and self._written - unread - self._before < least:
            self._transport.abort()  # `close` would wait for the client
        else:
            self.update()
