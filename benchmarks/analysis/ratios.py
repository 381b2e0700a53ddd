"""How one timing of a result file stands to another of the same run.

Machines drift, so microseconds of two moments can't be compared; but the n-th windows of all rows were measured in
turn, slice by slice, so their quotient hardly knows the drift; and where it can be told which slices nothing else on
the machine disturbed, it is theirs. How far these quotients lie apart is the noise.
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

# Where code and data happen to lie in memory moves a program's speed by this much from one start to the next, however
# exactly each is measured (Mytkowicz et al., "Producing Wrong Data Without Doing Anything Obviously Wrong!", 2009).
_ALIKE = 1.03


@dataclass(frozen=True)
class Ratio:
    """A quotient of medians over so many `rounds`.

    `low` and `high` are the rounds' extremes, or where they are many enough the narrowest that hold it with 95 %.
    """

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
        low, high = formatting.times(self.low), formatting.times(self.high)
        return f"{formatting.times(self.value)} times {of}'s time ({low}–{high} over {self.rounds} rounds)"


def p50(timing: Mapping[str, Any] | None) -> float | None:
    """Return a timing's median in microseconds, None where there is none."""
    return timing["p50_us"] if timing and timing["p50_us"] else None


def known(timing: Mapping[str, Any] | None) -> bool:
    """Return whether a timing settled, at least in what was undisturbed: its ratio can be trusted."""
    return timing is not None and (
        timing["stable"] or settled(list(_windows(timing["windows_undisturbed_p50_us"]).values())) is not None
    )


def ratio(timing: Mapping[str, Any] | None, reference: Mapping[str, Any] | None) -> Ratio | None:
    """Return how many times the `reference`'s time a timing is; both as result files hold them.

    None where one of them has no median. Where both were undisturbed in as many rounds as must agree, it is that of the
    medians of what was, and the span is of each round of one with each of the other. Else it is of the rounds in which
    both were measured, from where the timing is steady on; and where there is none (two rows that settled at different
    times), of all steady windows, and drift is part of the span.
    """
    if timing is None or reference is None or p50(timing) is None or p50(reference) is None:
        return None
    here, there = (_windows(each["windows_undisturbed_p50_us"]) for each in (timing, reference))
    if min(len(here), len(there)) >= AGREEING:
        pooled = timing["undisturbed_p50_us"] / reference["undisturbed_p50_us"]
        return _unpaired(list(here.values()), list(there.values()), pooled)
    here, there = _steady(timing), _windows(reference["windows_p50_us"])
    rounds = [here[number] / there[number] for number in sorted(here.keys() & there.keys())]
    if rounds:
        return _paired(rounds)
    here, there = _steady(timing), _steady(reference)
    return _unpaired(list(here.values()), list(there.values())) if here and there else None


def _windows(medians: Sequence[float | None]) -> dict[int, float]:
    """Return the medians that there are, by the round."""
    return {number: median for number, median in enumerate(medians) if median}


def _steady(timing: Mapping[str, Any]) -> dict[int, float]:
    """Return the windows' medians from the first that count on, by the round; all of them where they never settle."""
    windows = _windows(timing["windows_p50_us"])
    return dict(list(windows.items())[settled(list(windows.values())) or 0 :])


def _paired(rounds: Sequence[float]) -> Ratio:
    """Return the ratio of rounds' quotients; the sign test says which of them may be left out of the span."""
    return _ratio(rounds, len(rounds), stats.median_rank(len(rounds)))


def _unpaired(mine: Sequence[float], its: Sequence[float], value: float | None = None) -> Ratio:
    """Return the ratio of windows that don't belong together one by one: Hodges' and Lehmann's estimate, or `value`.

    The interval is Mann and Whitney's, in the normal approximation (Conover, "Practical Nonparametric Statistics").
    """
    quotients = [one / other for one in mine for other in its]
    spread = math.sqrt(len(quotients) * (len(mine) + len(its) + 1) / 12)
    rank = len(quotients) / 2 + statistics.NormalDist().inv_cdf(0.025) * spread
    return _ratio(quotients, min(len(mine), len(its)), int(rank), value)


def _ratio(quotients: Sequence[float], rounds: int, rank: int, value: float | None = None) -> Ratio:
    """Return the quotients' median, with the `rank`-th from below and from above; where that is 0, the extremes."""
    ordered = sorted(quotients)
    low, high = ordered[max(rank, 1) - 1], ordered[-max(rank, 1)]
    if value is None:
        # Of logarithms, so that the inverse quotient's is the inverse.
        value = math.exp(statistics.median(map(math.log, ordered)))
    return Ratio(min(max(value, low), high), low, high, rounds)
