"""Estimate of a request's duration, from earlier requests of the same kind and about the same size."""

from collections.abc import Hashable

__all__ = ["LatencyEstimate"]

# A hand-off to another thread takes some 100 µs on a busy process.
_SHORT_SECONDS = 0.001
# Weight of the last request if it was faster than the estimate, or slower. Most slow ones had to wait for a processor.
_FASTER, _SLOWER = 0.5, 0.05
# A slower one counts as this: the estimate must be able to fall again soon.
_MOST_SECONDS = 0.05
# Clients choose the keys. Only this number of them is remembered.
_MAX_KEYS = 10_000


class LatencyEstimate:
    """Seconds of each kind of request, by powers of two of its size. Thread-safe."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[Hashable, int], float] = {}

    def is_short(self, key: Hashable, size: int) -> bool:
        """Return whether a request of `size` bytes is expected to take less than 1 ms. Unknown ones aren't short."""
        return self._seconds.get((key, size.bit_length()), _SHORT_SECONDS) < _SHORT_SECONDS

    def note(self, key: Hashable, size: int, seconds: float) -> None:
        """Take a request of `size` bytes that took `seconds` into account."""
        kind = (key, size.bit_length())
        known = self._seconds.get(kind)
        if known is None:
            if len(self._seconds) >= _MAX_KEYS:
                self._seconds.clear()
            self._seconds[kind] = seconds
        else:
            difference = min(seconds, _MOST_SECONDS) - known
            self._seconds[kind] = known + (_SLOWER if difference > 0 else _FASTER) * difference
