"""Calls between two processes that trust each other: a method's name and arguments one way, its result back."""

import contextlib
import itertools
import os
import pickle
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Channel", "ChannelClosed"]


class ChannelClosed(Exception):  # noqa: N818 - it isn't always an error
    """The other process has gone, or has closed its end."""


class Channel:
    """One end of a connection: calls the other end's `target`, and lets it call this end's.

    Calls that come in run in threads of their own, so one that takes long holds up no other.
    """

    def __init__(self, connection: Connection, target: object) -> None:
        self._connection = connection
        self._target = target
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # guards what is written, and `_waiting`
        self._waiting: dict[int, Future[Any]] = {}
        self._closed = False
        self._threads = ThreadPoolExecutor(64, thread_name_prefix="calls")

    def start(self, method: str, *arguments: Any) -> "Future[Any]":
        """Call the other end's method; the future has its result or its error, or ChannelClosed."""
        future: Future[Any] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._closed:
                future.set_exception(ChannelClosed())
                return future
            self._waiting[number] = future
        with contextlib.suppress(OSError):  # the reader finds out, too, and tells all that wait
            self._send(("call", number, method, arguments))
        return future

    def call(self, method: str, *arguments: Any) -> Any:
        """Call the other end's method and return its result or raise its error; ChannelClosed if it has gone."""
        return self.start(method, *arguments).result()

    def serve(self) -> None:
        """Read until the other end closes, then return."""
        try:
            while True:
                kind, number, *rest = pickle.loads(self._connection.recv_bytes())  # noqa: S301 - our own process
                if kind == "call":
                    self._threads.submit(self._answer, number, *rest)
                else:
                    self._finish(number, *rest)
        except (EOFError, OSError):
            pass
        finally:
            with self._lock:
                self._closed = True
                waiting = list(self._waiting.values())
                self._waiting.clear()
            for future in waiting:
                future.set_exception(ChannelClosed())
            self._threads.shutdown(wait=False)

    def close(self) -> None:
        """Close the connection, whoever reads from it."""
        # A close alone would wait for the thread that reads, and that one for the other end.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)

    def _answer(self, number: int, method: str, arguments: tuple[Any, ...]) -> None:
        result, failure = None, None
        try:
            result = getattr(self._target, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller waits for it
            failure = error
        with contextlib.suppress(OSError):
            self._send(("result", number, result, failure))

    def _send(self, message: tuple[Any, ...]) -> None:
        content = pickle.dumps(message)
        with self._lock:
            self._connection.send_bytes(content)

    def _finish(self, number: int, result: Any, error: Exception | None) -> None:
        with self._lock:
            future = self._waiting.pop(number)
        if error:
            future.set_exception(error)
        else:
            future.set_result(result)
