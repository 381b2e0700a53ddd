"""How one timing of a result file stands to another of the same run.

Machines drift, so microseconds of two moments can't be compared; but the n-th windows of all rows were measured in
turn, slice by slice, so their quotient hardly knows the drift. How far these quotients lie apart is the noise.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import words
from benchmarks.measure import AGREEING, settled

__all__ = ["Ratio", "p50", "ratio"]

# Where code and data happen to lie in memory moves a program's speed by this much from one start to the next, however
# exactly each is measured (Mytkowicz et al., "Producing Wrong Data Without Doing Anything Obviously Wrong!", 2009).
_ALIKE = 1.03


@dataclass(frozen=True)
class Ratio:
    """The median of the `rounds`' quotients of medians, which lie from `low` to `high`."""

    value: float
    low: float
    high: float
    rounds: int

    @property
    def apart(self) -> bool:
        """Whether the two can be told apart: by all rounds alike, and by more than chance does to a program."""
        return (self.low > 1 and self.value > _ALIKE) or (self.high < 1 and self.value < 1 / _ALIKE)

    @property
    def spread(self) -> float:
        """How far the rounds lie apart, as a share of the lowest: 0 if they agree."""
        return self.high / self.low - 1

    def text(self, of: str) -> str:
        """Return it as a sentence has it: how many times the time of `of`, and over which rounds."""
        low, high = words.times(self.low), words.times(self.high)
        return f"{words.times(self.value)} times {of}'s time ({low}–{high} over {self.rounds} rounds)"


def p50(timing: Mapping[str, Any] | None) -> float | None:
    """Return a timing's median in microseconds, None where there is none."""
    return timing["p50_us"] if timing and timing["p50_us"] else None


def ratio(timing: Mapping[str, Any] | None, reference: Mapping[str, Any] | None) -> Ratio | None:
    """Return how many times the `reference`'s time a timing is; both as result files hold them.

    None where one of them has no median. The rounds are those of the timing's windows that count, in which the
    reference was measured, too: a run's own is in all of them. Where there is none (two rows that settled at different
    times), all windows that count are held against each other, and drift is part of the span.
    """
    if timing is None or reference is None or p50(timing) is None or p50(reference) is None:
        return None
    here, there = _counted(timing), _windows(reference)
    both = here.keys() & there.keys()
    rounds = [here[number] / there[number] for number in sorted(both)]
    if not rounds:
        rounds = [one / other for one in here.values() for other in _counted(reference).values()]
    if not rounds:
        return None
    # Of logarithms, so that the inverse quotient's is the inverse.
    value = math.exp(statistics.median(map(math.log, rounds)))
    low, high = min(rounds), max(rounds)
    return Ratio(min(max(value, low), high), low, high, len(both) or min(len(here), len(there)))


def _windows(timing: Mapping[str, Any]) -> dict[int, float]:
    """Return the medians of all windows, by the round."""
    return {number: median for number, median in enumerate(timing["windows_p50_us"]) if median}


def _counted(timing: Mapping[str, Any]) -> dict[int, float]:
    """Return the medians of the windows that count, by the round."""
    first = settled(timing["windows_p50_us"]) if timing["stable"] else None
    windows = _windows(timing)
    if first is None:
        return windows
    return {number: median for number, median in windows.items() if first <= number < first + AGREEING}
