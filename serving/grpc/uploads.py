"""Calls over gRPC whose messages are still on their way: they cost no other call its thread, nor for ever a thread.

grpcio gives a call a thread as soon as its headers are there, and has no limit for the time that its message takes:
a few clients that send nothing more would take all threads, and nobody else were answered.
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

_LOOK_SECONDS = 0.05
# A message that is on its way longer than this isn't just about to come.
_STUCK_SECONDS = 0.1
# When so long no call has come, those that have been sent before are all there, on a busy machine, too.
_QUIET_SECONDS = 0.5


class Threads(Executor):
    """Runs tasks in `count` threads, and in as many more as are added."""

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
        """Start a thread more; False if the system has none."""
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=self._work, name="grpc", daemon=True).start()
            self._count += 1
            return True
        return False

    def remove(self) -> None:
        """End a thread, the next that has nothing else to do."""
        self._count -= 1
        self._tasks.put(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """End all threads when the tasks so far are done; this doesn't wait for it."""
        while self._count > 0:
            self.remove()

    def _work(self) -> None:
        while task := self._tasks.get():
            task()
            # Otherwise its call would live until this thread has another.
            del task


def _run(future: "Future[Any]", function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    try:
        result = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - it is the future's
        future.set_exception(error)
    else:
        future.set_result(result)


@dataclass(eq=False)
class _Wait:
    context: grpc.ServicerContext
    since: float
    # There is a thread more, for the one that waits.
    helped: bool = False


class Arrivals(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic for type checkers only
    """Adds one of `threads` for each that waits for a message, and ends a call whose message takes `seconds`.

    The client then sees CANCELLED.
    """

    def __init__(self, threads: Threads, seconds: float) -> None:
        self._threads = threads
        self._seconds = seconds
        self._lock = threading.Lock()
        self._waits: dict[_Wait, None] = {}  # guarded by the lock, the oldest first
        self._last = 0.0
        self._refuses = False
        self._closed = threading.Event()
        threading.Thread(target=self._look, name="grpc-arrivals", daemon=True).start()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the handler of a call that has just come (gRPC's interface)."""
        self._last = time.monotonic()
        if self._refuses and not details.method.startswith("/grpc.health."):
            return _REFUSAL
        handler = continuation(details)
        if handler is None:
            return None
        streams = handler.response_streaming
        make = grpc.stream_stream_rpc_method_handler if streams else grpc.stream_unary_rpc_method_handler
        return make(self._answering(handler), handler.request_deserializer, handler.response_serializer)

    def refuse(self, seconds: float) -> None:
        """Answer calls from now on with UNAVAILABLE; return when no more come, at the latest after `seconds`.

        Calls that come after gRPC has begun to shut down are CANCELLED, which says nothing to a client. UNAVAILABLE
        says that it may try again, here or elsewhere: the call hasn't begun.
        """
        self._refuses = True
        until = time.monotonic() + seconds
        while time.monotonic() < min(until, self._last + _QUIET_SECONDS):
            time.sleep(0.005)

    def close(self) -> None:
        """Stop looking after calls, when there are no more."""
        self._closed.set()
        self._threads.shutdown()

    def _answering(self, handler: Any) -> Callable[..., Any]:
        if handler.request_streaming:
            behavior = handler.stream_stream or handler.stream_unary

            @functools.wraps(behavior)
            def answer_all(requests: Iterator[Any], context: grpc.ServicerContext, *more: Any) -> Any:
                return behavior(self._arriving(requests, context), context, *more)

            return answer_all
        behavior = handler.unary_stream or handler.unary_unary

        @functools.wraps(behavior)
        def answer(requests: Iterator[Any], context: grpc.ServicerContext, *more: Any) -> Any:
            request = next(self._arriving(requests, context), None)
            if request is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "no message came; expected one")
            return behavior(request, context, *more)

        return answer

    def _arriving(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        while True:
            wait = _Wait(context, time.monotonic())
            with self._lock:
                self._waits[wait] = None
            try:
                request = next(requests, None)
            finally:
                with self._lock:
                    del self._waits[wait]
                if wait.helped:
                    self._threads.remove()
            if request is None:
                return
            yield request

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            now, overdue = time.monotonic(), []
            with self._lock:
                for wait in self._waits:
                    if now - wait.since < _STUCK_SECONDS:
                        break
                    wait.helped = wait.helped or self._threads.add()
                    if now - wait.since > self._seconds:
                        overdue.append(wait.context)
            for context in overdue:
                context.cancel()  # type: ignore[no-untyped-call]


def _refuse(_requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
    context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")


_REFUSAL = grpc.stream_unary_rpc_method_handler(_refuse)
