"""Disturbances of the processor, detected by timing a short piece of constant work (a spin).

On a shared machine a core's speed depends on whether a neighbour uses its other hardware thread. This changes in phases
of milliseconds to minutes, and no counter of the system reports it. Programs suffer from it differently, so even the
ratio of two programs depends on the phases that a run meets.
"""

import math
import time
from collections.abc import Callable

__all__ = ["Processor"]

# Best of 3, to discard timer interrupts, which hit about every twentieth spin. A spin takes about 50 µs.
_BEST_OF = 3
_NUMBERS = range(3_000)
# Relative to the fastest spin. Clocks vary by less; a core whose other thread is busy is slower by more (here 70 %).
_UNDISTURBED = 1.25


class Processor:
    """The processor as measured by spins: the fastest spin so far, and the seconds `waited` for an undisturbed one.

    `clock` returns nanoseconds. `spin` does constant work and returns the nanoseconds that it took.
    """

    def __init__(
        self, clock: Callable[[], int] = time.perf_counter_ns, spin: Callable[[], int] | None = None
    ) -> None:
        self.clock = clock
        self._spin = self._sum if spin is None else spin
        self._fastest = math.inf
        self.waited = 0.0

    def spin(self) -> int:
        """Return the duration of one spin, in nanoseconds."""
        took = self._spin()
        self.record(took)
        return took

    def record(self, spin: int) -> None:
        """Take an earlier spin into account."""
        self._fastest = min(self._fastest, spin)

    def undisturbed(self, spin: int) -> bool:
        """Return whether a spin was about as fast as the fastest."""
        return spin <= _UNDISTURBED * self._fastest

    def wait(self, seconds: float) -> int:
        """Spin until the processor is undisturbed, at most `seconds`; return the last spin, in nanoseconds."""
        start = self.clock()
        while not self.undisturbed(took := self.spin()):
            if (self.clock() - start) / 1e9 >= seconds:
                break
        self.waited += (self.clock() - start) / 1e9
        return took

    def _sum(self) -> int:
        def once() -> int:
            start = self.clock()
            sum(_NUMBERS)
            return self.clock() - start

        return min(once() for _ in range(_BEST_OF))
