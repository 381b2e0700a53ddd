"""Whether anything else slows the processor down: a short piece of work that is always the same is timed.

On a shared machine a core computes at one speed while its other thread rests and at another while a neighbour uses it,
in phases of milliseconds to minutes, and no counter of the system tells. Programs suffer from it differently, so even
the ratio of two of them depends on which phases a run meets.
"""

import math
import time
from collections.abc import Callable

__all__ = ["Processor"]

# A spin is the best of so many, as a timer's interrupt falls into every twentieth or so, of a sum of so many numbers:
# some 50 µs each.
_BEST_OF = 3
_NUMBERS = range(3_000)
# Times the fastest: a clock varies by less, a core whose other thread works is slower by more (here by 70 % and more).
_UNDISTURBED = 1.25


class Processor:
    """The processor as spins find it: how fast it has been, and how many seconds were `waited` for it to be so again.

    `clock` returns nanoseconds, and so does `spin`, of work that is always the same.
    """

    def __init__(
        self, clock: Callable[[], int] = time.perf_counter_ns, spin: Callable[[], int] | None = None
    ) -> None:
        self._clock = clock
        self._measured = self._sum if spin is None else spin
        self._fastest = math.inf
        self.waited = 0.0

    def spin(self) -> int:
        """Return how long a spin takes now, in nanoseconds."""
        took = self._measured()
        self.saw(took)
        return took

    def saw(self, spin: int) -> None:
        """Take note of a spin that was made before."""
        self._fastest = min(self._fastest, spin)

    def undisturbed(self, spin: int) -> bool:
        """Return whether a spin was about as fast as any that was made."""
        return spin <= _UNDISTURBED * self._fastest

    def wait(self, seconds: float) -> int:
        """Spin until nothing disturbs the processor, or so long; return the last spin, in nanoseconds."""
        start = self._clock()
        while not self.undisturbed(took := self.spin()):
            if (self._clock() - start) / 1e9 >= seconds:
                break
        self.waited += (self._clock() - start) / 1e9
        return took

    def _sum(self) -> int:
        def once() -> int:
            start = self._clock()
            sum(_NUMBERS)
            return self._clock() - start

        return min(once() for _ in range(_BEST_OF))
