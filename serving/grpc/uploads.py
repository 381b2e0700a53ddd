"""Prevents slow gRPC uploads from exhausting the thread pool.

grpcio gives a call a thread as soon as its headers have arrived, and doesn't limit the time for its message. A few
clients that send only headers would take all threads and block all other calls.
"""

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import grpc

__all__ = ["Arrivals", "Threads"]

_POLL_SECONDS = 0.05
# A call that waits longer than this for its message is a slow upload, and gets another thread to replace its own.
_SLOW_SECONDS = 0.1
# At shutdown, calls sent before it have all arrived after this time without a new one, even on a busy machine.
_QUIET_SECONDS = 0.5


class Threads(Executor):
    """Executor with `count` threads, plus those that `add` starts."""

    def __init__(self, count: int) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._count = 0
        for _ in range(count):
            self.add()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """See `Executor.submit`; no task can be cancelled."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._tasks.put(functools.partial(_run, future, function, args, kwargs))
        return future

    def add(self) -> bool:
        """Start another thread; return False if the system refuses."""
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=self._work, name="grpc", daemon=True).start()
            self._count += 1
            return True
        return False

    def remove(self) -> None:
        """End the next thread that becomes idle."""
        self._count -= 1
        self._tasks.put(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """End all threads after the tasks submitted so far, without waiting."""
        while self._count > 0:
            self.remove()

    def _work(self) -> None:
        while task := self._tasks.get():
            task()
            # Otherwise the call's memory would be kept until this thread's next task.
            del task


def _run(future: "Future[Any]", function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    try:
        result = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - raised by the future
        future.set_exception(error)
    else:
        future.set_result(result)


@dataclass(eq=False)
class _Wait:
    context: grpc.ServicerContext
    since: float
    # Whether a thread was added to replace the waiting one.
    replaced: bool = False


class Arrivals(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic for type checkers only
    """Interceptor that replaces threads waiting for messages, and cancels calls after `seconds` without one.

    It adds a thread to `threads` for each that waits. The client of a cancelled call gets CANCELLED.
    """

    def __init__(self, threads: Threads, seconds: float) -> None:
        self._threads = threads
        self._seconds = seconds
        self._lock = threading.Lock()
        self._waits: dict[_Wait, None] = {}  # guarded by the lock, the oldest first
        self._last_arrival = 0.0
        self._refusing = False
        self._closed = threading.Event()
        threading.Thread(target=self._watch_overdue, name="grpc-arrivals", daemon=True).start()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the handler of a new call (gRPC's interface)."""
        self._last_arrival = time.monotonic()
        if self._refusing and not details.method.startswith("/grpc.health."):
            return _REFUSAL
        handler = continuation(details)
        if handler is None:
            return None
        streams = handler.response_streaming
        make = grpc.stream_stream_rpc_method_handler if streams else grpc.stream_unary_rpc_method_handler
        return make(self._watched(handler), handler.request_deserializer, handler.response_serializer)

    def refuse(self, seconds: float) -> None:
        """Refuse new calls with UNAVAILABLE; return when no more arrive, at most after `seconds`.

        Calls that arrive after gRPC has begun to shut down get CANCELLED, which doesn't tell the client whether they
        ran. UNAVAILABLE means that the call hasn't begun and can be retried, here or elsewhere.
        """
        self._refusing = True
        until = time.monotonic() + seconds
        while time.monotonic() < min(until, self._last_arrival + _QUIET_SECONDS):
            time.sleep(0.005)

    def close(self) -> None:
        """Stop the watching thread and the pool's threads, after all calls have ended."""
        self._closed.set()
        self._threads.shutdown()

    def _watched(self, handler: Any) -> Callable[..., Any]:
        if handler.request_streaming:
            behavior = handler.stream_stream or handler.stream_unary

            @functools.wraps(behavior)
            def respond_all(requests: Iterator[Any], context: grpc.ServicerContext, *more: Any) -> Any:
                return behavior(self._received(requests, context), context, *more)

            return respond_all
        behavior = handler.unary_stream or handler.unary_unary

        @functools.wraps(behavior)
        def respond(requests: Iterator[Any], context: grpc.ServicerContext, *more: Any) -> Any:
            request = next(self._received(requests, context), None)
            if request is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "no message received; expected one")
            return behavior(request, context, *more)

        return respond

    def _received(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        while True:
            wait = _Wait(context, time.monotonic())
            with self._lock:
                self._waits[wait] = None
            try:
                request = next(requests, None)
            finally:
                with self._lock:
                    del self._waits[wait]
                if wait.replaced:
                    self._threads.remove()
            if request is None:
                return
            yield request

    def _watch_overdue(self) -> None:
        while not self._closed.wait(_POLL_SECONDS):
            now, overdue = time.monotonic(), []
            with self._lock:
                for wait in self._waits:
                    if now - wait.since < _SLOW_SECONDS:
                        break
                    wait.replaced = wait.replaced or self._threads.add()
                    if now - wait.since > self._seconds:
                        overdue.append(wait.context)
            for context in overdue:
                context.cancel()  # type: ignore[no-untyped-call]


def _refuse(_requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
    context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")


_REFUSAL = grpc.stream_unary_rpc_method_handler(_refuse)
