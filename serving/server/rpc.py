"""Calls between two processes that trust each other: a method's name and arguments one way, its result back."""

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

_BEAT_SECONDS = 1.0


class ChannelClosed(Exception):  # noqa: N818 - it isn't always an error
    """The other process has gone, or has closed its end."""


class Channel:
    """One end of a connection: calls the other end's `target`, and lets it call this end's.

    Calls that come in run in threads of their own, so one that takes long holds up no other. An end that beats
    tells the other one that its process still runs.
    """

    def __init__(self, connection: Connection, target: object) -> None:
        self._connection = connection
        self._target = target
        self._numbers = itertools.count()
        # Two, because a write may have to wait for the other end, and no one may have to wait for that.
        self._writing = threading.Lock()
        self._lock = threading.Lock()  # guards the fields below
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
        self._send(pickle.dumps(("call", number, method, arguments)))
        return future

    def call(self, method: str, *arguments: Any) -> Any:
        """Call the other end's method and return its result or raise its error; ChannelClosed if it has gone."""
        return self.start(method, *arguments).result()

    def beat(self) -> None:
        """Send a heartbeat every second, from a thread."""
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def serve(self, patience_seconds: int = 0, at_first_seconds: int = 0) -> bool:
        """Read until the other end closes, and return True; all that waits for an answer has ChannelClosed.

        With `patience_seconds`, return False when nothing has come for so long, no beat even: at the beginning,
        for `at_first_seconds` more. Only time counts in which this process has run itself.
        """
        silent = -at_first_seconds
        try:
            while not patience_seconds or silent < patience_seconds:
                if patience_seconds and not self._connection.poll(_BEAT_SECONDS):
                    silent += 1
                    continue
                silent = 0
                kind, number, *rest = pickle.loads(self._connection.recv_bytes())  # noqa: S301 - our own process
                if kind == "call":
                    self._threads.submit(self._answer, number, *rest)
                elif kind == "result":
                    self._finish(number, *rest)
        except (EOFError, OSError):
            return True
        finally:
            self._end()
        return False

    def close(self) -> None:
        """Close the connection, whoever reads from it or writes to it."""
        # A close alone would wait for the thread that reads, and that one for the other end.
        with self._lock:
            if not self._closed:
                self._shut_down()

    def _end(self) -> None:
        with self._lock:
            self._closed = True
            waiting = list(self._waiting.values())
            self._waiting.clear()
        # Wakes whoever is writing; only then may the descriptor's number become another file's.
        self._shut_down()
        with self._writing:
            self._connection.close()
        for future in waiting:
            future.set_exception(ChannelClosed())
        self._threads.shutdown(wait=False)

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)

    def _beat(self) -> None:
        while not self._closed:
            self._send(pickle.dumps(("beat", 0)))
            time.sleep(_BEAT_SECONDS)

    def _answer(self, number: int, method: str, arguments: tuple[Any, ...]) -> None:
        result, failure = None, None
        try:
            result = getattr(self._target, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller waits for it
            failure = _portable(error)
        self._send(pickle.dumps(("result", number, result, failure)))

    def _send(self, content: bytes) -> None:
        # Where the other end has gone, the thread that reads finds out, and tells all that wait.
        with contextlib.suppress(OSError), self._writing:
            self._connection.send_bytes(content)

    def _finish(self, number: int, result: Any, error: Exception | None) -> None:
        with self._lock:
            future = self._waiting.pop(number)
        if error:
            future.set_exception(error)
        else:
            future.set_result(result)


def _portable(error: Exception) -> Exception:
    """Return an error that the other process can read: many don't survive pickling, or only where they are known."""
    try:
        if pickle.loads(pickle.dumps(error)).args == error.args:  # noqa: S301 - our own
            return error
    except Exception:  # noqa: BLE001, S110 - it isn't
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")
