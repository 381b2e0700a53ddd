"""Estimate of a request's duration, from earlier requests to the same path."""

import contextlib
import time
from collections.abc import Iterator

__all__ = ["LatencyEstimate"]

_SHORT_SECONDS = 0.005
# Smaller requests count as this size (bytes): below it, the size doesn't determine the duration.
_MIN_BYTES = 4096
# Clients choose the paths. Only paths of successful requests are remembered, at most this number.
_MAX_PATHS = 10_000


class LatencyEstimate:
    """Seconds per byte of each path's requests. Thread-safe."""

    def __init__(self) -> None:
        self._seconds_per_byte: dict[str, float] = {}

    def is_short(self, path: str, size: int) -> bool:
        """Return whether a request of `size` bytes to `path` is expected to take less than 5 ms."""
        known = self._seconds_per_byte.get(path)
        return known is not None and known * max(size, _MIN_BYTES) < _SHORT_SECONDS

    @contextlib.contextmanager
    def timed(self, path: str, size: int) -> Iterator[None]:
        """Measure a request of `size` bytes to `path` for the duration of the context. Ignores failed requests."""
        begin, cpu_begin = time.monotonic(), time.thread_time()
        yield
        # CPU time, as waiting for a core on a busy machine would be the same in every thread. A request that waits
        # more than three times as long as it works waits for something else, and counts with a quarter of its time.
        self._update(path, size, max(time.thread_time() - cpu_begin, (time.monotonic() - begin) / 4))

    def _update(self, path: str, size: int, seconds: float) -> None:
        measured, known = seconds / max(size, _MIN_BYTES), self._seconds_per_byte.get(path)
        if known is None and len(self._seconds_per_byte) >= _MAX_PATHS:
            self._seconds_per_byte.clear()
        # A longer time counts at once, a shorter one gradually.
        self._seconds_per_byte[path] = (
            measured if known is None else max(measured, known * 0.8 + measured * 0.2)
        )
