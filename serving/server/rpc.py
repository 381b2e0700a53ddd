"""Remote procedure calls between two processes that trust each other, over one connection in both directions."""

import contextlib
import itertools
import os
import pickle
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Channel", "ChannelClosed"]

_HEARTBEAT_SECONDS = 1.0


class ChannelClosed(Exception):  # noqa: N818 - it isn't always an error
    """The other process has ended or closed the connection."""


class Channel:
    """One end of a connection: calls methods of the other end's `target`, and runs its calls on this end's `target`.

    Incoming calls run in a thread pool, so that a slow call doesn't delay others. Heartbeats tell the other end that
    this process is alive.
    """

    def __init__(self, connection: Connection, target: object) -> None:
        self._connection = connection
        self._target = target
        self._numbers = itertools.count()
        # Separate locks, because a write may block on the other end, which must not block the threads below.
        self._writing = threading.Lock()
        self._lock = threading.Lock()  # guards the fields below
        self._waiting: dict[int, Future[Any]] = {}
        self._closed = False
        self._threads = ThreadPoolExecutor(64, thread_name_prefix="calls")

    def start(self, method: str, *arguments: Any) -> "Future[Any]":
        """Call the other end's `method`; the future gets its result, its error or ChannelClosed."""
        future: Future[Any] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._closed:
                future.set_exception(ChannelClosed())
                return future
            self._waiting[number] = future
        self._send(pickle.dumps(("call", number, method, arguments)))
        return future

    def call(self, method: str, *arguments: Any) -> Any:
        """Call the other end's `method`; return its result, or raise its error or ChannelClosed."""
        return self.start(method, *arguments).result()

    def start_heartbeat(self) -> None:
        """Send a heartbeat every second, in a thread."""
        threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True).start()

    def serve(self, patience_seconds: int = 0, startup_seconds: int = 0) -> bool:
        """Process messages until the other end closes and return True; pending calls then get ChannelClosed.

        With `patience_seconds`, return False after that time without a message or heartbeat. The first message may
        take `startup_seconds` longer. Time during which this process itself is suspended doesn't count.
        """
        silent = -startup_seconds
        try:
            while not patience_seconds or silent < patience_seconds:
                if patience_seconds and not self._connection.poll(_HEARTBEAT_SECONDS):
                    silent += 1
                    continue
                silent = 0
                kind, number, *rest = pickle.loads(self._connection.recv_bytes())  # noqa: S301 - our own process
                if kind == "call":
                    self._threads.submit(self._run, number, *rest)
                elif kind == "result":
                    self._resolve(number, *rest)
        except (EOFError, OSError):
            return True
        finally:
            self._end()
        return False

    def close(self) -> None:
        """Close the connection, even while other threads read or write."""
        # Closing the descriptor alone would not wake up the reading thread, which waits for the other end.
        with self._lock:
            if not self._closed:
                self._shut_down()

    def _end(self) -> None:
        with self._lock:
            self._closed = True
            waiting = list(self._waiting.values())
            self._waiting.clear()
        # Wakes up a blocked writer, before the descriptor's number can be reused for another file.
        self._shut_down()
        with self._writing:
            self._connection.close()
        for future in waiting:
            future.set_exception(ChannelClosed())
        self._threads.shutdown(wait=False)

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)

    def _send_heartbeats(self) -> None:
        while not self._closed:
            self._send(pickle.dumps(("heartbeat", 0)))
            time.sleep(_HEARTBEAT_SECONDS)

    def _run(self, number: int, method: str, arguments: tuple[Any, ...]) -> None:
        result, failure = None, None
        try:
            result = getattr(self._target, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - every error is sent to the caller
            failure = _picklable(error)
        self._send(pickle.dumps(("result", number, result, failure)))

    def _send(self, content: bytes) -> None:
        # If the other end has ended, `serve` notices it and resolves all pending calls.
        with contextlib.suppress(OSError), self._writing:
            self._connection.send_bytes(content)

    def _resolve(self, number: int, result: Any, error: Exception | None) -> None:
        with self._lock:
            future = self._waiting.pop(number)
        if error:
            future.set_exception(error)
        else:
            future.set_result(result)


def _picklable(error: Exception) -> Exception:
    """Return `error`, or a RuntimeError with its text if it can't be pickled and unpickled unchanged."""
    try:
        if pickle.loads(pickle.dumps(error)).args == error.args:  # noqa: S301 - our own
            return error
    except Exception:  # noqa: BLE001, S110 - not picklable
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")
