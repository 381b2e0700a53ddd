"""Ratio of two timings of the same run, with its noise.

A machine's speed drifts, so absolute times of two moments can't be compared. The n-th windows of all rows were
measured in turn, slice by slice, so drift hardly affects their ratio. If enough slices were undisturbed by other
programs, the ratio uses those only. The spread of the windows' ratios is the noise.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfship.benchmarks.analysis import formatting
from tfship.benchmarks.harness.timer import AGREEING, settled
from tfship.train.common import statistics as stats

__all__ = ["Ratio", "known", "p50", "ratio"]

# The memory layout of code and data changes a program's speed by this factor from one start to the next, however
# precise each measurement is (Mytkowicz et al., "Producing Wrong Data Without Doing Anything Obviously Wrong!", 2009).
_LAYOUT_NOISE = 1.03


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians over `rounds` rounds.

    `low` and `high` are the rounds' extremes, or with enough rounds the narrowest 95 % confidence interval.
    """

    value: float
    low: float
    high: float
    rounds: int

    @property
    def apart(self) -> bool:
        """Whether the timings differ: in all rounds, and by more than a program's memory layout explains."""
        return (self.low > 1 and self.value > _LAYOUT_NOISE) or (
            self.high < 1 and self.value < 1 / _LAYOUT_NOISE
        )

    @property
    def spread(self) -> float:
        """Difference between the highest and lowest round relative to the lowest; 0 if they agree."""
        return self.high / self.low - 1

    def text(self, of: str) -> str:
        """Return the ratio to the time of `of`, with its interval and number of rounds, for a sentence."""
        low, high = formatting.times(self.low), formatting.times(self.high)
        return f"{formatting.times(self.value)} times {of}'s time ({low}–{high} over {self.rounds} rounds)"


def p50(timing: Mapping[str, Any] | None) -> float | None:
    """Return the median of `timing` in microseconds, or None."""
    return timing["p50_us"] if timing and timing["p50_us"] else None


def known(timing: Mapping[str, Any] | None) -> bool:
    """Return whether `timing` is stable, at least in its undisturbed windows, so that its ratio is reliable."""
    return timing is not None and (
        timing["stable"] or settled(list(_windows(timing["windows_undisturbed_p50_us"]).values())) is not None
    )


def ratio(timing: Mapping[str, Any] | None, reference: Mapping[str, Any] | None) -> Ratio | None:
    """Return the ratio of `timing` to `reference`, two timings of a result file; None if one has no median.

    If both have at least AGREEING undisturbed windows, it is the ratio of the undisturbed medians; the interval is
    that of all pairs of undisturbed windows. Otherwise it is the median ratio of the rounds in which both were
    measured, from the first stable window of `timing`. Two rows that became stable at different times have no such
    rounds. Then all pairs of stable windows are used, and the interval includes drift.
    """
    if timing is None or reference is None or p50(timing) is None or p50(reference) is None:
        return None
    own, other = (_windows(each["windows_undisturbed_p50_us"]) for each in (timing, reference))
    if min(len(own), len(other)) >= AGREEING:
        pooled = timing["undisturbed_p50_us"] / reference["undisturbed_p50_us"]
        return _unpaired(list(own.values()), list(other.values()), pooled)
    own, other = _stable(timing), _windows(reference["windows_p50_us"])
    rounds = [own[number] / other[number] for number in sorted(own.keys() & other.keys())]
    if rounds:
        return _paired(rounds)
    own, other = _stable(timing), _stable(reference)
    return _unpaired(list(own.values()), list(other.values())) if own and other else None


def _windows(medians: Sequence[float | None]) -> dict[int, float]:
    """Return the existing medians by round."""
    return {number: median for number, median in enumerate(medians) if median}


def _stable(timing: Mapping[str, Any]) -> dict[int, float]:
    """Return the windows' medians by round, from the first stable window; all of them if there is none."""
    windows = _windows(timing["windows_p50_us"])
    return dict(list(windows.items())[settled(list(windows.values())) or 0 :])


def _paired(rounds: Sequence[float]) -> Ratio:
    """Return the ratio over `rounds`; the interval is that of the sign test."""
    return _ratio(rounds, len(rounds), stats.median_rank(len(rounds)))


def _unpaired(own: Sequence[float], other: Sequence[float], value: float | None = None) -> Ratio:
    """Return the ratio of windows of different rounds: `value`, or the Hodges-Lehmann estimate.

    The interval is that of the Mann-Whitney test in the normal approximation (Conover, "Practical Nonparametric
    Statistics").
    """
    quotients = [one / another for one in own for another in other]
    spread = math.sqrt(len(quotients) * (len(own) + len(other) + 1) / 12)
    rank = len(quotients) / 2 + statistics.NormalDist().inv_cdf(0.025) * spread
    return _ratio(quotients, min(len(own), len(other)), int(rank), value)


def _ratio(quotients: Sequence[float], rounds: int, rank: int, value: float | None = None) -> Ratio:
    """Return `value`, by default the median, with the `rank`-th lowest and highest quotient (0: the extremes)."""
    ordered = sorted(quotients)
    low, high = ordered[max(rank, 1) - 1], ordered[-max(rank, 1)]
    if value is None:
        # The median of logarithms, so that the ratio of exchanged timings is the inverse.
        value = math.exp(statistics.median(map(math.log, ordered)))
    return Ratio(min(max(value, low), high), low, high, rounds)
