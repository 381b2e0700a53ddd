"""Where requests run: short ones on the event loop, which takes no hand-off to another thread, others in threads."""

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, Protocol, TypeVar

from tfship.serving.inference.latency_estimate import LatencyEstimate
from tfship.serving.protos.status import Code, StatusError

__all__ = ["Dispatcher", "Place", "Waiting"]

# On the event loop, in threads, or wherever the estimated duration belongs.
Place = Literal["loop", "threads", "either"]

# The loop runs requests for this time at once; then it handles what has arrived in the meantime.
_TURN_SECONDS = 0.001


class _Result(Protocol):
    @property
    def is_ok(self) -> bool: ...


_R = TypeVar("_R", bound=_Result)


class Waiting:
    """A request that waits for a thread, or for its turn on the loop."""

    def __init__(self, dispatcher: "Dispatcher") -> None:
        self._dispatcher = dispatcher
        # Of a request that waits for a thread.
        self.future: Future[None] | None = None
        self.is_cancelled = self.has_begun = False

    def cancel(self) -> None:
        """Free the request's place, unless it has begun. Otherwise clients that cancel would fill all places."""
        if self.has_begun or self.is_cancelled or (self.future and not self.future.cancel()):
            return
        self.is_cancelled = True
        self._dispatcher.leave()


class Dispatcher:
    """Runs the requests of one port of the event loop. Its methods must be called by the loop's thread.

    With `measures` False, requests of the place "either" run in threads: with batching, a request waits for others.
    At most `limit` requests run or wait at a time (`check_room`).
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, threads: int, limit: int, *, measures: bool
    ) -> None:
        self._loop = loop
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limit = limit
        self._latency = LatencyEstimate() if measures else None
        self._running = 0
        # Requests for the loop that wait for its next turn, and the time at which this turn ends; 0: it is the last.
        self._ready: deque[Callable[[], None]] = deque()
        self._turn_ends = 0.0

    def check_room(self) -> None:
        """Raise StatusError(RESOURCE_EXHAUSTED) if no further request may run."""
        if self._running >= self._limit:
            raise StatusError(
                Code.RESOURCE_EXHAUSTED,
                f"{self._limit} requests are in flight, the limit; try again later",
            )

    def leave(self) -> None:
        """Count a waiting request as ended."""
        self._running -= 1

    def run(
        self, place: Place, key: Hashable, size: int, work: Callable[[], _R], done: Callable[[_R], None]
    ) -> Waiting | None:
        """Call `work` here or in a thread, and then `done` with its result, in the loop's thread.

        Returns a request that waits, None if it has ended. Neither may raise, and neither is called for a request that
        was cancelled while it waited. `key` and the `size` of a request in bytes determine how long it is expected to
        take, by the successful requests before it.
        """
        self._running += 1
        latency = self._latency
        if place == "loop" or (place == "either" and latency and latency.is_short(key, size)):
            now = time.monotonic()
            if not self._turn_ends:
                self._turn_ends = now + _TURN_SECONDS
                self._loop.call_soon(self._turn)
            if self._ready or now > self._turn_ends:
                waiting = Waiting(self)
                self._ready.append(functools.partial(self._run_waiting, waiting, key, size, work, done))
                return waiting
            self._run_here(key, size, work, done)
            return None

        def run() -> None:
            begin, cpu_begin = time.monotonic(), time.thread_time()
            result = work()
            # The processor's time, as threads wait for each other. A request that waits more than three times as long
            # as it works waits for something else, and counts with a quarter of its time.
            seconds = max(time.thread_time() - cpu_begin, (time.monotonic() - begin) / 4)
            if self._latency and place == "either" and result.is_ok:
                self._latency.note(key, size, seconds)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._complete, result, done)

        waiting = Waiting(self)
        try:
            waiting.future = self._threads.submit(run)
        except RuntimeError:
            self._running -= 1  # the server has closed
            return None
        return waiting

    def close(self) -> None:
        """Cancel the requests that wait for a thread; running ones finish."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run_waiting(
        self, waiting: Waiting, key: Hashable, size: int, work: Callable[[], _R], done: Callable[[_R], None]
    ) -> None:
        if not waiting.is_cancelled:
            waiting.has_begun = True
            self._run_here(key, size, work, done)

    def _run_here(self, key: Hashable, size: int, work: Callable[[], _R], done: Callable[[_R], None]) -> None:
        begin = time.monotonic()
        result = work()
        if self._latency and result.is_ok:
            self._latency.note(key, size, time.monotonic() - begin)
        self._complete(result, done)

    def _complete(self, result: _R, done: Callable[[_R], None]) -> None:
        self._running -= 1
        done(result)

    def _turn(self) -> None:
        """Begin the loop's next turn."""
        self._turn_ends = time.monotonic() + _TURN_SECONDS
        while self._ready and time.monotonic() < self._turn_ends:
            self._ready.popleft()()
        if self._ready:
            self._loop.call_soon(self._turn)
        else:
            self._turn_ends = 0.0
