"""How long a request is going to take, guessed from those before it."""

import contextlib
import time
from collections.abc import Iterator

__all__ = ["Pace"]

_SHORT_SECONDS = 0.005
# Below so many bytes, a request's size says nothing about the time that it takes.
_SMALL = 4096
# Clients choose the paths; only answered ones are kept, and no more than this.
_MOST_PATHS = 10_000


class Pace:
    """Remembers for each path what its requests take, in seconds per byte. For any thread."""

    def __init__(self) -> None:
        self._seconds_per_byte: dict[str, float] = {}

    def is_short(self, path: str, size: int) -> bool:
        """Tell whether a request like this is expected to be done in a few milliseconds."""
        known = self._seconds_per_byte.get(path)
        return known is not None and known * max(size, _SMALL) < _SHORT_SECONDS

    @contextlib.contextmanager
    def timed(self, path: str, size: int) -> Iterator[None]:
        """Measure a request, which takes as long as the context. Of one that fails nothing is learned."""
        begin, worked = time.monotonic(), time.thread_time()
        yield
        # On a busy machine a thread mostly waits for its turn, as any other would have to; but one that waits much
        # longer than it works waits for something else.
        self._learn(path, size, max(time.thread_time() - worked, (time.monotonic() - begin) / 4))

    def _learn(self, path: str, size: int, seconds: float) -> None:
        found, known = seconds / max(size, _SMALL), self._seconds_per_byte.get(path)
        if known is None and len(self._seconds_per_byte) >= _MOST_PATHS:
            self._seconds_per_byte.clear()
        # A long time is believed at once, and a short one little by little.
        self._seconds_per_byte[path] = found if known is None else max(found, known * 0.8 + found * 0.2)
